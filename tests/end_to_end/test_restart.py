"""Restarts, and two servers on one journal: nobody is granted too early, and no count is lost.

A server is killed at the end of its block.
"""

import os
import resource
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from harness import DEFAULTS, SERVER, free_port, running, running_server
from instants import EXACT, logged_at
from raw import answer_of
from shards import gaps, shards
from ways import on_one_server

# As in a container of its own, which has the same files but another network.
APART = ("unshare", "--map-root-user", "--net")


def delete_lock(journal: Path) -> None:
    journal.with_name(journal.name + ".lock").unlink()


def delete_folder(journal: Path) -> None:
    shutil.rmtree(journal.parent)


def make_folder_anew(journal: Path) -> None:
    delete_folder(journal)
    journal.parent.mkdir()


def move_folder(journal: Path) -> None:
    journal.parent.rename(journal.parent.with_name("elsewhere"))


def truncate(journal: Path) -> None:
    os.truncate(journal, 0)


def write(journal: Path) -> None:
    """As a second server would."""
    with closing(sqlite3.connect(journal)) as database, database:
        database.execute("INSERT INTO grants SELECT bot, max(number) + 1, 0, 7, 0, 0 FROM grants")


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "journal.sqlite"


# What replicas remember is in Redis: see ``test_replicas``.
@on_one_server
@pytest.mark.usefixtures("way")
async def test_the_spacing_survives_kill_9() -> None:
    interval = 1.2  # twice what a start takes, or this could not fail
    port = free_port()
    async with shards(f"http://127.0.0.1:{port}") as bot:
        bot.ask(*range(6))
        for grants in (2, 3, 4):
            async with running_server(PORT=port, GATEWAY_QUEUE_INTERVAL=interval):
                await bot.granted(grants)

    assert len({grant.shard for grant in bot.grants}) == len(bot.grants)
    assert min(gaps(bot.grants)) >= interval - EXACT


@on_one_server
@pytest.mark.usefixtures("way")
async def test_a_turn_to_be_confirmed_keeps_its_hold_though_the_journal_is_lost(
    journal: Path,
) -> None:
    interval, hold = 2, 4
    settings = {
        "GATEWAY_QUEUE_INTERVAL": interval,
        "GATEWAY_QUEUE_JOURNAL": f"sqlite:{journal}",
    }
    async with running_server(**settings) as first:
        ask = "GET /?shard=0&confirm=true HTTP/1.1"
        granted = await answer_of(first, ask, "Host: queue")
        assert granted.is_grant
        await first.kill()
    delete_folder(journal)
    async with running_server(**settings) as second, shards(second.url) as bot:
        bot.ask(1)
        [after] = await bot.granted(1)

    assert after.at - granted.at >= hold - EXACT


