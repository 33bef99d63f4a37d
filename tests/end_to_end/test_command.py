"""The command: what it refuses and how it says so, what it announces, what it keeps to itself."""

import resource
import socket
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
from fake_discord import fake_discord
from harness import DEFAULTS, SERVER, Program, run_server, running, running_server
from patience import PATIENCE
from shards import shards

from gateway_queue import __version__
from gateway_queue.discord import REFUSALS, REFUSED_PAUSE
from gateway_queue.settings import describe

APPLICATION_ID = "MTIzNDU2Nzg5MDEyMzQ1Njc4"  # 123456789012345678, which is no secret
SECRET = "GaBcDe.never-to-be-seen"
TOKEN = f"{APPLICATION_ID}.{SECRET}"


# What is not allowed


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("PORT", "http", "a whole number from 0 to 65535"),
        ("PORT", "65536", "a whole number from 0 to 65535"),
        ("GATEWAY_QUEUE_INTERVAL", "-1", "a number of seconds above 0"),
        ("GATEWAY_QUEUE_INTERVAL", "0", "a number of seconds above 0"),
        ("GATEWAY_QUEUE_INTERVAL", "nan", "a number of seconds above 0"),
        ("GATEWAY_QUEUE_INTERVAL", "inf", "a number of seconds above 0"),
        ("GATEWAY_QUEUE_RESERVE", "200%", "a percentage from 0% to 100%"),
        ("GATEWAY_QUEUE_RESERVE", "100%", "less than that"),
        ("GATEWAY_QUEUE_MAX_CONCURRENCY", "0", "a whole number from 1"),
        ("GATEWAY_QUEUE_REFRESH", "14.9", "a number of seconds from 15"),
        ("GATEWAY_QUEUE_JOURNAL", "postgres:x", "sqlite, sqlite:PATH or memory"),
        ("GATEWAY_QUEUE_DISCORD_API", "discord.com", "an http or https URL"),
        ("GATEWAY_QUEUE_DISCORD_API", "http://a..b/api/v10", "an http or https URL"),
        ("GATEWAY_QUEUE_JOURNAL", "sqlite::memory:", "sqlite, sqlite:PATH or memory"),
        ("GATEWAY_QUEUE_JOURNAL", "sqlite:~nobody-of-this-name/j", "sqlite, sqlite:PATH or memory"),
        ("GATEWAY_QUEUE_LOG_LEVEL", "loud", "debug, info, warning or error"),
    ],
)
async def test_a_wrong_setting_is_named_with_what_was_given_and_what_is_allowed(
    name: str, value: str, allowed: str
) -> None:
    code, words = await run_server(**{name: value})

    assert code == 2
    assert f"{name}={value}" in words
    assert allowed in words
    assert "Traceback" not in words


async def test_a_wrong_flag_is_refused_like_a_wrong_variable() -> None:
    code, words = await run_server("--port=http")

    assert code == 2
    assert "PORT=http" in words
    assert "a whole number from 0 to 65535" in words


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DISCORD_TOKEN", f"{TOKEN}\nmore"),
        ("DISCORD_TOKEN", f"two {TOKEN}"),
        ("DISCORD_TOKEN", "   "),
        ("GATEWAY_QUEUE_API_KEY", f"{SECRET} with spaces"),
    ],
)
async def test_a_wrong_secret_is_refused_but_not_shown(name: str, value: str) -> None:
    code, words = await run_server(**{name: value})

    assert code == 2
    assert name in words
    assert "allowed: " in words
    assert SECRET not in words


async def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, words = await run_server(PORT=port)

    assert code == 1
    assert f"PORT={port}" in words
    assert "in use" in words
    assert "Traceback" not in words


# What it says


@pytest.mark.parametrize("width", [80, 100])
async def test_help_names_every_setting(width: int) -> None:
    code, words = await run_server("--help", COLUMNS=width)

    assert code == 0
    for setting in describe():
        assert setting.name in words
        assert setting.is_secret or setting.flag in words


async def test_version_is_told() -> None:
    code, words = await run_server("--version")

    assert code == 0
    assert __version__ in words


async def test_flags_win_over_the_environment() -> None:
    flags = ("--interval=0.25", "--max-concurrency=3")
    environment = {"GATEWAY_QUEUE_INTERVAL": "never", "GATEWAY_QUEUE_MAX_CONCURRENCY": 2}
    async with running_server(*flags, **environment) as server:
        listening = await server.logged("listening")

    assert (listening["interval"], listening["buckets"]) == (0.25, 3)


