"""Our app under the hypercorn command, as far as that allows."""

import sys
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from engines import INSTALLED, servers
from harness import DEFAULTS, free_port, running
from hypercorn_command import APP, hypercorn, serving
from instants import EXACT
from raw import GRANT, Answer, answer_of, connect, connect_http2, grant_of, waiting


async def test_it_grants_and_ends() -> None:
    grace = "--graceful-timeout", "300"  # seconds, which no test waits for
    async with serving(*grace, GATEWAY_QUEUE_INTERVAL=0.2) as server, connect(server) as idle:
        await grant_of(server, 1)
        await grant_of(server, 2)
        await idle.send("GET /healthz HTTP/1.1", "Host: queue")
        assert (await idle.answer()).status == 200
        assert await server.stop() == 0


async def test_waiting_clients_are_granted_in_turn_for_the_grace_period_and_then_dropped() -> None:
    options = "--graceful-timeout", "7"
    async with serving(*options, GATEWAY_QUEUE_INTERVAL=3) as server, AsyncExitStack() as clients:
        crowd = [await clients.enter_async_context(waiting(server, shard)) for shard in range(6)]
        await server.logged("identify_granted", shard=0)
        server.process.terminate()
        answers = [await client.rest() for client in crowd]
        assert await server.ended() == 0
    granted = [answer for answer in answers if answer]
    assert 1 <= len(granted) < len(crowd)
    assert answers == granted + [b""] * (len(crowd) - len(granted))
    assert all(answer.endswith(GRANT) for answer in granted)


async def test_malformed_http2_ends_its_stream_and_nothing_else() -> None:
    async with serving(GATEWAY_QUEUE_INTERVAL=0.2) as server:
        async with connect_http2(server) as attacker:
            await attacker.reset_of(await attacker.ask(b"/\xff"))
        await grant_of(server, 1)


async def test_a_crash_of_the_core_ends_it_without_a_grant() -> None:
    async with (
        serving(TAMPERING="bucket_crashes", GATEWAY_QUEUE_INTERVAL=0.2) as server,
        connect(server) as client,
    ):
        await client.ask(1)
        assert await client.rest() == b""
        await server.ended()
        await server.logged("core_crashed")
        assert "RuntimeError: sabotage" in "\n".join(server.lines)


async def test_a_second_worker_is_refused() -> None:
    async with hypercorn("127.0.0.1:0", "--workers", "2") as server:
        await server.ended()
        assert "set that, or run it with --workers 1" in "\n".join(server.lines)


@pytest.mark.skipif(not INSTALLED, reason="neither Redis nor Valkey is installed")
async def test_workers_that_share_redis_are_replicas(tmp_path: Path) -> None:
    interval = 0.3
    with servers(tmp_path) as make:
        engine = make(INSTALLED[0])
        await engine.start()
        given = {"GATEWAY_QUEUE_REDIS": engine.url, "GATEWAY_QUEUE_INTERVAL": interval}
        async with serving("--workers", "2", **given) as server:
            joined = await server.logged_times(2, "replica_joined")
            assert len({line["replica"] for line in joined}) == 2

            answers: dict[int, Answer] = {}

            async def ask(shard: int) -> None:
                answers[shard] = await answer_of(server, f"GET /?shard={shard} HTTP/1.1", "Host: q")

            async with trio.open_nursery() as nursery:
                for shard in range(12):
                    nursery.start_soon(ask, shard)
            assert all(answer.is_grant for answer in answers.values())
            instants = sorted(answer.at for answer in answers.values())
            assert min(late - soon for soon, late in pairwise(instants)) >= interval - EXACT
            assert await server.stop() == 0


async def test_of_several_workers_each_says_what_setting_is_wrong() -> None:
    async with hypercorn("127.0.0.1:0", "--workers", "2", GATEWAY_QUEUE_INTERVAL=-1) as server:
        await server.ended()
        assert "GATEWAY_QUEUE_INTERVAL=-1 is not allowed" in "\n".join(server.lines)


async def test_a_wrong_setting_ends_it() -> None:
    async with hypercorn("127.0.0.1:0", GATEWAY_QUEUE_INTERVAL=-1) as server:
        await server.ended()
        assert "GATEWAY_QUEUE_INTERVAL=-1 is not allowed" in "\n".join(server.lines)


async def test_it_does_not_serve_on_another_worker() -> None:
    """There every request would be answered 500, which old clients take for permission."""
    address = f"127.0.0.1:{free_port()}"
    command = sys.executable, "-m", "hypercorn", "--bind", address, APP
    async with running(*command, **DEFAULTS) as server:
        await server.ended()
        assert "--worker-class trio" in "\n".join(server.lines)
