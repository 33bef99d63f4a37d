"""``gateway-queue status``: what it shows of a real server, and what it says without one."""

import json
import re
import signal
import socket
import sys

import pytest
from harness import SERVER, free_port, running, running_server
from shards import shards
from strangers import JSON, answering, http

ESCAPE = "\x1b"
KEY = "sesame-9f2c"
NOBODY = "Nobody waits. No shard has asked in the last 24 hours."
DOCUMENT = {
    "version": "9.9",
    "uptime": 1.0,
    "ready": True,
    "obstacle": None,
    "limits": {
        "known": True,
        "source": "discord",
        "total": 1000,
        "remaining": 900,
        "reserve": 50,
        "reset_in": 3600.0,
        "failure": None,
    },
    "waiting": 0,
    "waiting_slowed": 0,
    "away": 0,
    "covered": 0,
    "all_in_in": 0.0,
    "others_in_in": 0.0,
    "back_in": 3600.0,
    "recommended_shards": 1,
    "last_24_hours": {"granted": 0, "shards": 0},
    "buckets": [],
    "slowed_down": {"shards": 0, "longest": []},
    "of_a_newer_version": True,
}


async def status(*arguments: str, **environment: object) -> tuple[int, str]:
    """The exit code and the words of ``gateway-queue status``."""
    return await command(*SERVER, "status", *arguments, **environment)


async def command(*words: str, **environment: object) -> tuple[int, str]:
    async with running(*words, **({"COLUMNS": 80} | environment)) as program:
        code = await program.ended()
    said = "\n".join(program.lines)
    assert "Traceback" not in said
    assert ESCAPE not in said
    return code, said


