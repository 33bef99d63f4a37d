"""Our mixin in bots with discord.py and disnake, and what becomes of bots without it.

What waits here for turns is one bot of six shards in four processes: of either library one that
is sharded and one that is not. Where it says so, their libraries have shorter timeouts than they
come with, so that seconds in the queue are as good as minutes; the slow test has the true ones.
"""

import signal
import sys
import time
from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
from agreeing import agreeing_queue
from crowd import gone, granted, in_line
from fake_discord import FakeDiscord, fake_discord
from harness import Program, free_port, running, running_server
from patience import PATIENCE

BOT = Path(__file__).parent / "bots" / "discord_py_bot.py"

# nextcord and py-cord have been played by hand: py-cord's package has the name of discord.py's.
SHARDED = {"discord": "0,1", "disnake": "2,3"}
SINGLE = {"discord": "5", "disnake": "7"}
FIRST = {0, 2}  # of those that are sharded
SECOND = {1, 3}  # which are launched after those
ALONE = {5, 7}
FLEET = FIRST | SECOND | ALONE

# Shards that are nobody's, but stand in the line; of two buckets ODD is in that of SECOND and
# ALONE, and MORE in both. As many as are granted in a minute.
ODD, MORE = range(101, 341, 2), range(400, 640)

# A tenth of what is usual, but the window: here is no margin of half a second.
INTERVAL, AFTER_READY, WINDOW = 0.5, 0.5, 0.4

TIMEOUTS = 1 / 30  # makes 2 s of the libraries' 60 s, and 6 s of their 180 s
LONG = 60.0  # seconds of an interval whose end no test waits for


def bot(
    discord: FakeDiscord, queue: str, ids: str, *options: str, **environment: object
) -> AbstractAsyncContextManager[Program]:
    return running(
        sys.executable,
        str(BOT),
        f"--discord={discord.url}",
        f"--queue={queue}",
        f"--shards={ids}",
        f"--shard-count={discord.shards}",
        *options,
        DISCORD_TOKEN=discord.token,
        **environment,
    )


@asynccontextmanager
async def fleet(
    discord: FakeDiscord, queue: str, *options: str, **environment: object
) -> AsyncIterator[dict[int, Program]]:
    """The process of each shard."""
    processes: dict[int, Program] = {}
    async with AsyncExitStack() as stack:
        for form, libraries in [("--sharded", SHARDED), ("--single", SINGLE)]:
            for library, ids in libraries.items():
                process = await stack.enter_async_context(
                    bot(discord, queue, ids, form, f"--library={library}", *options, **environment)
                )
                processes |= {int(shard): process for shard in ids.split(",")}
        yield processes


def discord_for_fleet(**settings: Any) -> AbstractAsyncContextManager[FakeDiscord]:
    return fake_discord(**({"shards": max(FLEET) + 1, "window": WINDOW} | settings))


def server_for(discord: FakeDiscord, **settings: object) -> AbstractAsyncContextManager[Program]:
    of_tests = {"DISCORD_TOKEN": discord.token, "GATEWAY_QUEUE_DISCORD_API": discord.api}
    return running_server(**(of_tests | {"GATEWAY_QUEUE_INTERVAL": INTERVAL} | settings))


async def all_ready(
    discord: FakeDiscord, identifies: int, *, shards: int = len(FLEET), within: float = PATIENCE
) -> None:
    """Wait until so many shards are ready after so many IDENTIFYs, none of them too early."""
    with trio.fail_after(within):
        await discord.until(lambda: len(discord.identifies) >= identifies)
        await discord.wait_ready(shards)
    assert discord.violations == []
    assert len(discord.identifies) == identifies


def trouble(programs: dict[int, Program]) -> list[str]:
    """What a bot says that a user would ask about."""
    words = ("Traceback", "ERROR", "Error:", "stopped responding", "Attempting a reconnect")
    lines = [line for program in programs.values() for line in program.lines]
    return [line for line in lines if any(word in line for word in words)]


# With Discord's true window


async def test_two_processes_identify_in_turn() -> None:
    async with (
        fake_discord(shards=4, max_concurrency=2) as discord,
        server_for(discord, GATEWAY_QUEUE_INTERVAL=5.5) as queue,
        bot(discord, queue.url, "0,1"),
        bot(discord, queue.url, "2,3"),
    ):
        await all_ready(discord, 4, shards=4)

    assert sorted(identify.shard for identify in discord.identifies) == [0, 1, 2, 3]
    for key in range(2):
        instants = [identify.at for identify in discord.identifies if identify.shard % 2 == key]
        gaps = [later - earlier for earlier, later in pairwise(instants)]
        assert all(gap >= discord.window for gap in gaps), gaps


