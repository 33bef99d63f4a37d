"""HTTPS: what holds without TLS holds with it, and a handshake costs nobody else anything."""

import ssl
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import cast

import httpx
import pytest
import trio
from encrypted import Identity, Stream, connect, connect_http2, tls
from harness import SERVER, Program, run_server, running, running_server
from hypercorn_command import serving
from instants import EXACT, LOGGED_WITHIN, dial, logged_at, seconds_to_end
from patience import PATIENCE
from raw import AT_ONCE, Client, HTTP2Client, left_at_once, tampered_server
from shards import GRANT
from ways import on_one_server

from gateway_queue.http.connection import HANDSHAKE_SECONDS

# TLS is the same at a replica.
pytestmark = [pytest.mark.usefixtures("way"), on_one_server]

ONE = "Host: queue"
LONG = 300  # seconds of an interval or a grace whose end no test waits for


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return Identity.new(tmp_path_factory.mktemp("identity"))


@asynccontextmanager
async def waiting(server: Program, identity: Identity, shard: int) -> AsyncIterator[Client]:
    """A client that the server knows to wait for its turn."""
    async with connect(server, identity) as client:
        await client.ask(shard)
        await server.logged("identify_queued", shard=shard)
        yield client


async def ended(client: Client | HTTP2Client) -> bool:
    """Wait until the server closes the connection; whether nothing was answered before."""
    try:
        return not await client.rest()
    except trio.BrokenResourceError:  # it did so with an RST
        return True


def troubles(server: Program) -> list[str]:
    """What it said that an operator would look into."""
    expected = '"level": "debug"', '"level": "info"', '"event": "interval_short"'
    return [line for line in server.lines if not any(words in line for words in expected)]


# Turns


@pytest.mark.parametrize(("http2", "version"), [(False, "HTTP/1.1"), (True, "HTTP/2")])
async def test_a_turn_is_granted_in_its_time(
    identity: Identity,
    http2: bool,  # noqa: FBT001
    version: str,
) -> None:
    async with (
        running_server(**identity.settings, GATEWAY_QUEUE_INTERVAL=0.5) as server,
        httpx.AsyncClient(
            base_url=server.url, verify=identity.trust(), http2=http2, timeout=20
        ) as client,
    ):
        assert server.url.startswith("https://127.0.0.1:")
        for shard in range(3):
            answer = await client.get("/", params={"shard": shard})
            assert (answer.json(), answer.http_version) == (GRANT, version)
        assert await server.stop() == 0
        assert not troubles(server)
    granted = server.logged_so_far("identify_granted")
    assert [line["shard"] for line in granted] == [0, 1, 2]
    gaps = [logged_at(after) - logged_at(before) for before, after in pairwise(granted)]
    assert min(gaps) > 0.5 - LOGGED_WITHIN


async def test_a_client_that_names_no_protocol_is_answered(identity: Identity) -> None:
    async with (
        running_server(**identity.settings, GATEWAY_QUEUE_INTERVAL=0.05) as server,
        tls(server, identity.trust()) as stream,
    ):
        client = Client(stream.transport_stream, stream)
        await client.send("GET /?shard=1 HTTP/1.0")
        assert (await client.answer()).is_grant
        assert await client.rest() == b""


async def test_it_serves_under_the_hypercorn_command_as_well(identity: Identity) -> None:
    files = "--certfile", str(identity.certfile), "--keyfile", str(identity.keyfile)
    options = *files, "--graceful-timeout", str(LONG)
    async with (
        serving(*options, GATEWAY_QUEUE_INTERVAL=0.05) as server,
        connect(server, identity) as client,
        await dial(server.url),
    ):
        await client.ask(1)
        assert (await client.answer()).is_grant
        assert await server.stop() == 0


# Leaving


async def close(client: Client) -> None:
    await client.transport.aclose()


async def close_notify(client: Client) -> None:
    """And wait for the server to close, too."""
    with trio.fail_after(PATIENCE), suppress(trio.BrokenResourceError):
        await cast("Stream", client.stream).unwrap()


async def half_close(client: Client) -> None:
    await client.transport.send_eof()


async def reset(client: Client) -> None:
    client.transport.reset()


async def nonsense(client: Client) -> None:
    """Bytes that no key has encrypted."""
    await client.transport.send_all(50 * b"nonsense")


AHEAD = "GET /?shard=99 HTTP/1.1\r\nHost: queue\r\n\r\n"
WAYS = close, close_notify, half_close, reset, nonsense