@on_one_server
@pytest.mark.usefixtures("way")
async def test_the_days_count_survives_kill_9(tmp_path: Path) -> None:
    port = free_port()
    settings = {
        "PORT": port,
        "GATEWAY_QUEUE_INTERVAL": 0.1,
        "GATEWAY_QUEUE_DAILY_STARTS": 5,
        "GATEWAY_QUEUE_RESERVE": 0,
        "GATEWAY_QUEUE_SHUTDOWN_GRACE": 0.5,
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
            assert await server.stop() == 0  # after the grace, which is five intervals
            assert not server.logged_so_far("identify_granted")

    assert len(bot.grants) == 5


@pytest.mark.parametrize(
    ("lose", "goes_on"),
    [
        (None, True),
        (delete_lock, True),
        (delete_folder, False),
        (make_folder_anew, False),
        (move_folder, False),
    ],
)
async def test_a_second_server_waits_for_the_end_of_the_first_whatever_is_deleted(
    lose: Callable[[Path], None] | None, *, goes_on: bool, journal: Path
) -> None:
    interval = 0.5
    settings = {
        "GATEWAY_QUEUE_INTERVAL": interval,
        "GATEWAY_QUEUE_JOURNAL": f"sqlite:{journal}",
    }
    port = free_port()
    async with (
        running_server(**settings) as first,
        shards(first.url) as bot,
        shards(f"http://127.0.0.1:{port}") as others,
    ):
        bot.ask(0)
        await bot.granted(1)
        if lose is not None:
            lose(journal)
        others.ask(4, 5)
        async with running(*SERVER, **(DEFAULTS | settings | {"PORT": port})) as second:
            waiting = await second.logged("waiting_for_journal")
            bot.ask(1, 2)
            if goes_on:
                await bot.granted(3)
                await first.logged_times(3, "identify_granted")
            else:
                await first.logged("journal_lost")
                assert (await bot.ready())[0] == 503
            killed_at = time.time()
            await first.kill()
            assert logged_at(await second.logged("listening")) > killed_at
            await others.granted(2)

    assert len(first.logged_so_far("identify_granted")) == (3 if goes_on else 1)
    assert len(first.logged_so_far("journal_lost")) == (0 if goes_on else 1)
    assert (f"process {first.pid} " in waiting["error"]) == (lose is None)
    assert min(gaps(bot.grants + others.grants)) >= interval - EXACT


def may_part() -> bool:
    return not subprocess.run([*APART, "true"], capture_output=True, check=False).returncode


@pytest.mark.skipif(not may_part(), reason="no network namespaces here")
async def test_where_a_second_server_cannot_be_kept_off_the_first_stops(journal: Path) -> None:
    settings = {
        "GATEWAY_QUEUE_INTERVAL": 0.5,
        "GATEWAY_QUEUE_JOURNAL": f"sqlite:{journal}",
    }
    async with running_server(**settings) as first, shards(first.url) as bot:
        bot.ask(0)
        await bot.granted(1)
        delete_folder(journal)
        environment = DEFAULTS | settings | {"HOST": "0.0.0.0"}
        async with running(*APART, *SERVER, **environment) as second:
            await second.logged("listening")
            bot.ask(1)
            await first.logged("journal_lost")
            code, why = await bot.ready()

    assert (code, len(bot.grants)) == (503, 1)
    assert "was replaced by another file" in why


@pytest.mark.parametrize(
    ("lose", "why"),
    [
        (truncate, "was truncated"),
        (write, "another process wrote to it"),
        (delete_folder, "was deleted"),
    ],
)
async def test_a_server_that_lost_its_journal_says_so_until_it_is_restarted(
    lose: Callable[[Path], None], why: str, journal: Path
) -> None:
    settings = {
        "GATEWAY_QUEUE_INTERVAL": 0.2,
        "GATEWAY_QUEUE_JOURNAL": f"sqlite:{journal}",
    }
    async with running_server(**settings) as server, shards(server.url) as bot:
        bot.ask(0)
        await bot.granted(1)
        lose(journal)
        bot.ask(1)
        lost = await server.logged("journal_lost")
        code, body = await bot.ready()
        status = (await bot.client.get("/status")).json()

    assert (code, status["ready"], status["obstacle"]) == (503, False, "journal")
    assert why in lost["error"]
    assert why in body
    async with running_server(**settings) as again, shards(again.url) as bot:
        bot.ask(1)
        await bot.granted(1)
        assert (await bot.ready())[0] == 200


async def test_a_probe_finds_the_loss_though_nobody_asks_for_a_turn(journal: Path) -> None:
    async with (
        running_server(GATEWAY_QUEUE_JOURNAL=f"sqlite:{journal}") as server,
        shards(server.url) as bot,
    ):
        assert (await bot.ready())[0] == 200
        delete_folder(journal)
        assert (await bot.ready())[0] == 503
        await server.logged("journal_lost")


async def test_a_journal_that_cannot_be_written_for_a_while_is_not_lost(journal: Path) -> None:
    async with (
        running_server(
            GATEWAY_QUEUE_INTERVAL=0.2, GATEWAY_QUEUE_JOURNAL=f"sqlite:{journal}"
        ) as server,
        shards(server.url) as bot,
    ):
        bot.ask(0)
        await bot.granted(1)
        before = resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (0, -1))  # as a full disk
        bot.ask(1)
        await server.logged("journal_not_writable")
        assert (await bot.ready())[0] == 503
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, before)
        assert (await bot.ready())[0] == 200
        await bot.granted(2)
        await server.logged("journal_writable_again")
