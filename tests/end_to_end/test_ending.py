"""SIGTERM and SIGINT: who is still served, who is let go, and how soon it is over."""

import signal
import time
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
import trio
from harness import DEFAULTS, SERVER, Program, running, running_server
from instants import logged_at, seconds_to_end
from raw import AT_ONCE, GRANT, connect, connect_http2, tampered_server, waiting
from ways import on_one_server

pytestmark = pytest.mark.usefixtures("way")

ONE = "Host: queue"
LONG = 300  # seconds of an interval or a grace whose end no test waits for


async def refused(server: Program) -> bool:
    try:
        async with connect(server):
            return False
    except OSError:
        return True


@on_one_server
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_new_connections_are_refused_at_once(number: signal.Signals) -> None:
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=LONG, GATEWAY_QUEUE_SHUTDOWN_GRACE=LONG) as server,
        waiting(server, 1),
    ):
        server.process.send_signal(number)
        ending = await server.logged("ending", signal=number.name)
        while not await refused(server):
            assert time.time() - logged_at(ending) < AT_ONCE
        assert server.returncode is None


async def test_waiting_clients_are_granted_in_turn_for_the_grace_period_and_then_dropped() -> None:
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=3, GATEWAY_QUEUE_SHUTDOWN_GRACE=7) as server,
        AsyncExitStack() as clients,
    ):
        crowd = [await clients.enter_async_context(waiting(server, shard)) for shard in range(6)]
        http2 = await clients.enter_async_context(connect_http2(server))
        await http2.ask("/?shard=6")
        await server.logged("identify_queued", shard=6)
        await server.logged("identify_granted", shard=0)
        server.process.terminate()
        answers = [await client.rest() for client in crowd]
        assert await http2.rest() == []
        assert await server.ended() == 0
    granted = [answer for answer in answers if answer]
    assert 2 <= len(granted) < len(crowd)
    assert answers == granted + [b""] * (len(crowd) - len(granted))
    assert all(answer.endswith(GRANT) for answer in granted)


async def test_a_second_signal_ends_it_at_once() -> None:
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=LONG, GATEWAY_QUEUE_SHUTDOWN_GRACE=LONG) as server,
        waiting(server, 1) as client,
        connect_http2(server) as http2,
    ):
        await http2.ask("/?shard=2")
        await server.logged("identify_queued", shard=2)
        server.process.terminate()
        await server.logged("ending", signal="SIGTERM")
        server.process.send_signal(signal.SIGINT)
        assert await server.ended() == 0
        assert await client.rest() == b""
        assert await http2.rest() == []
        [again] = server.logged_so_far("ending", signal="SIGINT")
        for closed in (client, http2):
            assert closed.transport.ended_at - logged_at(again) < AT_ONCE


@on_one_server
async def test_idle_connections_do_not_hold_up_the_end() -> None:
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=0.05, GATEWAY_QUEUE_SHUTDOWN_GRACE=LONG) as server,
        AsyncExitStack() as clients,
    ):
        for path in ("/?shard=1", "/healthz", "/favicon.ico", "/?shard=nonsense"):
            client = await clients.enter_async_context(connect(server))
            await client.send(f"GET {path} HTTP/1.1", ONE)
            await client.answer()
            http2 = await clients.enter_async_context(connect_http2(server))
            await http2.answers([await http2.ask(path)])
        await clients.enter_async_context(connect(server))
        half = await clients.enter_async_context(connect(server))
        await half.stream.send_all(b"GET /?sha")
        assert await server.stop() == 0
        assert seconds_to_end(server) < AT_ONCE


async def test_clients_that_left_do_not_hold_up_the_end() -> None:
    async with running_server(
        GATEWAY_QUEUE_INTERVAL=LONG, GATEWAY_QUEUE_SHUTDOWN_GRACE=LONG
    ) as server:
        async with waiting(server, 1):
            pass
        for path in ("/healthz", "/?shard=nonsense", "/?shard=2"):
            for window in (None, 0):
                async with connect_http2(server, window=window) as http2:
                    await http2.ask(path)
        async with connect_http2(server) as http2:
            stream = await http2.ask("/?shard=3")
            await server.logged("identify_queued", shard=3)
            http2.protocol.reset_stream(stream)
            await http2.flush()
            await server.logged("identify_left", shard=3)
            assert await server.stop() == 0
            assert seconds_to_end(server) < AT_ONCE


@on_one_server
async def test_answers_that_are_not_taken_do_not_hold_up_the_end() -> None:
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=0.05, GATEWAY_QUEUE_SHUTDOWN_GRACE=0.5) as server,
        AsyncExitStack() as clients,
    ):
        for path in ("/healthz", "/?shard=nonsense", "/?shard=1"):
            client = await clients.enter_async_context(connect_http2(server, window=0))
            await client.answer_begun(await client.ask(path))
        assert await server.stop() == 0
        assert seconds_to_end(server) < 0.5 + AT_ONCE


@on_one_server
async def test_a_client_that_reads_nothing_does_not_hold_up_the_end() -> None:
    ping = bytes.fromhex("000008 06 00 00000000") + b"8 octets"
    async with (
        tampered_server("answers_must_be_taken_soon", GATEWAY_QUEUE_SHUTDOWN_GRACE=0.5) as server,
        connect_http2(server) as client,
    ):
        with trio.move_on_after(1), suppress(trio.BrokenResourceError):
            while True:  # until no buffer takes more
                await client.stream.send_all(1_000 * ping)
        assert await server.stop() == 0
        assert seconds_to_end(server) < 0.5 + 0.3 + AT_ONCE


# Replicas have no journal of their own.
@on_one_server
async def test_the_wait_for_a_journal_ends_at_once(tmp_path: Path) -> None:
    journal = {"GATEWAY_QUEUE_JOURNAL": f"sqlite:{tmp_path / 'journal.sqlite'}"}
    async with (
        running_server(**journal),
        running(*SERVER, **(DEFAULTS | journal)) as second,
    ):
        await second.logged("waiting_for_journal")
        assert await second.stop() == 0
