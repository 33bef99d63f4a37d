"""Connections: when they close, who is seen to leave, and how many there may be."""

import resource
import signal
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
import trio
from harness import Program, running_server
from instants import ENDED_WITHIN, logged_at
from patience import PATIENCE
from raw import (
    AT_ONCE,
    Client,
    connect,
    connect_http2,
    grant_of,
    left_at_once,
    tampered_server,
    waiting,
)
from ways import on_one_server

from gateway_queue.http.stack import IDLE_SECONDS as SERVERS_IDLE_SECONDS

pytestmark = pytest.mark.usefixtures("way")

ONE = "Host: queue"
CROWD_SECONDS = 30  # which thousands may need to be let in and out, on a busy machine
GOES_ON = 60  # seconds of an interval in which nothing is granted

PAGES = ["/?shard=1", "/?shard=nonsense", "/healthz", "/favicon.ico"]
IDLE_SECONDS = 0.3  # of the server whose idle connections close soon


# Closing. Connections are the same at a replica, unless somebody waits.


@on_one_server
@pytest.mark.parametrize(("version", "headers"), [("1.0", []), ("1.1", [ONE, "Connection: close"])])
async def test_a_connection_closes_after_the_answer_if_it_is_asked_to(
    version: str, headers: list[str]
) -> None:
    async with running_server(GATEWAY_QUEUE_INTERVAL=0.05) as server:
        for path in PAGES:
            async with connect(server) as client:
                await client.send(f"GET {path} HTTP/{version}", *headers)
                answer = await client.answer()
                assert await client.rest() == b"", path
                assert client.transport.ended_at - answer.at < AT_ONCE, path


@on_one_server
async def test_an_idle_connection_closes_after_a_while() -> None:
    async with tampered_server(
        "idle_connections_close_soon", GATEWAY_QUEUE_INTERVAL=0.05
    ) as server:
        for path in PAGES:
            async with connect(server) as client:
                await client.send(f"GET {path} HTTP/1.1", ONE)
                answer = await client.answer()
                assert await client.rest() == b"", path
                idle = client.transport.ended_at - answer.at
                assert IDLE_SECONDS - ENDED_WITHIN <= idle < IDLE_SECONDS + AT_ONCE, path


@on_one_server
async def test_an_idle_http2_connection_closes_after_a_while() -> None:
    async with (
        tampered_server("idle_connections_close_soon", GATEWAY_QUEUE_INTERVAL=GOES_ON) as server,
        connect_http2(server) as answered,
        connect_http2(server) as gave_up,
    ):
        await answered.ask("/healthz")
        stream = await gave_up.ask("/?shard=1")
        await server.logged("identify_queued", shard=1)
        gave_up.protocol.reset_stream(stream)
        await gave_up.flush()
        left = await server.logged("identify_left", shard=1)
        [answer] = await answered.rest()
        await gave_up.rest()
        assert answered.transport.ended_at - answer.at < IDLE_SECONDS + AT_ONCE
        assert gave_up.transport.ended_at - logged_at(left) < IDLE_SECONDS + AT_ONCE


@on_one_server
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's list of files")
async def test_a_connection_that_its_client_closed_keeps_no_file() -> None:
    async with running_server(GATEWAY_QUEUE_INTERVAL=0.05) as server:
        await grant_of(server, 1)
        files = open_files(server)
        async with AsyncExitStack() as clients:
            await clients.enter_async_context(connect(server))
            for path in PAGES:
                client = await clients.enter_async_context(connect(server))
                await client.send(f"GET {path} HTTP/1.1", ONE)
                await client.answer()
            http2 = await clients.enter_async_context(connect_http2(server))
            await http2.answers([await http2.ask("/healthz"), await http2.ask("/?shard=2")])
        with trio.fail_after(SERVERS_IDLE_SECONDS / 2):  # it would close them after those
            while open_files(server) > files:  # noqa: ASYNC110 (the system tells nobody)
                await trio.sleep(0.01)


def open_files(server: Program) -> int:
    return len(list(Path(f"/proc/{server.pid}/fd").iterdir()))


@on_one_server
async def test_waiting_is_not_idling() -> None:
    async with tampered_server("idle_connections_close_soon", GATEWAY_QUEUE_INTERVAL=1) as server:
        await grant_of(server, 1)


@on_one_server
async def test_a_connection_serves_more_than_a_thousand_requests() -> None:
    async with running_server() as server, connect(server) as client:
        for _ in range(1_001):
            await client.send("GET /?shard=nonsense HTTP/1.1", ONE)
            answer = await client.answer()
            assert "connection" not in answer.headers


# Leaving


async def close(client: Client) -> None:
    await client.stream.aclose()


async def half_close(client: Client) -> None:
    await client.transport.send_eof()


async def reset(client: Client) -> None:
    client.transport.reset()


async def more_than_64_kib(client: Client) -> None:
    await client.stream.send_all(70_000 * b"x")


H2C = "Upgrade: h2c", "Connection: Upgrade"
UPGRADE = "Upgrade: unknown", "Connection: Upgrade"
AHEAD = "GET /?shard=99 HTTP/1.1\r\nHost: queue\r\n\r\n"
LEAVING: list[tuple[tuple[str, ...], str, Callable[[Client], Awaitable[None]]]] = [
    ((), "", close),
    ((), "", half_close),
    ((), "", reset),
    ((), AHEAD, close),  # a pipelined request
    ((), AHEAD, reset),
    ((), "\r\n", close),  # a stray line
    ((), "\r\n", half_close),
    (UPGRADE, "", close),
    (UPGRADE, "", reset),
    ((*H2C, "HTTP2-Settings: "), "", close),
    ((*H2C, "Content-Length: 0"), "", close),
    (("Content-Length: 100",), "half", close),
    (("Content-Length: 100",), "half", reset),
    (("Transfer-Encoding: chunked",), "4\r\nhalf\r\n", close),
    ((), AHEAD, more_than_64_kib),
    (UPGRADE, "", more_than_64_kib),
]


