"""A replica that was stopped as it answered sends nothing of the answer once that is too late.

The other replicas wait for as long as it may send it, and no longer.
"""

import signal
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
import trio
from background import background
from encrypted import Identity, connected, connected_http2
from engines import INSTALLED, Server, servers
from harness import Program
from raw import tampered_server
from steps import SEND, SEND_NOW, SEND_STREAM, SEND_TLS

from gateway_queue.queue.rules.heard import WINDOW

pytestmark = pytest.mark.skipif(not INSTALLED, reason="neither Redis nor Valkey is installed")

INTERVAL = 0.2
SECONDS = WINDOW + 0.3  # of a stop

# When to stop, on each way.
STOPS = {
    # Between two parts of an answer.
    "short way, in parts": [f"after {SEND_NOW} 1", f"before {SEND} 1", f"after {SEND_NOW} 3"],
    "short way, TLS": [f"before {SEND_TLS} 1", f"before {SEND} 1"],
    # Before its head, and between its head and its body.
    "through Hypercorn": [f"before {SEND} 1", f"after {SEND} 1"],
    "through Hypercorn, TLS": [f"before {SEND_TLS} 1", f"before {SEND} 1", f"after {SEND} 1"],
    "HTTP/2": [f"before {SEND_STREAM} 1", f"before {SEND} 1"],
    "HTTP/2, TLS": [f"before {SEND_TLS} 1", f"before {SEND} 1"],
}
CHANGES = {
    "short way, in parts": ",sockets_take_little",
    "through Hypercorn": ",short_way_is_closed",
    "through Hypercorn, TLS": ",short_way_is_closed",
}


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Server]:
    with servers(tmp_path) as make:
        yield make(INSTALLED[-1])


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    return Identity.new(tmp_path)


@pytest.mark.parametrize("way", STOPS)
async def test_what_would_be_late_does_not_go_out(
    way: str, engine: Server, identity: Identity
) -> None:
    await engine.start()
    settings: dict[str, object] = {
        "STOPS": ",".join(STOPS[way]),
        "GATEWAY_QUEUE_JOURNAL": None,
        "GATEWAY_QUEUE_REDIS": engine.url,
        "GATEWAY_QUEUE_INTERVAL": INTERVAL,
        **(identity.settings if "TLS" in way else {}),
    }
    async with tampered_server("stops_itself" + CHANGES.get(way, ""), **settings) as server:
        await server.logged("leading")
        for number, stop in enumerate(STOPS[way], start=1):
            received_at, went_on_at = await last_received(server, number, way, identity)
            assert received_at < went_on_at, (way, stop)
        async with connected(server, identity) as client:
            await client.ask(0)
            assert (await client.answer()).is_grant


async def last_received(
    server: Program, stop: int, way: str, identity: Identity
) -> tuple[float, float]:
    """When a client received the last of its answer, and when the server went on."""
    went_on_at = 0.0

    async def go_on() -> None:
        nonlocal went_on_at
        await server.logged_times(stop, "stopping")
        await trio.sleep(SECONDS)
        went_on_at = time.time()
        server.process.send_signal(signal.SIGCONT)

    async with AsyncExitStack() as stack, background() as nursery:
        nursery.start_soon(go_on)
        if "HTTP/2" not in way:
            client = await stack.enter_async_context(connected(server, identity))
            await client.ask(0)
            with suppress(trio.BrokenResourceError):  # an RST
                await client.rest()
            return client.transport.at, went_on_at
        http2 = await stack.enter_async_context(connected_http2(server, identity))
        stream = await http2.ask("/?shard=0")
        with suppress(trio.BrokenResourceError):
            while stream not in http2.resets and await http2.hear():
                pass
        # The frame that ends a stream may be late.
        return (went_on_at if http2.has_begun(stream) else 0.0), went_on_at
