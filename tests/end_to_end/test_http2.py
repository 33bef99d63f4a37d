"""HTTP/2: many requests wait on one connection, and none of them harms another."""

import ssl
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
import trio
import trio.lowlevel
import trustme
from background import background
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated
from harness import Program, running_server
from hyperframe.frame import DataFrame, HeadersFrame, PingFrame
from raw import AT_ONCE, Client, HTTP2Client, connect, connect_http2, tampered_server, waiting

from gateway_queue.http.http2 import RESETS_AT_MOST, STREAMS_PER_CONNECTION

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

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
            stream = await send_headers(client, headers, whole=False)
            client.protocol.send_data(stream, body, end_stream=whole)
            await client.flush()
            assert await client.reset_of(stream) == ErrorCodes.PROTOCOL_ERROR, name
        [answer] = await client.answers([waits])
        assert answer.is_grant


async def test_frames_for_a_stream_that_ended_harm_no_other() -> None:
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


async def test_a_body_after_the_answer_is_dropped_and_its_connection_goes_on() -> None:
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


async def test_what_confuses_the_connection_ends_it_and_nothing_else() -> None:
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
        stuck, takes = await client.ask("/?shard=1"), await client.ask("/?shard=2")
        client.protocol.increment_flow_control_window(1_000, takes)
        await client.flush()
        [answer] = await client.answers([takes])
        assert answer.is_grant
        assert await client.reset_of(stuck) == ErrorCodes.INTERNAL_ERROR


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
        running_server(GATEWAY_QUEUE_INTERVAL=5) as server,
        connect_http2(server) as client,
    ):
        streams = [await client.ask(f"/?shard={n}") for n in range(STREAMS_PER_CONNECTION + 1)]
        assert await client.reset_of(streams[-1]) == ErrorCodes.REFUSED_STREAM
        [answer] = await client.answers(streams[:1])
        assert answer.is_grant