async def test_the_start_says_what_the_server_will_do(tmp_path: Path) -> None:
    journal = tmp_path / "journal.sqlite"
    async with running_server(
        GATEWAY_QUEUE_INTERVAL=7.5,
        GATEWAY_QUEUE_MAX_CONCURRENCY=2,
        GATEWAY_QUEUE_DAILY_STARTS=200,
        GATEWAY_QUEUE_RESERVE="5%",
        GATEWAY_QUEUE_JOURNAL=f"sqlite:{journal}",
    ) as server:
        listening = await server.logged("listening")

    assert listening["address"].startswith("http://127.0.0.1:")
    assert not listening["address"].endswith(":0")
    assert listening["buckets"] == 2
    assert listening["interval"] == 7.5
    assert listening["first_grant"].startswith("in 10.0 s")
    assert listening["starts_left"] == 190
    assert listening["journal"] == str(journal)
    assert (listening["token"], listening["api_key"]) == ("none", "none")


async def test_with_a_token_the_start_has_no_numbers_yet() -> None:
    async with (
        fake_discord(token=TOKEN) as discord,
        running_server(DISCORD_TOKEN=TOKEN, GATEWAY_QUEUE_DISCORD_API=discord.api) as server,
    ):
        listening = await server.logged("listening")

    assert (listening["buckets"], listening["starts_left"]) == (None, None)
    assert listening["token"] == "set"
    assert listening["first_grant"].endswith("after the limits have been read")


async def test_a_first_grant_is_never_in_the_past() -> None:
    async with running_server(GATEWAY_QUEUE_INTERVAL=1e-6) as server:
        listening = await server.logged("listening")

    assert listening["first_grant"].startswith("in 0.0 s")


@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
async def test_the_networks_in_no_proxy_stop_no_server(name: str) -> None:
    proxies = {name: "localhost, 127.0.0.1,::1/128,fe80::/10", "HTTP_PROXY": "http://127.0.0.1:9"}
    async with (
        fake_discord(token=TOKEN) as discord,
        running_server(
            DISCORD_TOKEN=TOKEN, GATEWAY_QUEUE_DISCORD_API=discord.api, **proxies
        ) as server,
    ):
        warning = await server.logged("no_proxy_unreadable")
        await server.logged("limits_read")  # so the other entries were heeded

    assert warning["entries"] == ["::1/128", "fe80::/10"]
    assert len(server.logged_so_far("no_proxy_unreadable")) == 1


async def test_a_proxy_that_cannot_be_read_stops_the_start() -> None:
    code, words = await run_server(DISCORD_TOKEN=TOKEN, HTTPS_PROXY="http://[::1")

    assert code == 1
    assert "cannot use the proxy" in words
    assert "Traceback" not in words