async def test_leaving_is_noticed_at_once_and_costs_no_slot(identity: Identity) -> None:
    async with (
        running_server(**identity.settings, GATEWAY_QUEUE_INTERVAL=3) as server,
        AsyncExitStack() as clients,
    ):
        leaving: list[tuple[str, Callable[[Client], Awaitable[None]]]]
        leaving = [(behind, leave) for behind in ("", AHEAD) for leave in WAYS]
        for shard, (behind, leave) in enumerate(leaving):
            client = await clients.enter_async_context(connect(server, identity))
            await client.ask(shard, body=behind.encode())
            await server.logged("identify_queued", shard=shard)
            since = time.time()
            await leave(client)
            await left_at_once(server, shard, since=since)
        last = await clients.enter_async_context(connect(server, identity))
        await last.ask(100)
        assert (await last.answer()).is_grant
        await server.logged("identify_granted")
        assert await server.stop() == 0
        [granted] = server.logged_so_far("identify_granted")
        assert not troubles(server)
    assert granted["shard"] == 100
    assert granted["late"] < 0.1


async def test_http2_streams_leave_one_by_one(identity: Identity) -> None:
    async with (
        running_server(**identity.settings, GATEWAY_QUEUE_INTERVAL=1) as server,
        connect_http2(server, identity) as client,
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


# Handshakes


def hello(context: ssl.SSLContext) -> bytes:
    """What a client begins with."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


async def test_an_endless_handshake_does_not_affect_other_clients(
    identity: Identity,
) -> None:
    async with (
        running_server(**identity.settings, GATEWAY_QUEUE_INTERVAL=1) as server,
        AsyncExitStack() as clients,
    ):
        start = hello(identity.trust())
        begun_at = time.time()
        streams = [await clients.enter_async_context(await dial(server.url)) for _ in range(100)]
        for number, stream in enumerate(streams):
            await stream.send_all(start[: number * len(start) // 200])  # some: nothing
        all_begun_at = time.time()
        async with waiting(server, identity, 1) as client:
            assert (await client.answer()).is_grant
        granted = await server.logged("identify_granted")
        assert granted["late"] < 0.1
        with trio.fail_after(PATIENCE):
            for stream in streams:
                with suppress(trio.BrokenResourceError):
                    assert await stream.receive_some() == b""
                assert stream.ended_at - begun_at > HANDSHAKE_SECONDS - EXACT
                assert stream.ended_at - all_begun_at < HANDSHAKE_SECONDS + AT_ONCE
        assert await server.stop() == 0
        assert not troubles(server)


GARBAGE = {
    "HTTP without TLS": b"GET /?shard=2 HTTP/1.1\r\nHost: queue\r\n\r\n",
    "HTTP/2 without TLS": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "no protocol": bytes(range(256)) * 100,
    "a record with nonsense": bytes.fromhex("16 03 01 00 10") + b"0123456789abcdef",
}


async def test_garbage_ends_its_connection_and_nothing_else(identity: Identity) -> None:
    async with (
        running_server(**identity.settings, GATEWAY_QUEUE_INTERVAL=1) as server,
        waiting(server, identity, 1) as victim,
    ):
        for name, garbage in GARBAGE.items():
            async with await dial(server.url) as stream:
                since = time.time()
                with suppress(trio.BrokenResourceError):
                    await stream.send_all(garbage)
                assert await ended(Client(stream)), name
                assert stream.ended_at - since < AT_ONCE
        async with await dial(server.url) as stream:
            stream.reset()
        assert (await victim.answer()).is_grant
        assert await server.stop() == 0
        assert not troubles(server)
        assert not server.logged_so_far("identify_granted", shard=2)


async def test_nothing_older_than_tls_1_2_is_spoken(identity: Identity) -> None:
    def only(version: ssl.TLSVersion) -> ssl.SSLContext:
        context = identity.trust()
        context.set_ciphers("ALL:@SECLEVEL=0")  # or OpenSSL would not even try
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            context.minimum_version = context.maximum_version = version
        return context

    async with running_server(**identity.settings) as server:
        async with tls(server, only(ssl.TLSVersion.TLSv1_2)) as stream:
            assert stream.version() == "TLSv1.2"
        with pytest.raises(trio.BrokenResourceError) as caught:
            async with tls(server, only(ssl.TLSVersion.TLSv1_1)):
                pass
        assert isinstance(caught.value.__cause__, ssl.SSLEOFError)  # the server hung up


# Failing


async def test_malformed_http2_ends_its_stream_and_nothing_else(identity: Identity) -> None:
    async with (
        running_server(**identity.settings, GATEWAY_QUEUE_INTERVAL=0.5) as server,
        waiting(server, identity, 1) as victim,
        connect_http2(server, identity) as attacker,
    ):
        await attacker.reset_of(await attacker.ask(b"/\xff"))
        assert (await victim.answer()).is_grant


async def test_a_failing_handler_answers_nothing(identity: Identity) -> None:
    async with tampered_server("turn_fails", **identity.settings) as server:
        async with connect(server, identity) as client:
            await client.ask(1)
            assert await ended(client)
        async with connect_http2(server, identity) as http2:
            await http2.reset_of(await http2.ask("/?shard=2"))
        async with connect(server, identity) as client:
            await client.send("GET /healthz HTTP/1.1", ONE)
            assert (await client.answer()).status == 200


async def test_a_client_that_does_not_take_its_answer_is_cut_off(identity: Identity) -> None:
    ping = bytes.fromhex("000008 06 00 00000000") + b"8 octets"
    soon = "answers_must_be_taken_soon"
    async with (
        tampered_server(soon, **identity.settings, GATEWAY_QUEUE_INTERVAL=0.2) as server,
        connect_http2(server, identity, window=0) as stuck,
        connect_http2(server, identity) as deaf,
        connect(server, identity) as next_one,
    ):
        stream = await stuck.ask("/?shard=1")
        granted = await server.logged("identify_granted", shard=1)
        await stuck.reset_of(stream)
        not_taken = await server.logged("answer_not_taken")
        assert logged_at(not_taken) - logged_at(granted) < 0.3 + AT_ONCE
        with trio.fail_after(PATIENCE), suppress(trio.BrokenResourceError):
            while True:  # until no buffer takes more
                await deaf.stream.send_all(1_000 * ping)
        await next_one.ask(2)
        assert (await next_one.answer()).is_grant


# Ending


async def test_waiting_clients_are_served_for_the_grace_period_and_then_dropped(
    identity: Identity,
) -> None:
    settings = {"GATEWAY_QUEUE_INTERVAL": 3, "GATEWAY_QUEUE_SHUTDOWN_GRACE": 7}
    async with (
        running_server(**identity.settings, **settings) as server,
        AsyncExitStack() as clients,
    ):
        crowd = [
            await clients.enter_async_context(waiting(server, identity, shard))
            for shard in range(6)
        ]
        http2 = await clients.enter_async_context(connect_http2(server, identity))
        await http2.ask("/?shard=6")
        await server.logged("identify_queued", shard=6)
        await server.logged("identify_granted", shard=0)
        assert await server.stop() == 0
        assert seconds_to_end(server) < 7 + AT_ONCE
        unanswered = [await ended(client) for client in crowd]
        assert await ended(http2)
        assert not troubles(server)
    assert 2 <= unanswered.count(False) < len(crowd)
    assert unanswered == sorted(unanswered)


async def test_idle_connections_and_handshakes_do_not_hold_up_the_end(identity: Identity) -> None:
    async with (
        running_server(**identity.settings, GATEWAY_QUEUE_SHUTDOWN_GRACE=LONG) as server,
        AsyncExitStack() as clients,
    ):
        await clients.enter_async_context(connect(server, identity))
        http2 = await clients.enter_async_context(connect_http2(server, identity))
        await http2.answers([await http2.ask("/healthz")])
        for begun in (b"", hello(identity.trust()), hello(identity.trust())[:100]):
            stream = await clients.enter_async_context(await dial(server.url))
            await stream.send_all(begun)
        assert await server.stop() == 0
        assert seconds_to_end(server) < AT_ONCE


# The commands


async def test_the_commands_find_it_at_a_url(identity: Identity) -> None:
    async with running_server(**identity.settings, GATEWAY_QUEUE_INTERVAL=0.05) as server:
        for words, said in (("status", server.url), ("wait", "")):
            more = () if words == "status" else ("--shard", "1", "--timeout", "10")
            command = *SERVER, words, "--url", server.url, *more
            async with running(*command, SSL_CERT_FILE=identity.cafile) as program:
                assert await program.ended() == 0
            assert said in "".join(program.lines)


async def test_an_untrusted_server_is_reported(identity: Identity) -> None:
    async with (
        running_server(**identity.settings) as server,
        running(*SERVER, "status", "--url", server.url, SSL_CERT_FILE=None) as status,
    ):
        assert await status.ended() == 1
    assert len(status.lines) == 1
    assert f"no server answers at {server.url}: certificate verify failed" in status.lines[0]


# The key


async def test_a_key_that_does_not_fit_stops_the_start(identity: Identity, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    identity.issuer.issue_cert("queue.test").private_key_pem.write_to_path(other)
    code, words = await run_server(*("--keyfile", str(other)), **identity.settings)

    assert code == 2
    assert "gateway-queue: the values of GATEWAY_QUEUE_CERTFILE and GATEWAY_QUEUE_KEYFILE" in words
    assert len(words.splitlines()) == 1


async def test_the_key_is_never_logged(identity: Identity) -> None:
    key = [line for line in identity.keyfile.read_text().splitlines() if "-" not in line]
    async with running_server(
        **identity.settings, GATEWAY_QUEUE_LOG_LEVEL="debug", GATEWAY_QUEUE_INTERVAL=0.05
    ) as server:
        async with connect(server, identity) as client:
            await client.ask(1)
            await client.answer()
        async with connect_http2(server, identity) as http2:
            await http2.reset_of(await http2.ask(b"/\xff"))
        assert await server.stop() == 0
    said = "\n".join(server.lines)
    assert key
    assert not [line for line in key if line in said]