@LINUX
@pytest.mark.alone
async def test_a_grant_costs_the_same_however_many_wait() -> None:
    buckets = 64
    costs = {}
    async with (
        running_server(
            GATEWAY_QUEUE_INTERVAL=2,
            GATEWAY_QUEUE_MAX_CONCURRENCY=buckets,
            GATEWAY_QUEUE_CRASH_LOOP="off",
            GATEWAY_QUEUE_SESSION_STARTS=10_000,
        ) as server,
        connect_http2(server) as client,
    ):
        asked = 0
        granted = 0

        async def one_round() -> None:
            nonlocal granted
            granted += buckets
            await client.answers(streams[:granted])
            await server.logged("identify_granted", shard=granted - 1)

        streams: list[int] = []
        for crowd in (100, 1_000, 2_000 - buckets):
            while asked < granted + crowd:
                streams.append(await client.ask(f"/?shard={asked}"))
                asked += 1
            await server.logged("identify_queued", shard=asked - 1)
            # All buckets open in one instant, and between two of these nothing happens.
            granted = len(server.logged_so_far("identify_granted")) // buckets * buckets
            await one_round()
            before = processor_time(server)
            await one_round()
            costs[crowd] = (processor_time(server) - before) / buckets
    sys.stdout.write(f"CPU seconds of a grant by streams that wait: {costs}\n")
    assert max(costs.values()) < 1.5 * min(costs.values())


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
        await client.stream.send_all(flood(RESETS_AT_MOST + 1))
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
async def test_floods_of_resets_are_forgotten_and_delay_nobody_else() -> None:
    per_connection, connections = 2_500, 8
    memory = []
    async with running_server(
        GATEWAY_QUEUE_INTERVAL=0.05,
        GATEWAY_QUEUE_MAX_CONCURRENCY=1,
        GATEWAY_QUEUE_CRASH_LOOP="off",
        GATEWAY_QUEUE_SESSION_STARTS=100_000,
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
                for shard in range(10_000):
                    await client.ask(shard)
                    await client.answer()

        async with background() as nursery:
            nursery.start_soon(wait_in_turn)
            for _ in range(5):
                async with trio.open_nursery() as attackers:
                    for _ in range(connections):
                        attackers.start_soon(attack)
                memory.append(resident(server))
        late = sorted(line["late"] for line in server.logged_so_far("identify_granted"))
    middle, most = late[len(late) // 2], late[-1]
    sys.stdout.write(f"{len(late)} grants, late by {middle:.4f} s, at most by {most:.4f} s\n")
    sys.stdout.write(f"KiB after each {connections * per_connection} resets: {memory}\n")
    assert late[-len(late) // 20] < 0.05
    assert memory[-1] - memory[1] < 1_024


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


# Leaving


def plain_or_tls(server: Program, issuer: trustme.CA, protocol: str) -> ssl.SSLContext | None:
    if not server.url.startswith("https"):
        return None
    context = ssl.create_default_context()
    issuer.configure_trust(context)
    context.set_alpn_protocols([protocol])
    return context


@LINUX
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
async def test_an_idle_connection_that_its_client_closes_is_let_go(
    tls: bool,  # noqa: FBT001
    tmp_path: Path,
) -> None:
    issuer = trustme.CA()
    settings = {}
    if tls:
        issuer.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
            tmp_path / "pem"
        )
        settings = dict.fromkeys(("CERTFILE", "KEYFILE"), tmp_path / "pem")
    prefixed = {f"GATEWAY_QUEUE_{name}": value for name, value in settings.items()}
    async with running_server(**prefixed, GATEWAY_QUEUE_INTERVAL=GOES_ON) as server:
        files = open_files(server)
        for protocol in ("http/1.1", "h2"):
            for ask in ([], ["/?shard=1"], ["/?shard=1", "/?shard=2"]):
                host, _, port = server.url.partition("//")[2].rpartition(":")
                transport = await trio.open_tcp_stream(host, int(port))
                stream: trio.abc.Stream = transport
                if context := plain_or_tls(server, issuer, protocol):
                    stream = trio.SSLStream(transport, context, server_hostname=host)
                await answered(stream, protocol, ask)
                assert open_files(server) > files
                await transport.aclose()
                with trio.fail_after(AT_ONCE):
                    while open_files(server) > files:  # noqa: ASYNC110 (it is the system that tells)
                        await trio.sleep(0.01)


async def answered(stream: trio.abc.Stream, protocol: str, ask: list[str]) -> None:
    """Have a page answered, and then wait for turns."""
    if protocol == "h2":
        client = HTTP2Client(cast("trio.SocketStream", stream))
        client.protocol.initiate_connection()
        await client.answers([await client.ask("/healthz")])
        for path in ask:
            await client.ask(path)
    else:
        other = Client(cast("trio.SocketStream", stream))
        await other.send("GET /healthz HTTP/1.1", "Host: queue")
        await other.answer()
        for path in ask[:1]:
            await other.send(f"GET {path} HTTP/1.1", "Host: queue")


async def close(client: Client) -> None:
    await client.stream.aclose()


async def half_close(client: Client) -> None:
    await client.stream.send_eof()


async def reset(client: Client) -> None:
    client.reset()


async def test_a_client_that_leaves_half_way_is_no_trouble() -> None:
    """What goes wrong depends on the moment, so each is tried many times."""
    leaving: list[Callable[[Client], Awaitable[None]]] = [close, half_close, reset]
    half = ("Content-Length: 100",), b"half"
    async with running_server(GATEWAY_QUEUE_INTERVAL=GOES_ON) as server:
        for path in ("/status", "/metrics", "/openapi.json", "/nothing"):
            for leave in leaving:
                for headers, body in (((), b""), half):
                    for _ in range(5):
                        async with connect(server) as client:
                            head = f"POST {path} HTTP/1.1", "Host: queue", *headers
                            await client.send(*head, body=body)
                            await leave(client)
                    async with connect_http2(server) as http2:
                        await http2.ask(path, "POST", whole=not body)
                        await leave(Client(http2.stream))
                    async with connect_http2(server) as http2:
                        stream = await http2.ask(path, "POST", whole=not body)
                        http2.protocol.reset_stream(stream)
                        await http2.flush()
        async with connect(server) as client:
            await client.send("GET /healthz HTTP/1.1", "Host: queue")
            assert (await client.answer()).status == 200
        await server.stop()
        assert troubles(server) == []


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
    expected = '"level": "info"', '"event": "interval_short"'
    return [line for line in server.lines if not any(words in line for words in expected)]