async def test_leaving_is_noticed_at_once_and_costs_no_slot() -> None:
    async with running_server(GATEWAY_QUEUE_INTERVAL=3) as server, AsyncExitStack() as clients:
        for shard, (headers, behind, leave) in enumerate(LEAVING):
            client = await clients.enter_async_context(connect(server))
            await client.ask(shard, *headers, body=behind.encode())
            await server.logged("identify_queued", shard=shard)
            since = time.time()
            with trio.fail_after(PATIENCE):
                await leave(client)
            await left_at_once(server, shard, since=since)
        await grant_of(server, 100)
        granted = await server.logged("identify_granted")
        assert server.logged_so_far("connection_failed") == []
    assert granted["shard"] == 100
    assert granted["late"] < 0.1


async def test_http2_streams_leave_one_by_one() -> None:
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=1) as server,
        connect_http2(server) as client,
    ):
        leaver = await client.ask("/?shard=1")
        await server.logged("identify_queued", shard=1)
        stayer = await client.ask("/?shard=2")
        client.protocol.reset_stream(leaver)
        since = time.time()
        await client.flush()
        await left_at_once(server, 1, since=since)
        [answer] = await client.answers([stayer])
        assert answer.is_grant
        await server.logged("identify_granted", shard=2)
        assert server.logged_so_far("identify_granted", shard=1) == []


@on_one_server
async def test_a_client_that_sends_too_much_behind_a_request_is_cut_off() -> None:
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=GOES_ON) as server,
        waiting(server, 1) as client,
    ):
        since = time.time()
        with trio.fail_after(PATIENCE), suppress(trio.BrokenResourceError):
            await client.stream.send_all(b"\r\n" + 3 * 2**16 * b"x")
            assert await client.rest() == b""
        await left_at_once(server, 1, since=since)


async def test_pipelined_requests_are_answered_one_after_the_other() -> None:
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=0.3) as server,
        connect(server) as client,
    ):
        await client.ask(1, body=b"GET /?shard=2 HTTP/1.1\r\nHost: queue\r\n\r\n")
        await client.ask(3)
        answers = [await client.answer() for _ in range(3)]
        assert all(answer.is_grant for answer in answers)
        granted = await server.logged_times(3, "identify_granted")
        assert [line["shard"] for line in granted] == [1, 2, 3]


@on_one_server
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux's list of sockets")
async def test_a_host_that_vanishes_is_going_to_be_noticed() -> None:
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=GOES_ON) as server,
        waiting(server, 1) as client,
    ):
        port = client.transport.socket.getsockname()[1]
        timer, jiffies = await keep_alive_timer(port)
        assert timer == 2  # 2 is keep-alive's
        assert 20 < jiffies / 100 <= 30


async def keep_alive_timer(client_port: int) -> tuple[int, int]:
    """Kind and rest of the server's timer: columns of /proc/net/tcp, in hexadecimal."""
    table = await trio.Path("/proc/net/tcp").read_text()
    for line in table.splitlines()[1:]:
        _, _, remote, state, _, timer, *_ = line.split()
        if remote.endswith(f":{client_port:04X}") and state == "01":  # established
            kind, _, jiffies = timer.partition(":")
            return int(kind, 16), int(jiffies, 16)
    raise AssertionError("the server has no such connection")


# Crowds


@on_one_server
async def test_thousands_can_knock_at_once() -> None:
    """The server is stopped meanwhile, so that the system's queue is all there is."""
    allow_open_files()
    number = min(2_000, longest_queue())
    async with running_server() as server, AsyncExitStack() as clients:
        server.process.send_signal(signal.SIGSTOP)
        with trio.fail_after(PATIENCE):
            for _ in range(number):
                last = await clients.enter_async_context(connect(server))
        server.process.send_signal(signal.SIGCONT)
        await last.send("GET /healthz HTTP/1.1", ONE)
        assert (await last.answer()).status == 200


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's list of files")
async def test_a_crowd_that_came_and_left_while_the_server_was_stopped_costs_nothing() -> None:
    allow_open_files()
    number = min(3_000, longest_queue())
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=3) as server,  # the first grant is after 6 s
        waiting(server, 0) as client,
    ):
        files = open_files(server)
        server.process.send_signal(signal.SIGSTOP)
        crowd = [
            socket.create_connection(client.transport.socket.getpeername()) for _ in range(number)
        ]
        for shard, one in enumerate(crowd, start=1):
            head = f"GET /?shard={shard} HTTP/1.1\r\nHost: queue\r\n\r\n".encode()
            one.sendall((head, head[:20], b"", head)[shard % 4])
            if shard % 4 == 3:  # leaves with an RST
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            one.close()
        server.process.send_signal(signal.SIGCONT)
        answer = await client.answer()
        with trio.fail_after(CROWD_SECONDS):
            while open_files(server) > files:  # noqa: ASYNC110 (the system tells nobody)
                await trio.sleep(0.05)
        await grant_of(server, number + 1)
        await server.logged("identify_granted", shard=number + 1)
        granted = server.logged_so_far("identify_granted")
    assert answer.is_grant
    assert [line["shard"] for line in granted] == [0, number + 1]
    assert max(line["late"] for line in granted) < 0.5
    assert not server.logged_so_far("connection_failed")


def longest_queue() -> int:
    limit = Path("/proc/sys/net/core/somaxconn")
    return int(limit.read_text()) if limit.exists() else 128


def allow_open_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
