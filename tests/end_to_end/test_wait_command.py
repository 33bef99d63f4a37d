"""``gateway-queue wait``: for bots in any language, and for shell scripts."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from harness import SERVER, Program, free_port, running, running_server
from patience import PATIENCE

KEY = "sesame-9f2c"
INTERVAL = 0.4
GOES = r"Shard {} may identify now, after [\d.]+ s"
LONG = 300.0  # seconds of an interval whose end no test waits for


@asynccontextmanager
async def waiting(
    url: str, *arguments: str, shard: int = 0, **environment: object
) -> AsyncIterator[Program]:
    command = *SERVER, "wait", "--url", url, "--shard", str(shard), *arguments
    async with running(*command, **environment) as program:
        yield program


async def wait(
    url: str, *arguments: str, shard: int = 0, **environment: object
) -> tuple[int, list[str]]:
    """The exit code and the words of ``gateway-queue wait``."""
    async with waiting(url, *arguments, shard=shard, **environment) as program:
        return await program.ended(), program.lines


async def test_it_ends_when_the_shard_may_identify() -> None:
    async with running_server(GATEWAY_QUEUE_INTERVAL=INTERVAL) as server:
        code, (line,) = await wait(server.url)
        assert code == 0
        assert re.fullmatch(GOES.format(0), line)

        grant = await server.logged("identify_granted")
    assert grant["shard"] == 0


async def test_it_says_once_how_the_shard_stands() -> None:
    async with running_server(GATEWAY_QUEUE_INTERVAL=LONG) as server, waiting(server.url) as first:
        await server.logged("identify_queued", shard=0)
        async with waiting(server.url, "--timeout", "4", shard=1) as second:
            assert await second.ended() == 124
            await server.logged("identify_queued", shard=1)
            assert len(server.logged_so_far("identify_queued")) == 2
        await first.said_something()
        (line,) = first.lines

    assert re.fullmatch(r"Shard 0 waits: position 1, interval, \d+ min \d+ s left", line)
    where, end = second.lines
    assert re.fullmatch(r"Shard 1 waits: position 2, interval, \d+ min \d+ s left", where)
    assert end == "gateway-queue: shard 1 did not get its turn within 4 s"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
async def test_it_counts_down_on_a_terminal(encoding: str) -> None:
    async with running_server(GATEWAY_QUEUE_INTERVAL=15) as server:
        screen = await on_a_terminal(server.url, TERM="xterm", PYTHONIOENCODING=encoding)

    counts = [float(left) for left in re.findall(r"position 1, interval, ([\d.]+) s left", screen)]
    assert len(set(counts)) > 3
    assert counts == sorted(counts, reverse=True)
    *_, last = screen.splitlines()
    assert re.search(GOES.format(0), last)
    assert screen.count("\n") <= 2
    assert r"\u" not in screen


async def test_it_says_it_in_lines_where_a_line_cannot_change() -> None:
    # Long enough for two commands to start after the server and still have to wait.
    slow = {"GATEWAY_QUEUE_INTERVAL": 15, "GATEWAY_QUEUE_MAX_CONCURRENCY": 2}
    async with running_server(**slow) as server, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def on_a_dumb_terminal() -> None:
            screen = await on_a_terminal(server.url, TERM="dumb")
            stands, goes = screen.splitlines()
            assert re.fullmatch(r"Shard 0 waits: position 1, interval, [\d.]+ s left", stands)
            assert re.fullmatch(GOES.format(0), goes)

        code, (stands, goes) = await wait(server.url, shard=1, TTY_COMPATIBLE=1, FORCE_COLOR=1)
        assert code == 0
        assert re.fullmatch(r"Shard 1 waits: position 1, interval, [\d.]+ s left", stands)
        assert re.fullmatch(GOES.format(1), goes)


async def on_a_terminal(url: str, **environment: str) -> str:
    """What the command writes to a terminal of its own."""

    def run() -> str:
        terminal, end = os.openpty()
        command = *SERVER, "wait", "--url", url, "--shard", "0"
        with subprocess.Popen(
            command, stdout=end, stderr=end, env=os.environ | environment
        ) as process:
            os.close(end)
            screen = b""
            with suppress(OSError):  # so Linux says that nobody has the other end any more
                while chunk := os.read(terminal, 4096):
                    screen += chunk
            os.close(terminal)
        assert process.returncode == 0
        return screen.decode()

    with trio.fail_after(PATIENCE):
        return await trio.to_thread.run_sync(run)


async def test_it_becomes_the_command() -> None:
    program = "import sys; print(sys.argv[1:]); sys.exit(9)"
    command = "--", sys.executable, "-c", program, "--shard", "-x", "a b"
    async with running_server(GATEWAY_QUEUE_INTERVAL=INTERVAL) as server:
        code, (goes, said) = await wait(server.url, *command)

    assert (code, said) == (9, "['--shard', '-x', 'a b']")
    assert re.fullmatch(GOES.format(0), goes)


async def test_the_command_is_killed_by_signals_that_python_ignores() -> None:
    command = "--", "grep", "SigIgn", "/proc/self/status"
    async with running_server(GATEWAY_QUEUE_INTERVAL=INTERVAL) as server:
        code, (_, line) = await wait(server.url, *command)

    assert code == 0
    ignored = int(line.split()[1], 16)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        assert not ignored & 1 << (number - 1)


async def test_no_turn_is_spent_on_a_command_that_is_not_there() -> None:
    async with running_server(GATEWAY_QUEUE_INTERVAL=INTERVAL) as server:
        code, words = await wait(server.url, "--", "no-such-bot")
        assert (await wait(server.url, shard=1))[0] == 0

        assert (await server.logged("identify_granted"))["shard"] == 1
    assert (code, words) == (127, ["gateway-queue: there is no command 'no-such-bot'"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_it_leaves_the_queue_when_it_is_told_to_end(number: signal.Signals) -> None:
    async with running_server(GATEWAY_QUEUE_INTERVAL=LONG) as server:
        async with waiting(server.url) as program:
            await server.logged("identify_queued")
            program.process.send_signal(number)
            assert await program.ended() == 128 + number
            assert program.lines == []
        await server.logged("identify_left", shard=0)


async def test_signals_that_are_ignored_remain_so() -> None:
    command = *SERVER, "wait", "--shard", "0", "--url"
    async with running_server(GATEWAY_QUEUE_INTERVAL=LONG) as server:
        without_hangup = "trap '' HUP; exec \"$@\""
        async with running("sh", "-c", without_hangup, "sh", *command, server.url) as program:
            await server.logged("identify_queued")
            program.process.send_signal(signal.SIGHUP)
            program.process.send_signal(signal.SIGTERM)
            assert await program.ended() == 128 + signal.SIGTERM


async def test_it_waits_for_a_server_that_is_not_there_yet() -> None:
    port = free_port()
    async with waiting(f"http://127.0.0.1:{port}") as program:
        await program.said_something()
        async with running_server(PORT=port, GATEWAY_QUEUE_INTERVAL=INTERVAL):
            assert await program.ended() == 0
    first, again, last = program.lines
    assert "asking the queue again until it answers" in first
    assert again == "the queue answers again"
    assert re.fullmatch(GOES.format(0), last)


async def test_it_finds_server_and_key_in_the_environment() -> None:
    async with running_server(GATEWAY_QUEUE_API_KEY=KEY, GATEWAY_QUEUE_INTERVAL=INTERVAL) as server:
        command = *SERVER, "wait", "--shard", "0"
        variables = {"GATEWAY_QUEUE_URL": server.url, "GATEWAY_QUEUE_API_KEY": KEY}
        async with running(*command, **variables) as program:
            assert await program.ended() == 0


async def test_a_wrong_key_is_refused() -> None:
    async with running_server(GATEWAY_QUEUE_API_KEY=KEY) as server:
        code, words = await wait(server.url)
        assert code == 1
        assert "requires an API key: set GATEWAY_QUEUE_API_KEY" in words[0]
        code, words = await wait(server.url, GATEWAY_QUEUE_API_KEY="other")
        assert code == 1
        assert "does not accept the API key" in words[0]
        assert "other" not in words[0]
    assert len(words) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--shard", "-1"),
        ("--shard", "0", "--timeout", "0"),
        ("--shard", "0", "--timeout", "nan"),
        ("--shard", "0", "--url", "http://127.0.0.1:99999"),
    ],
)
async def test_mistakes_are_reported_before_any_request(arguments: tuple[str, ...]) -> None:
    async with running(*SERVER, "wait", *arguments) as program:
        assert await program.ended() == 2
    assert "Traceback" not in "".join(program.lines)