async def test_without_the_queue_they_collide() -> None:
    async with (
        fake_discord(shards=4, max_concurrency=2) as discord,
        bot(discord, "none", "0,1"),
        bot(discord, "none", "2,3"),
    ):
        with trio.fail_after(PATIENCE):
            await discord.until(lambda: bool(discord.violations))

    assert {violation.breach for violation in discord.violations} == {"too_early"}


# Long waits


async def test_they_wait_for_longer_than_their_libraries_would() -> None:
    async with (
        discord_for_fleet(max_concurrency=2) as discord,
        server_for(discord) as queue,
        in_line(queue, ODD) as others,
        fleet(discord, queue.url, f"--timeouts={TIMEOUTS}") as processes,
    ):
        for shard in FIRST:
            await processes[shard].logged("ready", shard=shard)
        for shard in SECOND | ALONE:
            await queue.logged("identify_queued", shard=shard)
        await resume(discord, processes, FIRST)
        await trio.sleep(190 * TIMEOUTS)
        assert await granted(queue, FLEET, len(FIRST)) == sorted(FIRST)
        others.cancel()
        await all_ready(discord, 6)

        async with in_line(queue, MORE):
            for shard in FIRST | ALONE:
                discord.invalidate(shard)
                await queue.logged_times(2, "identify_queued", shard=shard)
            await resume(discord, processes, SECOND)
            await trio.sleep(90 * TIMEOUTS)
            assert await granted(queue, FLEET, len(FLEET)) == sorted(FLEET)
        await all_ready(discord, 10)

        turns = sorted([*FLEET, *FIRST, *ALONE])
        assert await granted(queue, FLEET, len(turns)) == turns
        assert trouble(processes) == []


async def resume(
    discord: FakeDiscord, processes: dict[int, Program], shards: Collection[int]
) -> None:
    """Have them RESUME, for which they need not wait in line."""
    for shard in shards:
        discord.ask_to_reconnect(shard)
    for shard in shards:
        await processes[shard].logged("resumed", shard=shard)


async def test_a_shard_that_the_bot_has_reconnected_asks_in_the_hook() -> None:
    async with (
        discord_for_fleet() as discord,
        server_for(discord) as queue,
        fleet(discord, queue.url) as processes,
    ):
        await all_ready(discord, 6)
        for shard in FIRST:
            processes[shard].process.send_signal(signal.SIGUSR2)
        await all_ready(discord, 8)

        turns = sorted([*FLEET, *FIRST])
        assert await granted(queue, FLEET, len(turns)) == turns
        assert trouble(processes) == []


async def test_identifying_again_needs_no_other_request_to_discord() -> None:
    async with (
        discord_for_fleet() as discord,
        server_for(discord) as queue,
        fleet(discord, queue.url) as processes,
    ):
        await all_ready(discord, 6)
        discord.answers.extend([(404, {}, b"{}")] * len(ALONE))
        for shard in ALONE:
            discord.invalidate(shard)
        await all_ready(discord, 8)

        turns = sorted([*FLEET, *ALONE])
        assert await granted(queue, FLEET, len(turns)) == turns
        assert trouble(processes) == []


# Hooks of the bot and of its framework


async def test_hooks_are_called_once_for_each_identify_and_none_sleeps() -> None:
    async with (
        discord_for_fleet() as discord,
        server_for(discord) as queue,
        fleet(discord, queue.url, "--hooks") as processes,
    ):
        await all_ready(discord, 6)
        for shard in FIRST | ALONE:
            discord.invalidate(shard)
        await all_ready(discord, 10)

        # After the library's five seconds a turn would be too old, and another one needed.
        turns = sorted([*FLEET, *FIRST, *ALONE])
        assert await granted(queue, FLEET, len(turns)) == turns
        for shard in FLEET:
            first = shard not in SECOND  # of its process
            expected = [("bot", first), ("framework", first)]
            if first:
                expected += [("bot", False), ("framework", False)]
            calls = [
                (line["of"], line["initial"])
                for line in await processes[shard].logged_times(len(expected), "hook", shard=shard)
            ]
            assert calls == expected
            assert len(processes[shard].logged_so_far("hook", shard=shard)) == len(expected)
        assert trouble(processes) == []


