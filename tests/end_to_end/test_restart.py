"""Restarts: after ``kill -9`` nobody is granted too early, and the day's count is still known.

A server is killed at the end of its block.
"""

from pathlib import Path

import trio
from harness import DEFAULTS, SERVER, free_port, running, running_server
from shards import LAG, gaps, shards


async def test_the_spacing_survives_kill_9() -> None:
    interval = 1.2  # twice what a start takes, or this could not fail
    port = free_port()
    async with shards(f"http://127.0.0.1:{port}") as bot:
        bot.ask(*range(6))
        for grants in (2, 3, 4):
            async with running_server(PORT=port, GATEWAY_QUEUE_INTERVAL=interval):
                await bot.granted(grants)

    assert len({grant.shard for grant in bot.grants}) == 4
    assert min(gaps(bot.grants)) >= interval - LAG


async def test_the_days_count_survives_kill_9(tmp_path: Path) -> None:
    port = free_port()
    settings = {
        "PORT": port,
        "GATEWAY_QUEUE_INTERVAL": 0.1,
        "GATEWAY_QUEUE_DAILY_STARTS": 5,
        "GATEWAY_QUEUE_RESERVE": 0,
        "GATEWAY_QUEUE_JOURNAL": f"sqlite:{tmp_path / 'journal.sqlite'}",
    }
    async with shards(f"http://127.0.0.1:{port}") as bot:
        bot.ask(0, 1, 2)
        async with running_server(**settings):
            await bot.granted(3)

        bot.ask(*range(3, 9))
        async with running_server(**settings) as server:
            assert (await server.logged("listening"))["starts_left"] == 2
            await bot.granted(5)

        async with running_server(**settings) as server:
            assert (await server.logged("listening"))["starts_left"] == 0
            await server.logged("identify_queued", position=4)
            await trio.sleep(0.5)
            assert not server.logged_so_far("identify_granted")

    assert len(bot.grants) == 5


async def test_a_second_server_waits_for_the_journal_of_the_first_and_takes_over(
    tmp_path: Path,
) -> None:
    interval = 0.5
    settings = {
        "GATEWAY_QUEUE_INTERVAL": interval,
        "GATEWAY_QUEUE_JOURNAL": f"sqlite:{tmp_path / 'journal.sqlite'}",
    }
    port = free_port()
    async with (
        running_server(**settings) as first,
        shards(first.url) as bot,
        running(*SERVER, **(DEFAULTS | settings | {"PORT": port})) as second,
        shards(f"http://127.0.0.1:{port}") as others,
    ):
        waiting = await second.logged("waiting_for_journal")
        bot.ask(0, 1, 2, 3)
        others.ask(4, 5)
        await bot.granted(3)
        assert not second.logged_so_far("listening")
        assert not others.grants

        await first.kill()
        await others.granted(2)

    assert f"process {first.pid} " in waiting["error"]
    assert min(gaps(bot.grants + others.grants)) >= interval - LAG