def where(url: str) -> dict[str, object]:
    """The settings of whom to find the server at this address."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    return {"HOST": host, "PORT": port}


# What it shows


async def test_who_waits_and_for_how_long() -> None:
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=115, GATEWAY_QUEUE_MAX_CONCURRENCY=3) as server,
        shards(server.url) as bot,
    ):
        for shard in (4, 1, 7, 10, 0):
            bot.ask(shard)
            await server.logged("identify_queued", shard=shard)
        code, words = await status(**where(server.url))

    assert code == 0
    lines = [" ".join(line.split()) for line in words.splitlines()]
    assert lines[0].startswith("Gateway Queue ")
    assert f"at {server.url}, up" in lines[0]
    assert re.fullmatch(r"Everyone is in by (\w{3} )?\d\d:\d\d", lines[2])
    assert re.fullmatch(r"In 7 min \d+ s\. 5 shards wait, 0 of 5 are in\.", lines[3])
    assert "█ 0 used ░ 950 may be granted ▓ 50 in reserve" in lines
    assert "Last 24 hours 0 grants to 0 shards" in lines
    assert re.fullmatch(r"0 1 0 in 1 min \d+ s .*\d\d:\d\d 0", lines[-3])
    assert re.fullmatch(r"1 4 0 in 1 min \d+ s .*\d\d:\d\d 4, 1, 7", lines[-2])
    assert lines[-1] == "and 1 empty bucket"


async def test_a_shard_in_a_crash_loop() -> None:
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=0.1, GATEWAY_QUEUE_CRASH_LOOP="1/600") as server,
        shards(server.url) as bot,
    ):
        bot.ask(5, 5)
        await bot.granted(2)
        bot.ask(5)
        await server.logged("identify_queued", shard=5, position=1)
        code, words = await status(**where(server.url))

    assert code == 0
    assert re.search(r"Crash loops +shard 5: 2 starts, next in .+ s", words)
    assert "2 grants to 1 shard" in words


async def test_json_is_printed_as_it_came() -> None:
    body = json.dumps(DOCUMENT, separators=(" ,", " : ")).encode()
    async with answering(http(body, "200 OK", JSON)) as url:
        code, words = await status("--json", "--url", url)

    assert (code, words) == (0, body.decode())


async def test_json_of_a_real_server() -> None:
    async with running_server(GATEWAY_QUEUE_INTERVAL=100) as server, shards(server.url) as bot:
        bot.ask(3)
        await server.logged("identify_queued", shard=3)
        code, words = await status("--json", **where(server.url))

    assert code == 0
    (bucket,) = json.loads(words)["buckets"]
    assert [seat["shard"] for seat in bucket["next"]] == [3]


async def test_a_pipe_that_closes_early_is_no_error() -> None:
    async with answering(http(json.dumps(DOCUMENT).encode(), "200 OK", JSON)) as url:
        pipe = f"{sys.executable} -m gateway_queue status --url {url} | head -n 1"
        code, words = await command("sh", "-c", pipe)

    assert code == 0
    assert words.startswith("Gateway Queue 9.9 at")
    assert len(words.splitlines()) == 1


async def test_a_terminal_without_unicode() -> None:
    async with answering(http(json.dumps(DOCUMENT).encode(), "200 OK", JSON)) as url:
        code, words = await status("--url", url, PYTHONIOENCODING="ascii")

    assert code == 0
    assert "# 100 used   . 850 may be granted   = 50 in reserve" in words


# Where it asks


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "::1"])
async def test_a_server_that_listens_everywhere_is_found_on_this_machine(host: str) -> None:
    if ":" in host and not can_listen(host):
        pytest.skip("no IPv6 here")
    async with running_server(HOST=host) as server:
        port = server.url.rpartition(":")[2]
        code, words = await status(HOST=host, PORT=port)

    assert code == 0
    assert f" at http://127.0.0.1:{port}," in words or f" at http://[::1]:{port}," in words


def can_listen(host: str) -> bool:
    try:
        with socket.create_server((host, 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


async def test_the_servers_options_say_where_it_is_too() -> None:
    async with running_server() as server:
        port = server.url.rpartition(":")[2]
        code, words = await command(*SERVER, "--port", port, "status", PORT=1)

    assert code == 0
    assert server.url in words


async def test_an_address_may_lack_its_scheme_and_end_in_a_slash() -> None:
    async with running_server() as server:
        code, words = await status("--url", server.url.removeprefix("http://") + "/", PORT=1)

    assert code == 0
    assert server.url in words


async def test_a_proxy_for_the_world_is_not_asked_for_our_own_server() -> None:
    async with running_server() as server:
        proxy = f"http://127.0.0.1:{free_port()}"
        code, _ = await status(HTTP_PROXY=proxy, http_proxy=proxy, **where(server.url))

    assert code == 0


async def test_the_networks_in_no_proxy_are_left_out() -> None:
    async with running_server() as server:
        code, words = await status("--url", server.url, NO_PROXY="localhost,127.0.0.0/8,::1/128")

    assert code == 0
    assert "NO_PROXY: ::1/128\n" in words


async def test_a_proxy_that_cannot_be_read_is_not_blamed_on_the_address() -> None:
    code, words = await status("--url", "http://127.0.0.1:1", HTTP_PROXY="http://[::1")

    assert code == 1
    assert "cannot use the proxy" in words


async def test_a_port_that_the_server_picks_cannot_be_known() -> None:
    code, words = await status(PORT=0)

    assert code == 2
    assert "--url" in words


@pytest.mark.parametrize(
    "url", ["", "ftp://queue", "http://", "http://me:pw@queue", "http://q/?shard=1", "http://q:x"]
)
async def test_what_is_no_address_is_refused(url: str) -> None:
    code, words = await status("--url", url)

    assert code == 2
    assert "Invalid value for '--url'" in words


async def test_a_host_that_cannot_be_one_is_refused() -> None:
    code, words = await status(HOST="my queue")

    assert code in {1, 2}
    assert "my queue" in words


# Live


async def test_it_runs_until_ctrl_c_with_a_line_for_each_change() -> None:
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=2, GATEWAY_QUEUE_API_KEY=KEY) as server,
        running(
            *(*SERVER, "status", "--watch", "--url", server.url), GATEWAY_QUEUE_API_KEY=KEY
        ) as program,
    ):
        await program.until(lambda: program.lines == [NOBODY], "a line")
        async with running(
            *(*SERVER, "wait", "--shard", "3", "--url", server.url), GATEWAY_QUEUE_API_KEY=KEY
        ) as bot:
            assert await bot.ended() == 0
        await program.until(lambda: "1 of 4 is in" in program.lines[-1], "its grant")
        program.process.send_signal(signal.SIGINT)
        assert await program.ended() == 0

    assert len(set(program.lines)) == len(program.lines)


async def test_it_ends_with_the_server() -> None:
    async with (
        running_server() as server,
        running(*SERVER, "status", "--watch", "--url", server.url) as program,
    ):
        await program.said_something()
        assert await server.stop() == 0
        assert await program.ended() == 1

    assert f"the feed of {server.url} ended: " in program.lines[-1]


# The API key


async def test_the_right_api_key() -> None:
    async with running_server(GATEWAY_QUEUE_API_KEY=KEY) as server:
        code, words = await status(**where(server.url), GATEWAY_QUEUE_API_KEY=KEY)

    assert code == 0
    assert "Session starts" in words
    assert KEY not in words


@pytest.mark.parametrize("key", [None, "open"])
async def test_an_api_key_that_is_absent_or_wrong(key: str | None) -> None:
    async with running_server(GATEWAY_QUEUE_API_KEY=KEY) as server:
        code, words = await status(**where(server.url), GATEWAY_QUEUE_API_KEY=key)

    assert code == 1
    assert "GATEWAY_QUEUE_API_KEY" in words
    assert ("requires an API key" if key is None else "does not accept the API key") in words
    assert KEY not in words
    assert "'open'" not in words


# Where no Gateway Queue answers


async def test_nobody_listens() -> None:
    port = free_port()
    code, words = await status(PORT=port)

    assert code == 1
    assert f"no server answers at http://127.0.0.1:{port}: Connection refused" in words
    assert "--url" in words
    assert len(words.splitlines()) == 1


async def test_a_name_that_nobody_has() -> None:
    code, words = await status("--url", "http://nobody.invalid")

    assert code == 1
    assert "no server answers at http://nobody.invalid: " in words


async def test_a_server_that_never_answers_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        code, words = await status(PORT=silent.getsockname()[1])

    assert code == 1
    assert "no answer from http://127.0.0.1:" in words
    assert "within 5 s" in words


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (http(b"<html>", "200 OK", "Content-Type: text/html"), "it does not send JSON"),
        (http(b"{}"), "it does not send JSON"),
        (http(b"<html>", "200 OK", JSON), "Invalid JSON"),
        (http(b'{"status": "ok"}', "200 OK", JSON), "version: Field required"),
        (http(b"", "404 Not Found"), "404 Not Found"),
        (http(b"", "502 Bad Gateway"), "502 Bad Gateway"),
        (http(b"", "599 "), "599"),
        (http(b"", "301 Moved", "Location: https://q/status"), "to 'https://q/status'"),
        (http(b"", "301 Moved", "Location: \x1b[2Jhttps://q/"), "Invalid URL in location"),
        (http(b"no gzip", "200 OK", JSON, "Content-Encoding: gzip"), "is not a Gateway Queue"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "is not a Gateway Queue"),
        (b"", "is not a Gateway Queue"),
        (
            http(json.dumps(DOCUMENT | {"version": "\x1b[2J"}).encode(), "200 OK", JSON),
            "version: ",
        ),
    ],
)
async def test_somebody_else_answers(answer: bytes, said: str) -> None:
    async with answering(answer) as url:
        code, words = await status("--url", url)

    assert code == 1
    assert f"what answers at {url} is not a Gateway Queue" in words
    assert said in words
    assert len(words.splitlines()) == 1


async def test_foreign_json_is_not_printed() -> None:
    async with answering(http(b'{"status": "ok"}', "200 OK", JSON)) as url:
        code, words = await status("--json", "--url", url)

    assert code == 1
    assert f"what answers at {url} is not a Gateway Queue" in words
    assert "ok" not in words


# The command itself


async def test_it_loads_no_server() -> None:
    async with answering(http(json.dumps(DOCUMENT).encode(), "200 OK", JSON)) as url:
        python, *module = SERVER
        code, words = await command(python, "-X", "importtime", *module, "status", "--url", url)

    assert code == 0
    loaded = {line.rpartition("|")[2].strip() for line in words.splitlines()}
    assert "gateway_queue.cli.report" in loaded
    assert not loaded & {"gateway_queue.server", "hypercorn", "quart", "quart_trio"}


async def test_help_tells_of_the_address_the_key_and_the_exit_code() -> None:
    code, words = await status("--help")

    assert code == 0
    for word in ("--url", "--json", "HOST", "PORT", "GATEWAY_QUEUE_API_KEY", "exit code"):
        assert word in words


async def test_the_help_of_all_names_it() -> None:
    code, words = await command(*SERVER, "--help")

    assert code == 0
    assert "status Show what a running server is doing." in " ".join(words.split())
    assert max(len(line) for line in words.splitlines()) <= 80


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        (["statsu"], "No such command 'statsu'. Did you mean 'status'?"),
        (["serve"], "No such command 'serve'."),
        (["status", "--jsn"], "No such option '--jsn'. Did you mean '--json'?"),
    ],
)
async def test_a_mistyped_word_is_answered_with_what_was_meant(
    typed: list[str], answer: str
) -> None:
    code, words = await command(*SERVER, *typed)

    assert code == 2
    assert words.endswith(answer)


async def test_a_wrong_setting_is_named() -> None:
    code, words = await status(PORT="http")

    assert code == 2
    assert "PORT=http" in words