async def test_a_hook_that_takes_too_long_costs_a_turn_and_is_not_called_again() -> None:
    async with (
        discord_for_fleet() as discord,
        server_for(discord) as queue,
        fleet(discord, queue.url, "--hooks", "--hooks-take=0.5", "--turn-lasts=0.3") as processes,
    ):
        await all_ready(discord, 6)

        turns = sorted([*FLEET, *FLEET])
        assert await granted(queue, FLEET, len(turns)) == turns
        for shard in FLEET:
            await processes[shard].logged("hook", of="framework", shard=shard)
            assert len(processes[shard].logged_so_far("hook", of="framework", shard=shard)) == 1


# A turn and its IDENTIFY


async def test_what_became_of_an_identify_is_told() -> None:
    """READY, or an op 9 where it came too early; and nothing of a session that is lost later."""
    async with (
        discord_for_fleet(window=0.3) as discord,
        agreeing_queue() as queue,
        fleet(discord, queue.url),
    ):
        with trio.fail_after(PATIENCE):
            await queue.until(lambda: all(told(queue.of(shard)).count("ready") for shard in FLEET))
            for shard in FLEET:
                discord.invalidate(shard)
            await queue.until(
                lambda: all(told(queue.of(shard)).count("ready") == 2 for shard in FLEET)
            )
        outcomes = {shard: told(queue.of(shard)) for shard in FLEET}

    assert discord.violations
    for shard in FLEET:
        answers = [
            "ready" if identify.accepted else "invalid_session"
            for identify in discord.identifies
            if identify.shard == shard
        ]
        assert outcomes[shard] == answers


def told(requests: Collection[str]) -> list[str]:
    """The outcomes; each is of the latest grant, and none is told without one."""
    outcomes: list[str] = []
    for request in requests:
        if request == "ask":
            confirmed = None
            continue
        number, _, outcome = request.removeprefix("grant=").partition("&outcome=")
        assert int(number) > 0
        assert confirmed in {None, number}
        confirmed = number
        if outcome:
            outcomes.append(outcome)
    return outcomes


async def test_the_identify_is_confirmed_at_ready_too() -> None:
    lag = 0.6  # of what Discord sends, and of each IDENTIFY
    after_ready = 3 * AFTER_READY
    async with (
        discord_for_fleet(latency=lag) as discord,
        server_for(discord, GATEWAY_QUEUE_INTERVAL=3 * INTERVAL) as queue,
        in_line(queue, ODD) as others,
        fleet(discord, queue.url),
    ):
        for shard in FIRST | ALONE:
            await queue.logged("identify_queued", shard=shard)
        others.cancel()
        await all_ready(discord, 6)

    instants = [identify.at for identify in discord.identifies if identify.shard not in SECOND]
    for earlier, later in pairwise(instants):
        # READY takes a lag, and so do the HELLO and the IDENTIFY of the next. Confirmed only as
        # it is sent, it would be two lags less.
        assert after_ready - lag / 2 < later - earlier - 3 * lag < after_ready + lag


async def test_a_turn_is_dropped_if_connecting_takes_too_long() -> None:
    async with (
        discord_for_fleet(latency=0.5) as discord,
        server_for(discord) as queue,
        fleet(discord, queue.url, "--turn-lasts=0.2"),
    ):
        await all_ready(discord, 6)

    turns = sorted([*FLEET, *FLEET])
    assert await granted(queue, FLEET, len(turns)) == turns


# The server ends


async def test_everyone_gets_ready_though_the_server_is_killed() -> None:
    port = free_port()
    async with (
        discord_for_fleet() as discord,
        fleet(discord, f"http://127.0.0.1:{port}") as processes,
    ):
        async with server_for(discord, PORT=port, GATEWAY_QUEUE_INTERVAL=LONG) as first:
            for shard in FIRST | ALONE:
                await first.logged("identify_queued", shard=shard)
            await first.kill()
        async with server_for(discord, PORT=port) as second:
            await all_ready(discord, 6)
            async with in_line(second, ODD):
                for shard in FIRST | ALONE:
                    discord.invalidate(shard)
                    await second.logged_times(2, "identify_queued", shard=shard)
                await second.kill()
        async with server_for(discord, PORT=port) as third:
            await all_ready(discord, 10)

        assert await granted(second, FLEET, len(FLEET)) == sorted(FLEET)
        assert await granted(third, FLEET, len(FIRST | ALONE)) == sorted(FIRST | ALONE)
        assert trouble(processes) == []


# The bot ends


