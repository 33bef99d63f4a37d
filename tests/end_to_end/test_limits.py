"""The session start limit, read from a fake Discord over real HTTP, in good times and bad."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import trio
from fake_discord import Answer, FakeDiscord, fake_discord
from harness import Program, free_port, running_server
from instants import EXACT, logged_at
from patience import PATIENCE
from raw import tampered_server
from shards import Grant, Shards, gaps, shards

from gateway_queue.discord import REFUSALS, REFUSED_PAUSE


def settings(api: str, **more: object) -> dict[str, object]:
    return {
        "DISCORD_TOKEN": FakeDiscord.token,
        "GATEWAY_QUEUE_DISCORD_API": api,
        "GATEWAY_QUEUE_INTERVAL": 0.2,
        **more,
    }


@asynccontextmanager
async def bot_of(discord: FakeDiscord, **more: object) -> AsyncIterator[tuple[Program, Shards]]:
    """Our server for this Discord, and shards that can ask it."""
    async with (
        running_server(**settings(discord.api, **more)) as server,
        shards(server.url) as bot,
    ):
        yield server, bot


# The first reading


async def test_requests_are_held_until_discord_can_be_reached() -> None:
    port = free_port()
    api = f"http://127.0.0.1:{port}/api/v10"
    async with (
        running_server(**settings(api, GATEWAY_QUEUE_LOG_LEVEL="debug")) as server,
        shards(server.url) as bot,
    ):
        bot.ask(0, 1, 2)
        await server.logged("identify_queued", position=3)
        await server.logged("limits_unreadable", failures=2)
        status, words = await bot.ready()
        assert status == 503
        assert "is unknown" in words
        assert not bot.grants

        async with fake_discord(port=port):
            await bot.granted(3)
            assert await bot.ready() == (200, "ready\n")


async def test_a_server_that_cannot_start_a_thread_reads_the_limits_later() -> None:
    async with fake_discord() as discord:
        api = discord.api.replace("127.0.0.1", "localhost")  # to be looked up, in a thread
        async with (
            tampered_server("has_no_thread_at_first", **settings(api)) as server,
            shards(server.url) as bot,
        ):
            bot.ask(0)
            trouble = await server.logged("limits_unreadable", level="warning")
            assert "can't start new thread" in trouble["error"]
            await bot.granted(1)


async def test_retry_after_is_honoured() -> None:
    async with fake_discord() as discord:
        limited = b'{"message": "You are being rate limited.", "retry_after": 1.7}'
        discord.answers.append((429, {"Retry-After": "1.7"}, limited))
        async with bot_of(discord) as (server, bot):
            bot.ask(0)
            trouble = await server.logged("limits_unreadable")
            read = await server.logged("limits_read")
            await bot.granted(1)

    assert "429" in trouble["error"]
    # Without the header it would be 1.0 at most.
    assert logged_at(read) - logged_at(trouble) >= 1.7 - EXACT


async def test_a_failing_discord_is_asked_again_ever_more_slowly() -> None:
    async with fake_discord() as discord:
        discord.answers += [(500, {}, b"oops"), (503, {"Retry-After": "nan"}, b"<html>oops</html>")]
        async with bot_of(discord) as (server, bot):
            bot.ask(0)
            lines = await server.logged_times(2, "limits_unreadable")
            lines.append(await server.logged("limits_read"))
            await bot.granted(1)

    pauses = [logged_at(after) - logged_at(before) for before, after in pairwise(lines)]
    assert pauses[0] >= 0.5 - EXACT
    assert pauses[1] >= 1.0 - EXACT
    assert len(server.logged_so_far("limits_unreadable", level="warning")) == 1
    assert len(server.logged_so_far("limits_read")) == 1


# What takes a while


async def test_what_later_readings_bring() -> None:
    """These stories take long, as readings do, and hardly any work: so side by side."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a_token_refused_at_the_start_ends_the_server)
        for nonsense in NONSENSE:
            nursery.start_soon(nonsense_leaves_the_limits_as_they_were, nonsense)
        nursery.start_soon(the_reserve_is_held_back_until_a_reading_shows_more)
        nursery.start_soon(nobody_is_lost_when_the_buckets_change)
        nursery.start_soon(a_cap_joins_whole_rate_limit_keys)


REFUSED: Answer = (401, {}, b'{"message": "401: Unauthorized", "code": 0}')


async def a_token_refused_at_the_start_ends_the_server() -> None:
    async with fake_discord() as discord:
        discord.answers += [REFUSED] * REFUSALS
        async with running_server(**settings(discord.api)) as server:
            code = await server.ended(within=(REFUSALS - 1) * REFUSED_PAUSE + PATIENCE)

    words = "\n".join(server.lines)
    assert code == 78
    assert "check DISCORD_TOKEN" in words
    assert "401" in words
    assert "Traceback" not in words
    assert FakeDiscord.token not in words
    assert len(discord.requests) == REFUSALS


def answer(**changes: Any) -> Answer:
    """What Discord answers, with these changes to the limit; None leaves a field out."""
    good = {"total": 1000, "remaining": 900, "reset_after": 0, "max_concurrency": 1}
    limit = {name: value for name, value in (good | changes).items() if value is not None}
    body = {"url": "wss://gateway.discord.gg", "shards": 1, "session_start_limit": limit}
    return 200, {}, json.dumps(body).encode()


