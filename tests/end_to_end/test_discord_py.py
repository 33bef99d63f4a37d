"""Two discord.py processes of one bot, as real clients meet: with the queue and without it."""

import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import pairwise
from pathlib import Path

import trio
from fake_discord import FakeDiscord, fake_discord
from harness import Program, running, running_server

BOT = Path(__file__).parent / "bots" / "discord_py_bot.py"


@asynccontextmanager
async def two_bots(discord: FakeDiscord, queue: str) -> AsyncIterator[tuple[Program, Program]]:
    """Three shards each, which launch one after another; both rate limit keys in either."""

    def bot(shards: str) -> AbstractAsyncContextManager[Program]:
        return running(
            sys.executable,
            str(BOT),
            f"--discord={discord.url}",
            f"--queue={queue}",
            f"--shards={shards}",
            "--shard-count=6",
            DISCORD_TOKEN=discord.token,
        )

    async with bot("0,1,2") as one, bot("3,4,5") as other:
        yield one, other


async def test_two_processes_identify_in_turn() -> None:
    async with (
        fake_discord(shards=6, max_concurrency=2) as discord,
        running_server(DISCORD_TOKEN=discord.token, GATEWAY_QUEUE_DISCORD_API=discord.api) as queue,
        two_bots(discord, queue.url) as bots,
    ):
        with trio.fail_after(50):
            for shard in range(6):
                await bots[shard // 3].logged("ready", shard=shard)

    assert discord.violations == []
    assert sorted(identify.shard for identify in discord.identifies) == [0, 1, 2, 3, 4, 5]
    for key in range(2):
        times = [identify.at for identify in discord.identifies if identify.shard % 2 == key]
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert all(gap >= discord.window for gap in gaps), gaps


async def test_without_the_queue_they_collide() -> None:
    async with fake_discord(shards=6, max_concurrency=2) as discord, two_bots(discord, "none"):
        with trio.fail_after(30):
            await discord.until(lambda: {one.shard // 3 for one in discord.violations} == {0, 1})

    assert {violation.breach for violation in discord.violations} == {"too_early"}
