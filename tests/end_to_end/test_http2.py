"""HTTP/2: many requests wait on one connection, and none of them harms another."""

import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from pathlib import Path

import encrypted
import pytest
import raw
import trio
import trio.lowlevel
from background import background
from encrypted import Identity
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated
from harness import Program, running_server
from hyperframe.frame import DataFrame, HeadersFrame, PingFrame
from raw import (
    AT_ONCE,
    Client,
    HTTP2Client,
    connect,
    connect_http2,
    tampered_server,
    waiting,
)

from gateway_queue.http.http2 import MOST_RESETS
from gateway_queue.http.streams import STREAMS_PER_CONNECTION

GOES_ON = 60  # seconds of an interval in which nothing is granted
LINUX = pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="reads Linux's /proc")

Header = tuple[bytes, bytes]
REQUEST: list[Header] = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":authority", b"queue"),
    (b":path", b"/?shard=1"),
]


async def send_headers(client: HTTP2Client, headers: list[Header], *, whole: bool = True) -> int:
    number = client.protocol.get_next_available_stream_id()
    client.protocol.send_headers(number, headers, end_stream=whole)
    await client.flush()
    return number


def changed(**pseudo_headers: bytes | None) -> list[Header]:
    """A request with other pseudo-headers; None takes one away."""
    headers = {name.decode().removeprefix(":"): value for name, value in REQUEST} | pseudo_headers
    return [(f":{name}".encode(), value) for name, value in headers.items() if value is not None]


# One stream's mistakes

MALFORMED = {
    "path beyond ASCII": changed(path=b"/\xff"),
    "no path": changed(path=None),
    "empty path": changed(path=b""),
    "method beyond ASCII": changed(method=b"G\xffT"),
    "no method": changed(method=None),
    "CONNECT": changed(method=b"CONNECT", path=None, scheme=None),
    "CONNECT with a path": changed(method=b"CONNECT"),
    "WebSocket": [
        *changed(method=b"CONNECT", protocol=b"websocket"),
        (b"sec-websocket-version", b"13"),
    ],
    "unknown pseudo-header": changed(odd=b"1"),
    "no host": changed(authority=None),
    "two hosts": [*REQUEST, (b"host", b"queue"), (b"host", b"other")],
    "capital letters": [*REQUEST, (b"X-Odd", b"1")],
    "empty name": [*REQUEST, (b"", b"1")],
    "NUL": [*REQUEST, (b"x", b"a\0b")],
    "Connection": [*REQUEST, (b"connection", b"close")],
    "content length": [*REQUEST, (b"content-length", b"x")],
}


async def test_a_malformed_request_ends_its_stream_and_no_other() -> None:
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=2) as server,
        connect_http2(server) as client,
    ):
        waits = await client.ask("/?shard=2")
        for name, headers in MALFORMED.items():
            stream = await send_headers(client, headers)
            assert await client.reset_of(stream) == ErrorCodes.PROTOCOL_ERROR, name
        [answer] = await client.answers([waits])
        assert answer.is_grant
        assert server.logged_so_far("identify_queued", shard=1) == []
        assert troubles(server) == []


BODIES = {"too long": (5, b"123456", False), "too short": (5, b"1234", True)}


@pytest.mark.parametrize("path", ["/?shard=1", "/healthz"])
async def test_a_body_of_another_length_ends_its_stream_and_no_other(path: str) -> None:
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=1) as server,
        connect_http2(server) as client,
    ):
        waits = await client.ask("/?shard=2")
        for name, (length, body, whole) in BODIES.items():
            headers = [*changed(path=path.encode()), (b"content-length", b"%d" % length)]
            stream = client.protocol.get_next_available_stream_id()
            client.protocol.send_headers(stream, headers)
            client.protocol.send_data(stream, body, end_stream=whole)
            await client.flush()  # at once, or a page is answered before the body has come
            assert await client.reset_of(stream) == ErrorCodes.PROTOCOL_ERROR, name
        [answer] = await client.answers([waits])
        assert answer.is_grant


async def test_frames_for_an_ended_stream_do_not_affect_others() -> None:
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=1) as server,
        connect_http2(server) as client,
    ):
        waits = await client.ask("/?shard=2")
        done, left = await client.ask("/healthz"), await client.ask("/?shard=3")
        await client.answers([done])
        client.protocol.reset_stream(left)
        await client.flush()
        for stream in (done, left, waits):
            await client.stream.send_all(DataFrame(stream, data=b"late").serialize())
            client.protocol.prioritize(stream)
        assert await client.reset_of(waits) == ErrorCodes.STREAM_CLOSED
        other = await client.ask("/?shard=4")
        [answer] = await client.answers([other])
        assert answer.is_grant


