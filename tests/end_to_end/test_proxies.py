"""The configurations of docs/proxies.md, with whichever of these proxies is installed."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio
from background import background
from harness import running_server
from patience import PATIENCE
from proxies import CADDY, ENVOY, HAPROXY, NGINX, proxy, snippet
from raw import left_at_once
from shards import GRANT

HEADINGS = {
    "nginx": NGINX,
    "HAProxy": HAPROXY,
    "Caddy": CADDY,
    "Envoy, passing bytes": ENVOY,
    "Envoy, HTTP": ENVOY,
}
ANSWERS_BY_ITSELF = {"Envoy, HTTP": 503}

LONG = 60  # seconds of an interval whose end no test waits for
LONGER = 310  # seconds; the longest that any of them has unless told otherwise is 300

each_proxy = pytest.mark.parametrize(
    "heading",
    [
        pytest.param(
            heading,
            marks=pytest.mark.skipif(kind.path is None, reason=f"{kind.program} is not installed"),
        )
        for heading, kind in HEADINGS.items()
    ],
)


@asynccontextmanager
async def through(heading: str, queue: str, folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the queue at this address, by way of that proxy."""
    kind = HEADINGS[heading]
    folder = folder / heading
    folder.mkdir()
    async with (
        proxy(kind, snippet(heading), queue, folder) as url,
        httpx.AsyncClient(base_url=url, timeout=None) as client,  # noqa: S113
    ):
        yield client


@each_proxy
async def test_turns_pass(heading: str, tmp_path: Path) -> None:
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=1) as server,
        through(heading, server.url, tmp_path) as client,
    ):
        told = await client.get("/", params={"shard": 0, "wait": 0.1})
        assert (told.status_code, told.json()["position"]) == (202, 1)
        granted = await client.get("/", params={"shard": 0})
        assert (granted.status_code, granted.json()) == (200, GRANT)


@each_proxy
async def test_what_the_server_refuses_passes(heading: str, tmp_path: Path) -> None:
    unknown_limits = {"DISCORD_TOKEN": "a.b.c", "GATEWAY_QUEUE_DISCORD_API": "http://127.0.0.1:9"}
    async with (
        running_server(**unknown_limits) as server,
        through(heading, server.url, tmp_path) as client,
    ):
        for path, status in {"/?shard=nonsense": 400, "/favicon.ico": 404, "/readyz": 503}.items():
            answer = await client.get(path)
            assert answer.status_code == answer.json()["status"] == status


@each_proxy
async def test_whoever_leaves_is_seen_at_once(heading: str, tmp_path: Path) -> None:
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=LONG) as server,
        through(heading, server.url, tmp_path) as client,
    ):
        async with background() as nursery:
            nursery.start_soon(client.get, "/?shard=1")
            await server.logged("identify_queued", shard=1)
            since = time.time()
        await left_at_once(server, 1, since=since)


@each_proxy
async def test_while_the_server_is_down_nothing_is_answered(heading: str, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(running_server(GATEWAY_QUEUE_INTERVAL=LONG))
        client = await stack.enter_async_context(through(heading, server.url, tmp_path))
        outcomes: list[int | None] = []

        async def ask(shard: int) -> None:
            try:
                outcomes.append((await client.get("/", params={"shard": shard})).status_code)
            except httpx.TransportError:
                outcomes.append(None)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, 1)
            await server.logged("identify_queued", shard=1)
            await server.kill()
            nursery.cancel_scope.deadline = trio.current_time() + PATIENCE
        with trio.move_on_after(PATIENCE):
            await ask(2)
    assert outcomes == 2 * [ANSWERS_BY_ITSELF.get(heading)]


@pytest.mark.slow
async def test_requests_are_held_for_longer_than_proxies_like(tmp_path: Path) -> None:
    headings = [heading for heading, kind in HEADINGS.items() if kind.path is not None]
    settings = {"GATEWAY_QUEUE_INTERVAL": LONGER, "GATEWAY_QUEUE_MAX_CONCURRENCY": len(headings)}
    async with running_server(**settings) as server, AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(through(heading, server.url, tmp_path))
            for heading in headings
        ]

        async def ask(shard: int) -> None:
            answer = await clients[shard].get("/", params={"shard": shard})
            assert (answer.status_code, answer.json()) == (200, GRANT), headings[shard]
            assert answer.elapsed.total_seconds() > LONGER - 10

        async with trio.open_nursery() as nursery:
            for shard in range(len(clients)):
                nursery.start_soon(ask, shard)