@pytest.mark.parametrize("goodbye", [signal.SIGINT, signal.SIGUSR1], ids=["ctrl-c", "close"])
async def test_a_bot_that_ends_during_its_launch_leaves_the_queue(goodbye: signal.Signals) -> None:
    async with (
        discord_for_fleet() as discord,
        server_for(discord, GATEWAY_QUEUE_INTERVAL=LONG) as queue,
        fleet(discord, queue.url) as processes,
    ):
        for shard in FIRST | ALONE:
            await queue.logged("identify_queued", shard=shard)
        await leave(queue, processes, goodbye)

    assert discord.identifies == []


@pytest.mark.parametrize("goodbye", [signal.SIGINT, signal.SIGUSR1], ids=["ctrl-c", "close"])
async def test_a_bot_that_ends_while_it_waits_to_identify_again_leaves_the_queue(
    goodbye: signal.Signals,
) -> None:
    async with (
        discord_for_fleet() as discord,
        server_for(discord) as queue,
        fleet(discord, queue.url) as processes,
    ):
        await all_ready(discord, 6)
        async with in_line(queue, ODD):
            for shard in FIRST | ALONE:
                discord.invalidate(shard)
                await queue.logged_times(2, "identify_queued", shard=shard)
            await leave(queue, processes, goodbye)

    assert len(discord.identifies) == len(await granted(queue, FLEET, 6)) == 6


async def test_a_bot_that_takes_long_to_close_stops_asking_and_closes_completely() -> None:
    async with (
        discord_for_fleet() as discord,
        server_for(discord, GATEWAY_QUEUE_INTERVAL=LONG) as queue,
        fleet(discord, queue.url, "--reluctant") as processes,
    ):
        for shard in FIRST | ALONE:
            await queue.logged("identify_queued", shard=shard)
        await leave(queue, processes, signal.SIGUSR1)
        assert await queue.stop() == 0
        asked = [line["shard"] for line in queue.logged_so_far("identify_queued")]

    assert sorted(asked) == sorted(FIRST | ALONE)
    for shard in FIRST | ALONE:
        assert processes[shard].logged_so_far("cogs_ended")


async def leave(queue: Program, processes: dict[int, Program], goodbye: signal.Signals) -> None:
    since = time.time()
    for shard in FIRST | ALONE:
        processes[shard].process.send_signal(goodbye)
    for shard in FIRST | ALONE:
        assert await processes[shard].ended() == 0
    await gone(queue, FLEET, since=since)
    assert trouble(processes) == []


# The server refuses


async def test_a_bot_without_the_api_key_ends() -> None:
    async with (
        discord_for_fleet() as discord,
        server_for(discord, GATEWAY_QUEUE_API_KEY="sesame") as queue,
        fleet(discord, queue.url) as processes,
    ):
        await all_end_refused(processes)

    assert discord.identifies == []


async def test_a_bot_with_an_outdated_api_key_ends_when_it_has_to_identify() -> None:
    port = free_port()
    async with (
        discord_for_fleet() as discord,
        fleet(discord, f"http://127.0.0.1:{port}", GATEWAY_QUEUE_API_KEY="sesame") as processes,
    ):
        async with server_for(discord, PORT=port, GATEWAY_QUEUE_API_KEY="sesame"):
            await all_ready(discord, 6)
        async with server_for(discord, PORT=port, GATEWAY_QUEUE_API_KEY="changed"):
            for shard in FIRST | ALONE:
                discord.invalidate(shard)
            await all_end_refused(processes)

    assert len(discord.identifies) == 6


async def all_end_refused(processes: dict[int, Program]) -> None:
    for shard in FIRST | ALONE:
        assert await processes[shard].ended() == 1
        assert any("RefusedError" in line for line in processes[shard].lines)


# The true timeouts


@pytest.mark.slow
async def test_holds_of_minutes() -> None:
    """Of 200 s for all who launch; of 90 s for them and for those who identify again."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold_all, 200, ())
        nursery.start_soon(hold_all, 90, FIRST | ALONE)


async def hold_all(seconds: int, again: Collection[int]) -> None:
    async with (
        discord_for_fleet(window=5.0) as discord,
        server_for(discord, GATEWAY_QUEUE_INTERVAL=seconds) as queue,
        fleet(discord, queue.url) as processes,
    ):
        await all_ready(discord, 6, within=seconds + 60)
        if again:
            async with in_line(queue, [100]):  # which does not confirm: the bucket stays closed
                await queue.logged("identify_granted", shard=100)
            for shard in again:
                discord.invalidate(shard)
            await all_ready(discord, 6 + len(again), within=seconds + 60)

        turns = sorted([*FLEET, *again])
        assert await granted(queue, FLEET, len(turns)) == turns
        assert trouble(processes) == []