async def test_a_body_after_the_answer_is_dropped_and_the_connection_stays_open() -> None:
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=0.3) as server,
        connect_http2(server) as client,
    ):
        waits = await client.ask("/?shard=1")
        answered = await client.ask("/healthz", "POST", whole=False)
        await client.answers([answered])
        client.protocol.send_data(answered, b"more")
        await client.flush()
        assert [answer.is_grant for answer in await client.answers([waits])] == [True]
        assert not server.logged_so_far("connection_failed")


async def test_a_body_that_nobody_reads_delays_no_other() -> None:
    async with (
        tampered_server("answers_must_be_taken_late", GATEWAY_QUEUE_INTERVAL=0.2) as server,
        connect_http2(server, window=0) as client,
    ):
        stuck = await client.ask("/?shard=1", "POST", whole=False)
        await server.logged("identify_granted", shard=1)
        for _ in range(100):
            client.protocol.send_data(stuck, b"more")
        page = await client.ask("/healthz")
        client.protocol.increment_flow_control_window(1_000, page)
        await client.flush()
        [answer] = await client.answers([page])
        assert answer.status == 200
        client.protocol.reset_stream(stuck)
        waits = await client.ask("/?shard=2")
        client.protocol.increment_flow_control_window(1_000, waits)
        await client.flush()
        [answer] = await client.answers([waits])
        assert answer.is_grant


async def test_many_priorities_change_nothing() -> None:
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=0.5) as server,
        connect_http2(server) as client,
    ):
        waits = await client.ask("/?shard=1")
        for number in range(1, 5 * STREAMS_PER_CONNECTION, 2):
            client.protocol.prioritize(number)
        await client.flush()
        [answer] = await client.answers([waits])
        assert answer.is_grant


async def test_errors_in_the_connection_state_only_end_that_connection() -> None:
    headers = HeadersFrame(1, data=b"\xff\xff\xff\xff\xff\xff", flags=["END_HEADERS"])
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=0.5) as server,
        waiting(server, 1) as victim,
        connect_http2(server) as attacker,
    ):
        await attacker.stream.send_all(headers.serialize())
        await attacker.rest()
        assert (await victim.answer()).is_grant
        assert troubles(server) == []


async def test_a_failing_handler_ends_its_stream_and_no_other() -> None:
    async with (
        tampered_server("turn_of_shard_1_fails", GATEWAY_QUEUE_INTERVAL=0.5) as server,
        connect_http2(server) as client,
    ):
        waits, fails = await client.ask("/?shard=2"), await client.ask("/?shard=1")
        assert await client.reset_of(fails) == ErrorCodes.INTERNAL_ERROR
        [answer] = await client.answers([waits])
        assert answer.is_grant


async def test_an_answer_that_is_not_taken_ends_its_stream_and_no_other() -> None:
    async with (
        tampered_server("answers_must_be_taken_soon", GATEWAY_QUEUE_INTERVAL=0.2) as server,
        connect_http2(server, window=0) as client,
    ):
        stuck, page = await client.ask("/?shard=1"), await client.ask("/healthz")
        takes = await client.ask("/?shard=2")
        client.protocol.increment_flow_control_window(1_000, takes)
        await client.flush()
        [answer] = await client.answers([takes])
        assert answer.is_grant
        assert await client.reset_of(stuck) == ErrorCodes.INTERNAL_ERROR
        assert await client.reset_of(page) == ErrorCodes.INTERNAL_ERROR
        await server.logged("answer_not_taken", shard=1, level="warning")
        assert len(troubles(server)) == 1


async def test_no_turn_is_answered_when_the_server_ends() -> None:
    """A page that is not taken either keeps the connection busy until its very end."""
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=GOES_ON, GATEWAY_QUEUE_SHUTDOWN_GRACE=0.5) as server,
        connect_http2(server, window=0) as client,
    ):
        page, turn = await client.ask("/openapi.json"), await client.ask("/?shard=1")
        await server.logged("identify_queued", shard=1)
        await client.answer_begun(page)
        server.process.terminate()
        with suppress(trio.BrokenResourceError):
            await client.rest()
        assert not client.has_begun(turn)
        assert await server.ended() == 0


# HTTP/2 that begins as HTTP/1

