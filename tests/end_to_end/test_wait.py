"""``wait``: for clients that poll, since something between them and the queue gives up early.

Times are a fifth of what they are in production: there a client asks with ``wait=20``, a
proxy gives up after 30 s, and a bucket grants every 5.5 s.
"""

import json
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
import trio
from harness import Program, running, running_server
from instants import LOGGED_WITHIN, dial, logged_at, opened_at
from proxies import NGINX, proxy
from raw import AT_ONCE, Answer, Client, connect, connect_http2, grant_of, waiting
from ways import on_one_server

from gateway_queue.queue.rules.heard import WINDOW

pytestmark = pytest.mark.usefixtures("way")

IMPATIENT_CLIENT = Path(__file__).parent / "bots" / "impatient_client.py"

WRONG = [
    *(f"wait={wait}" for wait in ("0", "-1", "nan", "inf", "1e9", "86401", "", "1_0", "%D9%A1")),
    "wait",
    "wait=1&wait=1",
    "confirm=maybe",
    "confirm=",
    "confirm=True&wait=1",
    "confirm=true&confirm=true",
]

WAIT = 4.0
PROXY_GIVES_UP_AFTER = 6.0
INTERVAL = 1.6
LONG = 300.0  # seconds of an interval whose end no test waits for

with_nginx = pytest.mark.skipif(NGINX.path is None, reason="nginx is not installed")
IMPATIENT_NGINX = f"""
    server {{
        listen 80;
        location / {{
            proxy_pass http://127.0.0.1:8000;
            proxy_read_timeout {PROXY_GIVES_UP_AFTER * 1000:.0f}ms;
        }}
    }}
"""


async def poll(client: Client, shard: int, wait: float) -> list[Answer]:
    """Ask until granted; what was answered before."""
    refusals: list[Answer] = []
    while True:
        await client.send(f"GET /?shard={shard}&wait={wait} HTTP/1.1", "Host: queue")
        answer = await client.answer()
        if answer.status == 200:
            assert answer.is_grant
            return refusals
        assert answer.status == 202
        assert answer.headers["content-type"] == "application/json"
        assert (answer.headers["retry-after"], answer.headers["x-retry-after-ms"]) == ("0", "1")
        refusals.append(answer)


def client_of(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=None)  # noqa: S113


# Through a proxy: on one server, as replicas are later by what Redis and messages take.


@on_one_server
@with_nginx
async def test_through_a_proxy_a_client_that_polls_gets_in_when_one_that_holds_would(
    tmp_path: Path,
) -> None:
    """Even shards hold directly, odd ones poll through nginx: two buckets with equal starts."""
    polls: list[int] = []

    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=INTERVAL, GATEWAY_QUEUE_MAX_CONCURRENCY=2) as server,
        proxy(NGINX, IMPATIENT_NGINX, server.url, tmp_path) as proxy_url,
    ):

        async def ask_again_and_again(shard: int) -> None:
            async with await dial(proxy_url) as transport:
                polls.append(len(await poll(Client(transport), shard, WAIT)) + 1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(grant_of, server, 0)
            nursery.start_soon(grant_of, server, 1)
        # From here on both buckets open every 1.6 s. Who asks 0.4 s after an opening, and again
        # each 4 s, is never away when its turn comes; see ``test_seats`` for those who are.
        await trio.sleep(INTERVAL / 4)
        async with trio.open_nursery() as nursery:
            for shard in range(2, 14, 2):
                nursery.start_soon(grant_of, server, shard)
                await server.logged("identify_queued", shard=shard)
                nursery.start_soon(ask_again_and_again, shard + 1)
                await server.logged("identify_queued", shard=shard + 1)
        granted = await server.logged_times(14, "identify_granted")

    granted_at = {line["shard"]: logged_at(line) for line in granted}
    apart = [granted_at[shard + 1] - granted_at[shard] for shard in range(2, 14, 2)]
    assert max(map(abs, apart)) < LOGGED_WITHIN, apart
    assert max(polls) > 2


@on_one_server
@with_nginx
async def test_a_held_client_gets_a_timeout_from_that_proxy(tmp_path: Path) -> None:
    """And if it is an old one, which takes any answer for a grant, it identifies now."""
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=LONG) as server,
        proxy(NGINX, IMPATIENT_NGINX, server.url, tmp_path) as proxy_url,
        client_of(proxy_url) as client,
    ):
        answer = await client.get("/?shard=0")
        assert answer.status_code == 504
        left = await server.logged("identify_left", shard=0)
        assert left["waited"] == pytest.approx(PROXY_GIVES_UP_AFTER, abs=0.5)
        told = await client.get(f"/?shard=0&wait={WAIT}")
        assert (told.status_code, told.json()["position"]) == (202, 1)


# What it is told


