"""The hikari bot of our examples, with a real queue and a fake Discord."""

import signal
import sys
import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import trio
from crowd import gone, granted, in_line
from fake_discord import FakeDiscord, fake_discord
from harness import Program, free_port, running, running_server
from instants import LOGGED_WITHIN, logged_at, opened_at
from patience import PATIENCE

BOT = Path(__file__).parent / "bots" / "hikari_recipe_bot.py"

# A tenth of what is usual, but the window: here is no margin of half a second.
INTERVAL, AFTER_CONFIRMATION, WINDOW = 0.5, 0.53, 0.4

OTHERS = range(100, 220)  # nobody's shards, which are granted in a minute
LONG = 60.0  # seconds of an interval whose end no test waits for


def discord_of_two() -> AbstractAsyncContextManager[FakeDiscord]:
    """It has hikari start both shards at once; the server here has one bucket for them."""
    return fake_discord(shards=2, max_concurrency=2, window=WINDOW)


def server_for(discord: FakeDiscord, **settings: object) -> AbstractAsyncContextManager[Program]:
    of_tests = {
        "DISCORD_TOKEN": discord.token,
        "GATEWAY_QUEUE_DISCORD_API": discord.api,
        "GATEWAY_QUEUE_MAX_CONCURRENCY": 1,
        "GATEWAY_QUEUE_INTERVAL": INTERVAL,
    }
    return running_server(**(of_tests | settings))


def bot(discord: FakeDiscord, queue: str) -> AbstractAsyncContextManager[Program]:
    return running(
        sys.executable,
        str(BOT),
        f"--discord={discord.url}",
        f"--queue={queue}",
        "--shards=0,1",
        "--shard-count=2",
        DISCORD_TOKEN=discord.token,
    )


async def both_ready(discord: FakeDiscord, identifies: int) -> None:
    """Wait until both shards are ready after so many IDENTIFYs."""
    with trio.fail_after(PATIENCE):
        await discord.until(lambda: len(discord.identifies) >= identifies)
        await discord.wait_ready(2)
    assert len(discord.identifies) == identifies


async def test_each_identify_has_a_turn_and_a_resume_needs_none() -> None:
    async with (
        discord_of_two() as discord,
        server_for(discord) as queue,
        in_line(queue, OTHERS) as others,
        bot(discord, queue.url) as hikari,
    ):
        for shard in (0, 1):
            await queue.logged("identify_queued", shard=shard)
        others.cancel()
        await both_ready(discord, 2)
        for shard in (0, 1):
            await hikari.logged("ready", shard=shard)

        discord.invalidate(0)
        discord.ask_to_reconnect(1)
        await hikari.logged("resumed", shard=1)
        await both_ready(discord, 3)

        assert await granted(queue, {0, 1}, 3) == [0, 0, 1]
        granted_lines = queue.logged_so_far("identify_granted")
        first, second, _ = (line for line in granted_lines if line["shard"] in {0, 1})
        # Were the first not confirmed, the second would have to wait for 1 s.
        opened = opened_at(second) - logged_at(first)
        assert AFTER_CONFIRMATION - LOGGED_WITHIN < opened < 2 * INTERVAL - LOGGED_WITHIN


async def test_both_get_ready_though_the_server_is_killed() -> None:
    port = free_port()
    async with discord_of_two() as discord, bot(discord, f"http://127.0.0.1:{port}"):
        async with server_for(discord, PORT=port, GATEWAY_QUEUE_INTERVAL=LONG) as first:
            for shard in (0, 1):
                await first.logged("identify_queued", shard=shard)
            await first.kill()
        async with server_for(discord, PORT=port) as second:
            await both_ready(discord, 2)
            assert await granted(second, {0, 1}, 2) == [0, 1]


async def test_a_bot_interrupted_during_its_launch_leaves_the_queue() -> None:
    async with (
        discord_of_two() as discord,
        server_for(discord, GATEWAY_QUEUE_INTERVAL=LONG) as queue,
        bot(discord, queue.url) as hikari,
    ):
        for shard in (0, 1):
            await queue.logged("identify_queued", shard=shard)
        since = time.time()
        hikari.process.send_signal(signal.SIGINT)
        assert await hikari.ended() == 0
        await gone(queue, {0, 1}, since=since)


async def test_a_bot_closed_while_it_waits_to_identify_again_leaves_the_queue() -> None:
    async with (
        discord_of_two() as discord,
        server_for(discord) as queue,
        bot(discord, queue.url) as hikari,
    ):
        for shard in (0, 1):
            await hikari.logged("ready", shard=shard)
        async with in_line(queue, OTHERS):
            discord.invalidate(0)
            await queue.logged_times(2, "identify_queued", shard=0)
            since = time.time()
            hikari.process.send_signal(signal.SIGUSR1)
            assert await hikari.ended() == 0
            await gone(queue, {0, 1}, since=since)

    assert len(discord.identifies) == 2