UPGRADES = {
    "fine": ("GET", ""),
    "no base64": ("GET", "?"),
    "no settings": ("GET", "AAMA"),
    "a window that is too large": ("GET", "AAT_____"),
    "CONNECT": ("CONNECT", ""),
}


async def test_a_malformed_upgrade_causes_no_error() -> None:
    async with running_server(GATEWAY_QUEUE_INTERVAL=GOES_ON) as server:
        for method, settings in UPGRADES.values():
            async with connect(server) as client:
                upgrade = "Connection: Upgrade", "Upgrade: h2c", f"HTTP2-Settings: {settings}"
                await client.send(f"{method} /healthz HTTP/1.1", "Host: queue", *upgrade)
                await client.transport.send_eof()
                await client.rest()
        assert await server.stop() == 0
        assert troubles(server) == []


# How it is answered


async def test_an_answer_leaves_at_once() -> None:
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=0.3) as server,
        connect_http2(server) as client,
    ):
        await client.answers([await client.ask("/healthz")])
        stream = await client.ask("/?shard=1")
        await client.answer_begun(stream)
        with trio.move_on_after(0):  # all is there already
            [answer] = await client.answers([stream])
        assert answer.is_grant


async def test_it_can_be_taken_byte_by_byte() -> None:
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=0.1) as server,
        connect_http2(server, window=1) as client,
        background() as nursery,
    ):
        stream = await client.ask("/?shard=1")

        @nursery.start_soon
        async def give_way() -> None:
            for _ in range(100):
                client.protocol.increment_flow_control_window(1, stream)
                await client.flush()
                await trio.lowlevel.checkpoint()

        [answer] = await client.answers([stream])
        assert answer.is_grant


# Crowds and floods


async def test_a_stream_too_many_is_refused_and_no_other_ends() -> None:
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=GOES_ON) as server,
        connect_http2(server) as client,
    ):
        number = STREAMS_PER_CONNECTION
        streams = [client.request(f"/?shard={shard}") for shard in range(number + 1)]
        await client.flush()
        await server.logged("identify_queued", shard=number - 1)
        assert await client.reset_of(streams[-1]) == ErrorCodes.REFUSED_STREAM
        client.protocol.reset_stream(streams[0])  # so there is room again
        [answer] = await client.answers([await client.ask("/?shard=0&wait=0.1")])
        assert answer.status == 202
        assert client.resets.keys() == {streams[-1]}
        assert troubles(server) == []


@LINUX
@pytest.mark.alone
async def test_a_grant_costs_the_same_however_many_wait() -> None:
    buckets = 64
    async with (
        running_server(
            GATEWAY_QUEUE_INTERVAL=2,
            GATEWAY_QUEUE_MAX_CONCURRENCY=buckets,
            GATEWAY_QUEUE_CRASH_LOOP="off",
            GATEWAY_QUEUE_DAILY_STARTS=10_000,
        ) as server,
        connect_http2(server) as client,
    ):
        client.protocol.increment_flow_control_window(2**20)
        streams: list[int] = []

        def granted() -> int:
            return len(server.logged_so_far("identify_granted"))

        async def cost(crowd: int) -> float:
            """CPU seconds of one grant, while so many wait.

            All buckets grant in one instant, and between two of these nothing happens.
            """
            begun_at = -1
            while begun_at != granted():
                begun_at = granted()
                await client.answers(streams[:begun_at])
                more = range(len(streams), begun_at + crowd)
                streams.extend([client.request(f"/?shard={shard}") for shard in more])
                await client.flush()
                await server.logged("identify_queued", shard=len(streams) - 1)
                await server.logged_times(-(-granted() // buckets) * buckets, "identify_granted")
            before = processor_time(server)
            await client.answers(streams[: begun_at + buckets])
            return (processor_time(server) - before) / buckets

        crowds = (100, 1_000, STREAMS_PER_CONNECTION)
        costs = {crowd: min([await cost(crowd) for _ in range(6)]) for crowd in crowds}
        assert troubles(server) == []
    sys.stdout.write(f"CPU seconds of a grant by streams that wait: {costs}\n")
    # The aim is 1.5, which the benchmark shows; a virtual machine is not as fast all the time.
    few, *many = costs.values()
    assert max(many) < 2 * few


async def test_all_may_be_cancelled_at_once() -> None:
    number = 1_000
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=GOES_ON) as server,
        connect_http2(server) as client,
    ):
        for _ in range(2):
            streams = [await client.ask(f"/?shard={shard}") for shard in range(number)]
            for stream in streams:
                client.protocol.reset_stream(stream)
            await client.flush()
        answered = await client.ask("/healthz")
        await client.answers([answered])


