"""Heads that are almost plain: each is granted or refused as h11 has it, at nobody's cost."""

from contextlib import AsyncExitStack, suppress
from typing import cast

import pytest
import trio
from encrypted import Identity, Stream, connected
from harness import Program, running_server
from raw import Client, connect, tampered_server
from ways import on_one_server

pytestmark = pytest.mark.usefixtures("way")

# What is sent, in parts. ``{}`` is the shard; what follows QUEUED comes while it waits, and
# what follows BYTE_BY_BYTE in many parts.
QUEUED = b"queued"
BYTE_BY_BYTE = b"byte by byte"
GET = b"GET /?shard={} HTTP/1.1\r\n"
HOST = b"Host: queue\r\n"
END = b"\r\n"
PLAIN = GET + HOST + END
OTHER = b"GET /healthz HTTP/1.1\r\nHost: queue\r\n\r\n"

GRANTED = {
    "no Host in HTTP/1.0": [b"GET /?shard={} HTTP/1.0\r\n\r\n"],
    "Content-Length: 0": [GET + HOST + b"Content-Length: 0\r\n\r\n"],
    "a body": [GET + HOST + b"Content-Length: 5\r\n\r\nhello"],
    "a body that comes later": [GET + HOST + b"Content-Length: 5\r\n\r\n", QUEUED, b"hello"],
    "a body that ends too soon": [GET + HOST + b"Content-Length: 5\r\n\r\n", QUEUED, b"hell"],
    "a chunked body": [GET + HOST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"],
    "a chunked body that comes later": [
        *(GET + HOST + b"Transfer-Encoding: chunked\r\n\r\n", QUEUED, b"0\r\n\r\n"),
    ],
    "a body that was not announced": [PLAIN + b"hello"],
    "two requests in one segment": [PLAIN + OTHER],
    "a request behind the one that waits": [PLAIN, QUEUED, OTHER],
    "nonsense behind the one that waits": [PLAIN, QUEUED, b"\0\xff\r\n\r\n"],
    "a folded header": [GET + HOST + b"X: 1\r\n 2\r\n\r\n"],
    "lines that end in LF": [(GET + HOST + END).replace(b"\r", b"")],
    "one line that ends in LF": [GET + b"Host: queue\nX: 1\r\n\r\n"],
    "a head in two parts": [PLAIN[:30], PLAIN[30:]],
    "an end in two parts": [PLAIN[:-1], PLAIN[-1:]],
    "a byte at a time": [BYTE_BY_BYTE, PLAIN],
}
REFUSED = {
    "two Hosts": ([GET + HOST + HOST + END], 400),
    "two Hosts in HTTP/1.0": ([b"GET /?shard={} HTTP/1.0\r\n" + HOST + HOST + END], 400),
    "no Host": ([GET + END], 400),
    "CRLF before the request": ([b"\r\n" + PLAIN], 400),
    "LF before the request": ([b"\n" + PLAIN], 400),
    "a space before the request": ([b" " + PLAIN], 400),
    "two spaces in the request": ([b"GET  /?shard={} HTTP/1.1\r\n" + HOST + END], 400),
    "a space before a colon": ([GET + b"Host : queue\r\n\r\n"], 400),
    "a folded first header": ([GET + b" " + HOST + END], 400),
    "a NUL in a header": ([GET + HOST + b"X: 1\x002\r\n\r\n"], 400),
    "a NUL in the path": ([b"GET /\0?shard={} HTTP/1.1\r\n" + HOST + END], 400),
    "two lengths": ([GET + HOST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n"], 400),
    "a length below 0": ([GET + HOST + b"Content-Length: -1\r\n\r\n"], 400),
    "an unknown coding": ([GET + HOST + b"Transfer-Encoding: gzip\r\n\r\n"], 501),
    "70 kB in a header": ([GET + HOST + b"X: " + 70_000 * b"x" + b"\r\n\r\n"], 431),
}
BUCKETS = 64  # each of these has one of its own


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return Identity.new(tmp_path_factory.mktemp("identity"))


@pytest.mark.parametrize("is_encrypted", [False, True], ids=["plain", "TLS"])
async def test_an_odd_head_costs_nobody_else_anything(
    *, is_encrypted: bool, identity: Identity
) -> None:
    """Behind each of them another shard waits in the same bucket."""
    settings = identity.settings if is_encrypted else {}
    async with (
        running_server(
            **settings, GATEWAY_QUEUE_INTERVAL=1, GATEWAY_QUEUE_MAX_CONCURRENCY=BUCKETS
        ) as server,
        AsyncExitStack() as clients,
    ):
        others: list[Client] = []

        async def ask(shard: int, parts: list[bytes]) -> Client:
            client = await clients.enter_async_context(connected(server, identity))
            await send(parts, shard, client, server)
            return client

        async def have_another_wait(shard: int) -> None:
            others.append(await ask(shard + BUCKETS, [PLAIN, QUEUED]))

        for shard, (name, (parts, status)) in enumerate(REFUSED.items()):
            client = await ask(shard, parts)
            assert (await client.answer()).status == status, name
            with suppress(trio.BrokenResourceError):  # an RST, as not all of it was read
                await client.rest()
            assert client.read_too_far() == b"", name
            await have_another_wait(shard)
        waiting = {}
        first = len(REFUSED)
        for shard, (name, parts) in enumerate(GRANTED.items(), first):
            waiting[name] = await ask(shard, parts)
            await server.logged("identify_queued", shard=shard)
            await have_another_wait(shard)
        for name, client in waiting.items():
            assert (await client.answer()).is_grant, name
        for client in others:
            assert (await client.answer()).is_grant
        last = first + len(GRANTED)
        expected = [*range(first, last), *range(BUCKETS, BUCKETS + last)]
        for shard in expected:
            await server.logged("identify_granted", shard=shard)
        granted = [line["shard"] for line in server.logged_so_far("identify_granted")]
        assert sorted(granted) == expected
        assert not server.logged_so_far("connection_failed")


# Nobody waits here.
@on_one_server
async def test_a_head_that_does_not_end_is_not_answered() -> None:
    async with tampered_server("idle_connections_close_soon") as server:
        for begin in (b"", b"GET /?sha", PLAIN[:-1]):
            async with connect(server) as client:
                await client.stream.send_all(begin)
                assert await client.rest() == b"", begin
        assert await server.stop() == 0
        assert not server.logged_so_far("identify_queued")


async def send(parts: list[bytes], shard: int, client: Client, server: Program) -> None:
    at_once = None
    for part in parts:
        if part == QUEUED:
            await server.logged("identify_queued", shard=shard)
        elif part == BYTE_BY_BYTE:
            at_once = 1
        else:
            data = part.replace(b"{}", b"%d" % shard)
            with suppress(trio.BrokenResourceError):  # refused before it was sent
                for begin in range(0, len(data), at_once or len(data)):
                    await client.stream.send_all(data[begin:][:at_once])


# Leaving


async def close(client: Client) -> None:
    await client.transport.aclose()


async def half_close(client: Client) -> None:
    await client.transport.send_eof()


async def reset(client: Client) -> None:
    client.transport.reset()


async def close_notify(client: Client) -> None:
    with suppress(trio.BrokenResourceError):
        await cast("Stream", client.stream).unwrap()


@pytest.mark.parametrize("is_encrypted", [False, True], ids=["plain", "TLS"])
async def test_whoever_leaves_keeps_its_seat(*, is_encrypted: bool, identity: Identity) -> None:
    settings = identity.settings if is_encrypted else {}
    ways = [close, half_close, reset, *([close_notify] if is_encrypted else [])]
    async with (
        running_server(
            **settings, GATEWAY_QUEUE_INTERVAL=60, GATEWAY_QUEUE_MAX_CONCURRENCY=BUCKETS
        ) as server,
        AsyncExitStack() as clients,
    ):
        for shard, leave in enumerate(ways):
            leaver, other, again = [
                await clients.enter_async_context(connected(server, identity)) for _ in range(3)
            ]
            await leaver.ask(shard)
            await server.logged("identify_queued", shard=shard)
            await other.ask(shard + BUCKETS)
            await server.logged("identify_queued", shard=shard + BUCKETS, position=2)
            await leave(leaver)
            await server.logged("identify_left", shard=shard)
            await again.ask(shard)
            await server.logged("identify_returned", shard=shard, position=1)
        assert not server.logged_so_far("identify_granted")
