"""A launch through HAProxy and three replicas, of which one is killed and one is rolled."""

import json
import sys
from collections import defaultdict
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from background import background
from engines import INSTALLED, servers
from fake_discord import FakeDiscord, Op, fake_discord
from harness import Program, free_port, running, running_server
from patience import PATIENCE
from proxies import HAPROXY, balancer
from shards import shards
from trio_websocket import open_websocket_url

pytestmark = [
    pytest.mark.skipif(not INSTALLED, reason="neither Redis nor Valkey is installed"),
    pytest.mark.skipif(HAPROXY.path is None, reason="HAProxy is not installed"),
]

BOT = Path(__file__).parent / "bots" / "discord_py_bot.py"

SHARDS, BUCKETS = 64, 16
PROCESSES = [range(first, first + 12) for first in range(0, 48, 12)]
PLAIN = range(48, 64)  # those that ask as twilight does: plainly

# The physical limit: four shards in each bucket, five seconds from one to the next.
LIMIT = 3 * 5.0


async def test_all_get_ready_and_discord_never_answers_with_an_op_9(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        engine = stack.enter_context(servers(tmp_path))(INSTALLED[-1])
        await engine.start()
        discord = await stack.enter_async_context(
            fake_discord(shards=SHARDS, max_concurrency=BUCKETS)
        )
        ports = [free_port() for _ in range(3)]
        leader, doomed, _ = [
            await stack.enter_async_context(replica(engine.url, discord, port)) for port in ports
        ]
        await leader.logged("limits_read")
        queue = await stack.enter_async_context(balancer(ports, tmp_path))
        nursery = await stack.enter_async_context(background())
        for ids in PROCESSES:
            process = running(
                sys.executable,
                str(BOT),
                f"--discord={discord.url}",
                f"--queue={queue}",
                f"--shards={','.join(map(str, ids))}",
                f"--shard-count={SHARDS}",
                DISCORD_TOKEN=discord.token,
            )
            await stack.enter_async_context(process)
        for shard in PLAIN:
            nursery.start_soon(identify_plainly, queue, discord, shard)

        await ready(discord, BUCKETS)
        await doomed.kill()
        await ready(discord, 2 * BUCKETS)
        assert await leader.stop() == 0
        await stack.enter_async_context(replica(engine.url, discord, ports[0]))
        await ready(discord, SHARDS)

    assert discord.violations == []
    assert len(discord.identifies) == SHARDS
    at = [identify.at for identify in discord.identifies]
    sys.stdout.write(f"ratio to the physical limit: {(max(at) - min(at)) / LIMIT:.3f}\n")
    for times in by_bucket(discord).values():
        assert all(later - earlier >= discord.window for earlier, later in pairwise(times))


async def ready(discord: FakeDiscord, number: int) -> None:
    """Wait until so many shards are ready."""
    with trio.fail_after(PATIENCE):
        await discord.wait_ready(number)


def by_bucket(discord: FakeDiscord) -> dict[int, list[float]]:
    """When Discord heard the IDENTIFYs of each bucket."""
    buckets = defaultdict(list)
    for identify in discord.identifies:
        buckets[identify.shard % BUCKETS].append(identify.at)
    return buckets


def replica(engine: str, discord: FakeDiscord, port: int) -> AbstractAsyncContextManager[Program]:
    """One of the replicas, at this port."""
    return running_server(
        PORT=port,
        DISCORD_TOKEN=discord.token,
        GATEWAY_QUEUE_DISCORD_API=discord.api,
        GATEWAY_QUEUE_JOURNAL=None,
        GATEWAY_QUEUE_REDIS=engine,
    )


async def identify_plainly(queue: str, discord: FakeDiscord, shard: int) -> None:
    """Ask until granted, then IDENTIFY, and stay."""
    async with shards(queue) as asking:
        asking.ask(shard)
        await asking.granted(1)
    async with open_websocket_url(f"{discord.gateway}/?v=10&encoding=json") as socket:
        await socket.get_message()  # HELLO
        token = {"token": discord.token, "shard": [shard, discord.shards]}
        await socket.send_message(json.dumps({"op": Op.IDENTIFY, "d": token}))
        await trio.sleep_forever()