async def test_a_flood_of_resets_ends_its_connection() -> None:
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=GOES_ON) as server,
        connect_http2(server) as client,
    ):
        await client.stream.send_all(flood(MOST_RESETS + 1))
        ended = []
        with suppress(trio.BrokenResourceError):
            while data := await client.stream.receive_some():
                ended += [
                    event.error_code
                    for event in client.protocol.receive_data(data)
                    if isinstance(event, ConnectionTerminated)
                ]
        assert ended == [ErrorCodes.ENHANCE_YOUR_CALM]
        assert troubles(server) == []


@LINUX
@pytest.mark.alone
async def test_floods_of_resets_leave_nothing_behind_and_delay_no_other() -> None:
    per_connection, connections = 2_500, 8
    memory = []
    async with running_server(
        GATEWAY_QUEUE_INTERVAL=0.05,
        GATEWAY_QUEUE_MAX_CONCURRENCY=1,
        GATEWAY_QUEUE_CRASH_LOOP="off",
        GATEWAY_QUEUE_DAILY_STARTS=100_000,
    ) as server:
        resets = flood(per_connection)

        async def attack() -> None:
            async with connect_http2(server) as client:
                await client.stream.send_all(resets)
                await client.stream.send_all(PingFrame(0, opaque_data=b"all read").serialize())
                heard = b""
                while b"all read" not in heard:
                    heard += await client.stream.receive_some()

        async def wait_in_turn() -> None:
            async with connect(server) as client:
                while True:
                    await client.ask(2)
                    await client.answer()

        async with background() as nursery:
            nursery.start_soon(wait_in_turn)
            for _ in range(6):
                async with trio.open_nursery() as attackers:
                    for _ in range(connections):
                        attackers.start_soon(attack)
                memory.append(resident(server))
        late = sorted(line["late"] for line in server.logged_so_far("identify_granted"))
    middle, most = late[len(late) // 2], late[-1]
    sys.stdout.write(f"{len(late)} grants, late by {middle:.4f} s, at most by {most:.4f} s\n")
    sys.stdout.write(f"KiB after each {connections * per_connection} resets: {memory}\n")
    assert late[-len(late) // 20] < 0.05
    assert memory[-1] - memory[0] < 3 * 1_024  # 30 bytes of each


def flood(number: int) -> bytes:
    """Requests that are reset as soon as they are made. To be sent on a new connection."""
    protocol = H2Connection(H2Configuration(header_encoding=None))
    protocol.initiate_connection()
    protocol.clear_outbound_data_buffer()
    for _ in range(number):
        stream = protocol.get_next_available_stream_id()
        protocol.send_headers(stream, REQUEST, end_stream=True)
        protocol.reset_stream(stream)
    return protocol.data_to_send()


async def test_hundreds_can_wait_on_one_http2_connection() -> None:
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=1, GATEWAY_QUEUE_MAX_CONCURRENCY=50) as server,
        connect_http2(server) as client,
    ):
        streams = [await client.ask(f"/?shard={shard}") for shard in range(300)]
        assert all(answer.is_grant for answer in await client.answers(streams))
        granted = await server.logged_times(300, "identify_granted")
        assert sorted(line["shard"] for line in granted) == [*range(300)]


async def test_more_than_a_thousand_on_one_http2_connection_do_not_end_it() -> None:
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=2, GATEWAY_QUEUE_MAX_CONCURRENCY=4) as server,
        connect_http2(server) as client,
    ):
        first = [await client.ask(f"/?shard={shard}") for shard in range(4)]
        for shard in range(4, 1500):
            await client.ask(f"/?shard={shard}")
        assert all(answer.is_grant for answer in await client.answers(first))


# Leaving


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return Identity.new(tmp_path_factory.mktemp("identity"))


def client_of(
    server: Program, identity: Identity, protocol: str, window: int | None
) -> AbstractAsyncContextManager[Client | HTTP2Client]:
    """A client that speaks this protocol, and TLS if the server does."""
    is_encrypted = server.url.startswith("https:")
    if protocol == "HTTP/1.1":
        return encrypted.connect(server, identity) if is_encrypted else raw.connect(server)
    if is_encrypted:
        return encrypted.connect_http2(server, identity, window=window)
    return raw.connect_http2(server, window=window)


