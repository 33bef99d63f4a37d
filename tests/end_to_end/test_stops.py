"""The process is stopped for longer than a client may take for its answer, and goes on.

That is what a pause of the machine, a frozen container or a disk that hangs is to a client.
"""

import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from itertools import count

import httpx
import pytest
import trio
from background import background
from encrypted import Identity, connected, connected_http2, encrypt
from harness import Program, running_server
from instants import StampedStream
from raw import Answer, Client, connect_http2, tampered_server
from steps import RECORD, SEND, SEND_NOW, SEND_TLS

INTERVAL = 0.2
SECONDS = 0.6  # of a stop; a client of these servers has 0.3 to take its answer
LONG = 6.0  # seconds of a stop where a client has 5
LATER = 0.5  # seconds after it, in which the client goes on as well
STUCK = 1.5  # seconds, in which a server asks and answers hundreds of times

# When to stop, on each way.
STOPS = {
    # The bucket writes the answer.
    "short way": [f"before {RECORD} 1", f"after {RECORD} 1", f"after {SEND_NOW} 1"],
    # It writes a part, and the connection's task the others.
    "short way, in parts": [
        *(f"after {SEND_NOW} 1", f"before {SEND} 1", f"after {SEND_NOW} 3", f"after {SEND} 1"),
    ],
    "short way, TLS": [
        *(f"after {RECORD} 1", f"before {SEND_TLS} 1", f"before {SEND} 1"),
        *(f"after {SEND} 1", f"after {SEND_TLS} 1"),
    ],
    "through Hypercorn": [
        *(f"after {RECORD} 1", f"before {SEND} 1", f"after {SEND} 1", f"after {SEND} 2"),
    ],
    "through Hypercorn, TLS": [f"before {SEND_TLS} 1", f"after {SEND_TLS} 1"],
    "HTTP/2": [f"after {RECORD} 1", f"before {SEND} 1", f"after {SEND} 1"],
    "HTTP/2, TLS": [f"before {SEND_TLS} 1", f"after {SEND_TLS} 1"],
}
CHANGES = {
    "short way, in parts": ["sockets_take_little"],
    "through Hypercorn": ["short_way_is_closed"],
    "through Hypercorn, TLS": ["short_way_is_closed"],
}


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return Identity.new(tmp_path_factory.mktemp("identity"))


def server_on(
    way: str, identity: Identity, *changes: str, **settings: object
) -> AbstractAsyncContextManager[Program]:
    """Our server, as this way wants it, and with these changes of the tampered one."""
    changes = (*changes, *CHANGES.get(way, ()))
    if "TLS" in way:
        settings |= identity.settings
    if changes:
        return tampered_server(",".join(changes), **settings)
    return running_server(**settings)


# Between two steps


async def test_stopping_between_two_steps_of_an_answer_loses_no_turn(
    identity: Identity,
) -> None:
    """The ways side by side, as these servers mostly stand still."""
    async with trio.open_nursery() as nursery:
        for way, stops in STOPS.items():
            nursery.start_soon(stopped_in_each_answer, stops, way, identity)


async def stopped_in_each_answer(stops: list[str], way: str, identity: Identity) -> None:
    changes = "stops_itself", "answers_must_be_taken_soon"
    settings = {"STOPS": ",".join(stops), "GATEWAY_QUEUE_INTERVAL": INTERVAL}
    async with (
        server_on(way, identity, *changes, **settings) as server,
        AsyncExitStack() as clients,
        background() as nursery,
    ):
        nursery.start_soon(go_on_after_each_stop, server, len(stops))
        shards = range(len(stops) + 1)
        answers = [
            await clients.enter_async_context(asking(server, shard, way, identity))
            for shard in shards
        ]
        for stop, answer in zip([*stops, "no stop"], answers, strict=True):
            assert (await answer()).is_grant, (way, stop)
        await server.logged("identify_granted", shard=shards[-1])
        granted = [line["shard"] for line in server.logged_so_far("identify_granted")]
        assert granted == [*shards], way
        assert len(server.logged_so_far("stopping")) == len(stops), way
        assert not server.logged_so_far("answer_not_taken"), way


async def go_on_after_each_stop(server: Program, stops: int) -> None:
    for number in range(1, stops + 1):
        await server.logged_times(number, "stopping")
        await trio.sleep(SECONDS)
        server.process.send_signal(signal.SIGCONT)