async def test_the_start_warns_of_an_unknown_variable(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(SECRET)
    async with running_server(GATEWAY_QUEUE_API_KEY_FILE=key, GATEWAY_QUEUE_SEATS_TTL=3) as server:
        warning = await server.logged("unknown_variable")
        listening = await server.logged("listening")

    assert warning["name"] == "GATEWAY_QUEUE_SEATS_TTL"
    assert "GATEWAY_QUEUE_SEAT_TTL?" in warning["hint"]
    assert len(server.logged_so_far("unknown_variable")) == 1
    assert listening["api_key"] == "set"


# The journal's file


async def refused(journal: Path) -> str:
    """What our server says of a journal that it cannot use."""
    code, words = await run_server(GATEWAY_QUEUE_JOURNAL=f"sqlite:{journal}")
    assert code == 1
    assert str(journal) in words
    assert "Traceback" not in words
    return words


async def test_a_file_that_is_not_a_journal_is_left_unchanged(tmp_path: Path) -> None:
    journal = tmp_path / "letters.txt"
    journal.write_text("Dear Discord, " * 1000)

    assert "damaged" in await refused(journal)
    assert journal.read_text() == "Dear Discord, " * 1000


async def test_the_database_of_another_program_is_left_as_it_is(tmp_path: Path) -> None:
    journal = tmp_path / "other.sqlite"
    database = sqlite3.connect(journal)
    database.execute("CREATE TABLE letters (text)")
    database.close()
    before = journal.read_bytes()

    assert "another program" in await refused(journal)
    assert journal.read_bytes() == before


async def test_a_corrupt_journal_is_left_as_it_is(tmp_path: Path) -> None:
    journal = tmp_path / "journal.sqlite"
    async with running_server(GATEWAY_QUEUE_JOURNAL=f"sqlite:{journal}") as server:
        await server.stop()
    pages = bytearray(journal.read_bytes())
    pages[4096:] = b"\xff" * len(pages[4096:])
    journal.write_bytes(pages)

    assert "damaged" in await refused(journal)
    assert journal.read_bytes() == pages


async def test_a_journal_that_cannot_be_made_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    assert "Not a directory" in await refused(tmp_path / "file" / "deeper" / "journal.sqlite")
    assert "not a directory" in await refused(tmp_path / "file" / "journal.sqlite")
    assert "is a directory" in await refused(tmp_path)


async def test_a_full_disk_stops_the_start(tmp_path: Path) -> None:
    command = f"ulimit -f 0; exec {sys.executable} -m gateway_queue"
    settings = DEFAULTS | {"GATEWAY_QUEUE_JOURNAL": f"sqlite:{tmp_path / 'journal.sqlite'}"}
    async with running("sh", "-c", command, **settings) as server:
        assert await server.ended() == 1

    words = "\n".join(server.lines)
    assert f"cannot use the journal {tmp_path / 'journal.sqlite'}" in words
    assert "Traceback" not in words


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can limit another process")
async def test_while_the_disk_is_full_nothing_is_granted(tmp_path: Path) -> None:
    async with (
        running_server(
            GATEWAY_QUEUE_INTERVAL=0.2, GATEWAY_QUEUE_JOURNAL=f"sqlite:{tmp_path / 'j.sqlite'}"
        ) as server,
        shards(server.url) as bot,
    ):
        bot.ask(0)
        await bot.granted(1)
        assert await bot.ready() == (200, "ready\n")

        limit_files(server, 0)
        bot.ask(1, 2)
        trouble = await server.logged("journal_not_writable")
        for _ in range(3):
            status, words = await bot.ready()
            assert status == 503
            assert "j.sqlite" in words

        limit_files(server, resource.RLIM_INFINITY)
        await bot.granted(3)
        assert await bot.ready() == (200, "ready\n")
        await server.logged("journal_writable_again")

    assert "j.sqlite" in trouble["error"]
    assert len(server.logged_so_far("journal_not_writable")) == 1
    assert len(server.logged_so_far("journal_writable_again")) == 1
    with closing(sqlite3.connect(tmp_path / "j.sqlite")) as journal:
        assert journal.execute("SELECT count(*) FROM grants").fetchone() == (3,)


def limit_files(server: Program, size: int) -> None:
    """Let no file of the server grow beyond this many bytes."""
    _, most = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (size, most))


# The token


def talkative(api: str) -> dict[str, object]:
    """Settings of a server that logs all it can, the libraries' chatter as well."""
    return {
        "DISCORD_TOKEN": f"Bot {TOKEN}",
        "GATEWAY_QUEUE_DISCORD_API": api,
        "GATEWAY_QUEUE_INTERVAL": 0.2,
        "GATEWAY_QUEUE_LOG_LEVEL": "debug",
    }


async def test_only_discord_gets_the_token() -> None:
    async with (
        fake_discord(token=TOKEN) as discord,
        running_server(**talkative(discord.api)) as server,
        shards(server.url) as bot,
    ):
        bot.ask(0)
        await bot.granted(1)
        await server.stop()

    assert discord.requests[0].authorization == f"Bot {TOKEN}"
    words = "\n".join(server.lines)
    assert "HTTP Request: GET" in words  # of the libraries, this much is said
    assert SECRET not in words


@pytest.mark.parametrize("style", ["console", "json"])
async def test_a_refused_token_is_not_shown(style: str) -> None:
    async with fake_discord(token="another") as discord:
        settings = DEFAULTS | talkative(discord.api) | {"GATEWAY_QUEUE_LOG_FORMAT": style}
        async with running(*SERVER, **settings) as server:
            code = await server.ended(within=(REFUSALS - 1) * REFUSED_PAUSE + PATIENCE)
        words = "\n".join(server.lines)

    assert code == 78
    assert "DISCORD_TOKEN" in words
    assert SECRET not in words


async def test_a_token_for_an_unreachable_discord_is_not_shown() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # but does not listen
        api = "http://{}:{}/api/v10".format(*nobody.getsockname())
        async with running_server(**talkative(api)) as server:
            await server.logged("limits_unreadable")
            await server.stop()

    assert SECRET not in "\n".join(server.lines)