@LINUX
@pytest.mark.parametrize("protocol", ["HTTP/1.1", "HTTP/2"])
@pytest.mark.parametrize("is_encrypted", [False, True], ids=["plain", "TLS"])
async def test_an_idle_connection_that_its_client_closes_is_let_go(
    protocol: str, *, is_encrypted: bool, identity: Identity
) -> None:
    settings = identity.settings if is_encrypted else {}
    async with running_server(**settings) as server:
        files = open_files(server)
        for path in (None, "/healthz", "/?shard=nonsense"):
            async with client_of(server, identity, protocol, None) as client:
                if isinstance(client, HTTP2Client):
                    await client.answers([await client.ask(path)] if path else [])
                elif path:
                    await client.send(f"GET {path} HTTP/1.1", "Host: queue")
                    await client.answer()
                while open_files(server) == files:  # noqa: ASYNC110 (it is the system that tells)
                    await trio.sleep(0.01)
            with trio.fail_after(AT_ONCE):
                while open_files(server) > files:  # noqa: ASYNC110 (it is the system that tells)
                    await trio.sleep(0.01)


async def close(client: Client | HTTP2Client) -> None:
    await client.transport.aclose()


async def half_close(client: Client | HTTP2Client) -> None:
    await client.transport.send_eof()


async def reset(client: Client | HTTP2Client) -> None:
    client.transport.reset()


async def reset_streams(client: Client | HTTP2Client) -> None:
    if isinstance(client, HTTP2Client):
        for stream in client.protocol.streams:
            client.protocol.reset_stream(stream)
        await client.flush()


LEAVING: list[Callable[[Client | HTTP2Client], Awaitable[None]]] = [
    close,
    half_close,
    reset,
    reset_streams,
]
LEFT = ["/status", "/metrics", "/openapi.json", "/?shard=nonsense"]


@pytest.mark.parametrize("protocol", ["HTTP/1.1", "HTTP/2"])
@pytest.mark.parametrize("is_encrypted", [False, True], ids=["plain", "TLS"])
async def test_a_client_that_leaves_half_way_through_a_page_causes_no_error(
    protocol: str, *, is_encrypted: bool, identity: Identity
) -> None:
    """What goes wrong depends on the moment.

    So each is tried with a server that finds the request and the leaving at once, and with
    one that does not.
    """
    settings = identity.settings if is_encrypted else {}
    async with running_server(GATEWAY_QUEUE_INTERVAL=GOES_ON, **settings) as server:
        for is_stopped in (True, False):
            for leave in LEAVING:
                async with AsyncExitStack() as stack:
                    clients = [
                        (await stack.enter_async_context(client), path, whole)
                        for path in LEFT
                        for whole in (True, False)
                        for window in ((None, 0) if protocol == "HTTP/2" else (None,))
                        for client in [client_of(server, identity, protocol, window)]
                    ]
                    if is_stopped:
                        server.process.send_signal(signal.SIGSTOP)
                    for client, path, whole in clients:
                        await ask_for(client, path, whole=whole)
                    for client, *_ in clients:
                        with suppress(trio.BrokenResourceError):
                            await leave(client)
                    server.process.send_signal(signal.SIGCONT)
        async with client_of(server, identity, protocol, None) as last:
            await ask_for(last, "/healthz", whole=True)
            await (last.answers([1]) if isinstance(last, HTTP2Client) else last.answer())
        assert await server.stop() == 0
        assert troubles(server) == []


async def ask_for(client: Client | HTTP2Client, path: str, *, whole: bool) -> None:
    """Ask for a page, with a body of which half is sent unless this is the whole."""
    if isinstance(client, HTTP2Client):
        stream = client.request(path, "GET" if whole else "POST", whole=whole)
        if not whole:
            client.protocol.send_data(stream, b"half")
        await client.flush()
    elif whole:
        await client.send(f"GET {path} HTTP/1.1", "Host: queue")
    else:
        more = "Host: queue", "Content-Length: 8"
        await client.send(f"POST {path} HTTP/1.1", *more, body=b"half")


# What the system says about the server


def processor_time(server: Program) -> float:
    return int(Path(f"/proc/{server.pid}/schedstat").read_text().split()[0]) / 1e9


def resident(server: Program) -> int:
    """KiB of memory."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1])


def open_files(server: Program) -> int:
    return len(list(Path(f"/proc/{server.pid}/fd").iterdir()))


def troubles(server: Program) -> list[str]:
    """What it said that an operator would look into."""
    expected = '"level": "debug"', '"level": "info"', '"event": "interval_short"'
    return [line for line in server.lines if not any(words in line for words in expected)]