async def test_a_202_has_the_position_and_the_expected_time() -> None:
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=INTERVAL) as server,
        connect(server) as client,
        AsyncExitStack() as clients,
    ):
        for shard in range(3):
            await clients.enter_async_context(waiting(server, shard))
        refusals = await poll(client, 3, wait=0.37)
        granted = await server.logged("identify_granted", shard=3)
        before = await server.logged_times(3, "identify_granted")

    tells = [json.loads(answer.body) for answer in refusals]
    positions = [told["position"] for told in tells]
    assert {*positions} == {1, 2, 3, 4}
    assert positions == sorted(positions, reverse=True)
    assert {told["reason"] for told in tells} == {"interval"}
    expected_at = [a.at + told["expected_in"] for a, told in zip(refusals, tells, strict=True)]
    errors = [at - opened_at(granted) for at in expected_at]
    # They name one instant, which moves by as much as those before it are granted late; the line
    # that tells whether it was the right one may be written late.
    moved = sum(line["late"] for line in before)
    assert max(errors) - min(errors) < LOGGED_WITHIN + moved, errors
    assert max(map(abs, errors)) < INTERVAL / 4 + moved, errors


async def test_at_shutdown_clients_that_set_wait_are_answered_at_once_and_the_others_are_not() -> (
    None
):
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=LONG, GATEWAY_QUEUE_SHUTDOWN_GRACE=1) as server,
        connect(server) as patient,
        waiting(server, 2) as other,
    ):
        await patient.send("GET /?shard=1&wait=3600 HTTP/1.1", "Host: queue")
        await server.logged("identify_queued", shard=1)
        server.process.terminate()
        answer = await patient.answer()
        ending = await server.logged("ending")
        assert answer.at - logged_at(ending) < AT_ONCE
        assert answer.status == 202
        assert json.loads(answer.body)["reason"] == "ending"
        assert (answer.headers["retry-after"], answer.headers["x-retry-after-ms"]) == ("0", "1")
        assert await server.ended() == 0
        assert await other.rest() == b""


# At nobody's cost


async def test_a_client_told_to_ask_again_is_not_granted_at_the_same_time() -> None:
    """The waits end just as the bucket opens, a little before or after."""
    interval = 0.1
    heard = 0
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=interval, GATEWAY_QUEUE_CRASH_LOOP="off") as server,
        connect(server) as client,
    ):
        for number in range(40):
            wait = interval - 0.002 + number % 20 / 10_000
            await client.send(f"GET /?shard=0&wait={wait:.4f} HTTP/1.1", "Host: queue")
            heard += (await client.answer()).status == 200
        assert await server.stop() == 0
    assert 0 < heard == len(server.logged_so_far("identify_granted"))


async def test_a_client_that_does_not_take_its_refusal_delays_no_other(way: str) -> None:
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=INTERVAL) as server,
        connect_http2(server, window=0) as stuck,
        connect(server) as other,
    ):
        await stuck.answer_begun(await stuck.ask("/?shard=0&wait=0.1"))
        await other.ask(1)
        assert (await other.answer()).is_grant
        granted = await server.logged("identify_granted", shard=1)
        listening = await server.logged("listening")
        # The first grant comes after two intervals, and with replicas the window.
        first = 2 * INTERVAL + (WINDOW if way == "at a replica" else 0)
        assert logged_at(granted) - logged_at(listening) < first + AT_ONCE
        assert not server.logged_so_far("identify_granted", shard=0)


async def test_what_cannot_be_meant_is_refused() -> None:
    async with running_server() as server, client_of(server.url) as client:
        for query in WRONG:
            answer = await client.get(f"/?shard=1&{query}")
            problem = answer.json()
            assert (query, answer.status_code, problem["status"]) == (query, 400, 400)
            assert answer.headers["content-type"] == "application/problem+json"
            assert query.partition("=")[0] in problem["detail"]
        assert await server.stop() == 0
    assert not server.logged_so_far("identify_queued")


@on_one_server
@pytest.mark.alone
async def test_a_client_that_asks_a_thousand_times_a_second_costs_others_nothing() -> None:
    crowd = range(60)
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=0.2, GATEWAY_QUEUE_MAX_CONCURRENCY=2) as server,
        AsyncExitStack() as clients,
    ):
        for shard in crowd:
            await clients.enter_async_context(waiting(server, shard))
        await ask_a_thousand_times_a_second(server, shard=len(crowd), seconds=1)
        memory, before = resident(server), len(server.logged_so_far("identify_granted"))
        asked = await ask_a_thousand_times_a_second(server, shard=len(crowd), seconds=3)
        grown, granted = (
            resident(server) - memory,
            server.logged_so_far("identify_granted")[before:],
        )

    late = sorted(line["late"] for line in granted)
    middle, most = late[len(late) // 2], late[-1]
    sys.stdout.write(
        f"asked {asked} times: {len(granted)} grants, late by {middle:.4f} s, at most by"
        f" {most:.4f} s; {grown} KiB more\n"
    )
    assert asked > 300
    assert len(granted) > 10  # 30 on an idle machine
    assert middle < 0.02
    assert most < 0.2
    assert grown < asked  # nobody leaves a KiB behind


async def ask_a_thousand_times_a_second(server: Program, *, shard: int, seconds: float) -> int:
    """How often it was, really."""
    async with running(
        sys.executable,
        str(IMPATIENT_CLIENT),
        f"--queue={server.url}",
        f"--shard={shard}",
        f"--seconds={seconds}",
    ) as client:
        return int((await client.logged("asked"))["times"])


def resident(server: Program) -> int:
    """KiB in memory."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split(maxsplit=1)[0])