@asynccontextmanager
async def asking(
    server: Program, shard: int, way: str, identity: Identity
) -> AsyncIterator[Callable[[], Awaitable[Answer]]]:
    """A client that the server knows to wait for its turn, and which reads its answer."""
    async with AsyncExitStack() as stack:
        if "HTTP/2" in way:
            http2 = await stack.enter_async_context(connected_http2(server, identity))
            stream = await http2.ask(f"/?shard={shard}")

            async def answer() -> Answer:
                return (await http2.answers([stream]))[0]
        else:
            client = await stack.enter_async_context(connected(server, identity))
            await client.ask(shard)
            answer = client.answer
        await server.logged("identify_queued", shard=shard)
        yield answer


# With full buffers


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have larger buffers")
async def test_a_stop_is_not_the_time_of_a_client_that_stood_still_as_well(
    identity: Identity,
) -> None:
    """As where both are on the machine that was stopped."""
    async with trio.open_nursery() as nursery:
        for way in ("short way", "short way, TLS", "through Hypercorn"):
            nursery.start_soon(both_stopped_before_the_end_of_an_answer, way, identity)
        nursery.start_soon(both_stopped_before_the_end_of_a_stream)


async def both_stopped_before_the_end_of_an_answer(way: str, identity: Identity) -> None:
    changes = ("sockets_have_small_buffers",)
    async with (
        server_on(way, identity, *changes, GATEWAY_QUEUE_INTERVAL=0.02) as server,
        small_client(server, identity) as client,
    ):
        asked = await ask_until_no_buffer_takes_more(server, client)
        server.process.send_signal(signal.SIGSTOP)
        await trio.sleep(LONG)
        server.process.send_signal(signal.SIGCONT)
        await trio.sleep(LATER)
        for shard in range(asked):
            assert (await client.answer()).is_grant, (way, shard)
        await server.logged("identify_granted", shard=asked - 1)
        assert not server.logged_so_far("answer_not_taken"), way


async def both_stopped_before_the_end_of_a_stream() -> None:
    """Of HTTP/2, where the client has said that it takes no body for now."""
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=INTERVAL) as server,
        connect_http2(server, window=0) as client,
    ):
        stream = await client.ask("/?shard=0")
        await client.answer_begun(stream)
        server.process.send_signal(signal.SIGSTOP)
        await trio.sleep(LONG)
        server.process.send_signal(signal.SIGCONT)
        await trio.sleep(LATER)
        client.protocol.increment_flow_control_window(1_000, stream)
        await client.flush()
        [answer] = await client.answers([stream])
        assert answer.is_grant
        assert not server.logged_so_far("answer_not_taken")


@asynccontextmanager
async def small_client(server: Program, identity: Identity) -> AsyncIterator[Client]:
    """A client that takes in as little as the system lets it."""
    url = httpx.URL(server.url)
    sock = trio.socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    await sock.connect((url.host, url.port))
    async with StampedStream(trio.SocketStream(sock)) as stream:
        if url.scheme == "http":
            yield Client(stream)
        else:
            yield Client(stream, await encrypt(stream, identity.trust()))


async def ask_until_no_buffer_takes_more(server: Program, client: Client) -> int:
    """How often that was. None of the answers is read."""
    for shard in count():
        await client.ask(shard)
        with trio.move_on_after(STUCK):
            await server.logged("identify_queued", shard=shard)
            continue
        return shard + 1
    raise AssertionError


# Leaving


@pytest.mark.parametrize("way", ["short way", "short way, TLS", "through Hypercorn"])
async def test_a_client_that_asked_and_left_during_a_stop_is_not_granted_or_answered(
    way: str, identity: Identity
) -> None:
    """They ask an open bucket, which grants at once, and go on reading."""
    async with (
        server_on(way, identity, GATEWAY_QUEUE_INTERVAL=INTERVAL) as server,
        AsyncExitStack() as clients,
    ):
        crowd = [await clients.enter_async_context(connected(server, identity)) for _ in range(10)]
        async with asking(server, 0, way, identity) as answer:
            assert (await answer()).is_grant
        await trio.sleep(2 * INTERVAL)
        server.process.send_signal(signal.SIGSTOP)
        for shard, client in enumerate(crowd, start=1):
            await client.ask(shard)
            await client.transport.send_eof()
        server.process.send_signal(signal.SIGCONT)
        for client in crowd:
            with suppress(trio.BrokenResourceError):  # an RST
                await client.rest()
            assert client.read_too_far() == b""
        await server.logged("identify_left", shard=len(crowd))
        granted = [line["shard"] for line in server.logged_so_far("identify_granted")]
        assert granted == [0]
        assert not server.logged_so_far("connection_failed")