NONSENSE = [  # two at a time, each with a word of the reason
    {"JSON": (200, {}, b'{"url": "wss://gatew'), "max_concurrency": answer(max_concurrency=0)},
    {"remaining": answer(remaining=None), "1001 of": answer(remaining=1001)},
    {
        "no sense": answer(reset_after=10**400),
        "Decoding": (200, {"Content-Encoding": "gzip"}, b"no"),
    },
    {"integer": answer(max_concurrency="16"), "greater": answer(reset_after=-1)},
]


async def nonsense_leaves_the_limits_as_they_were(nonsense: dict[str, Answer]) -> None:
    async with (
        fake_discord(remaining=900, reset_after=0) as discord,
        bot_of(discord, GATEWAY_QUEUE_LOG_LEVEL="debug") as (server, bot),
    ):
        await server.logged("limits_read")
        discord.answers += nonsense.values()
        bot.ask(0)
        await bot.granted(1)

        levels = {1: "warning", 2: "debug"}
        for (failures, level), reason in zip(levels.items(), nonsense, strict=True):
            trouble = await server.logged("limits_unreadable", failures=failures, level=level)
            assert reason in trouble["error"]
            assert trouble["using"] == "the last known limits"
            bot.ask(failures)
            await bot.granted(1 + failures)
            assert await bot.ready() == (200, "ready\n")
        assert not server.logged_so_far("buckets_changed")


async def the_reserve_is_held_back_until_a_reading_shows_more() -> None:
    async with (
        fake_discord(total=8, reset_after=0) as discord,
        bot_of(discord, GATEWAY_QUEUE_RESERVE=2) as (server, bot),
    ):
        bot.ask(*range(8))
        # The grants of the last minute are taken off once more: of 7 the 3 before, of 8 the 5.
        for remaining, granted in [(5, 3), (7, 5), (8, 6)]:
            discord.remaining = remaining
            await bot.granted(granted)
            await trio.sleep(0.5)  # in which two more would come
            assert len(bot.grants) == granted

        await server.logged_times(3, "session_starts_reserve_reached")
        assert len(server.logged_so_far("session_starts_reserve_reached")) == 3
        assert len(server.logged_so_far("session_starts_half_used")) == 1


async def nobody_is_lost_when_the_buckets_change() -> None:
    interval = 0.5
    one_key, others = range(0, 26 * 16, 16), range(1, 16)
    async with (
        fake_discord(remaining=900, reset_after=0) as discord,
        bot_of(discord, GATEWAY_QUEUE_INTERVAL=interval) as (server, bot),
    ):
        await server.logged("limits_read", max_concurrency=1)
        discord.max_concurrency = 16
        bot.ask(*one_key)
        await bot.granted(1)
        bot.ask(*others)
        await server.logged("buckets_changed", buckets=16)
        await bot.granted(len(bot.grants) + len(others) + 2)  # two of them of one bucket
        discord.max_concurrency = 1
        await server.logged("buckets_changed", buckets=1)
        await bot.granted(len(one_key) + len(others))
        await server.logged_times(len(bot.grants), "identify_granted")

    assert {grant.shard for grant in bot.grants} == {*one_key, *others}
    first, second, third = phases(server, bot)
    assert min(gaps(first) + gaps(third)) >= interval - EXACT
    assert min(gaps(second, lambda shard: shard % 16)) >= interval - EXACT
    assert min(seams(first, second, third)) >= interval - EXACT
    assert {grant.shard for grant in second} > {*others}


async def a_cap_joins_whole_rate_limit_keys() -> None:
    interval = 0.8
    async with (
        fake_discord(remaining=900, reset_after=0, max_concurrency=6) as discord,
        bot_of(discord, GATEWAY_QUEUE_INTERVAL=interval, GATEWAY_QUEUE_MAX_CONCURRENCY=4) as (
            server,
            bot,
        ),
    ):
        await server.logged("buckets_changed", buckets=4, max_concurrency=6)
        bot.ask(*range(32))
        await bot.granted(8)  # two of them of one bucket
        discord.max_concurrency = 16
        await server.logged("buckets_changed", buckets=4, max_concurrency=16)
        await bot.granted(32)
        await server.logged_times(32, "identify_granted")

    assert {grant.shard for grant in bot.grants} == {*range(32)}
    _, six, sixteen = phases(server, bot)
    assert min(gaps(six, lambda shard: shard % 6 % 4)) >= interval - EXACT
    assert min(gaps(sixteen, lambda shard: shard % 16 % 4)) >= interval - EXACT
    assert min(seams(six, sixteen)) >= interval - EXACT


def phases(server: Program, bot: Shards) -> list[list[Grant]]:
    """The grants as the shards saw them, divided where the buckets changed."""
    seen = {grant.shard: grant for grant in bot.grants}
    divided: list[list[Grant]] = [[]]
    for line in server.log:
        if line["event"] == "buckets_changed":
            divided.append([])
        if line["event"] == "identify_granted":
            divided[-1].append(seen[line["shard"]])
    return divided


def seams(*divided: list[Grant]) -> list[float]:
    """The seconds between the last grant of one phase and the first of the next."""
    return [
        min(grant.at for grant in after) - max(grant.at for grant in before)
        for before, after in pairwise(divided)
    ]
