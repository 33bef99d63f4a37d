"""A reader of the log that stops reading stops nothing else."""

import fcntl
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import trio
from harness import DEFAULTS, SERVER, free_port, server_with
from patience import PATIENCE
from shards import shards

SMALL = 4096  # bytes of a pipe, the least there is: some twenty lines
CROWD = range(150)  # two lines or more for each
HYPERCORN = sys.executable, "-m", "hypercorn", "--worker-class", "trio", "gateway_queue.asgi:app"


@dataclass
class Unread:
    """A server whose log is read only when a test wants to."""

    process: trio.Process
    url: str
    _text: str = ""

    async def read_until(self, event: str, **fields: object) -> list[dict[str, Any]]:
        """The lines from here to that one."""
        assert self.process.stderr is not None
        wanted = {"event": event, **fields}
        lines: list[dict[str, Any]] = []
        with trio.fail_after(PATIENCE):
            while True:
                line, end, rest = self._text.partition("\n")
                if not end:
                    chunk = await self.process.stderr.receive_some()
                    assert chunk, f"ended without {wanted}; last {lines[-1:]}"
                    self._text += chunk.decode()
                    continue
                self._text = rest
                if line.startswith("{"):  # else hypercorn's own
                    lines.append(json.loads(line))
                    if lines[-1].items() >= wanted.items():
                        return lines

    async def ended(self) -> int:
        with trio.fail_after(PATIENCE):
            return await self.process.wait()


@asynccontextmanager
async def unread(command: tuple[str, ...] = SERVER, **settings: object) -> AsyncIterator[Unread]:
    port = free_port()
    if command == HYPERCORN:
        command += ("--bind", f"127.0.0.1:{port}")
    given = {name: str(value) for name, value in (DEFAULTS | {"PORT": port} | settings).items()}
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, env=os.environ | given
    )
    assert isinstance(process.stderr, trio.lowlevel.FdStream)
    fcntl.fcntl(process.stderr.fileno(), fcntl.F_SETPIPE_SZ, SMALL)
    server = Unread(process, f"http://127.0.0.1:{port}")
    try:
        await server.read_until("listening")
        yield server
    finally:
        process.terminate()  # hypercorn's worker would outlive a parent that is killed
        with trio.CancelScope(shield=True):
            with trio.move_on_after(PATIENCE):
                await process.wait()
            process.kill()
            await process.wait()
            await process.stderr.aclose()


async def dropped(server: Unread) -> int:
    async with httpx.AsyncClient(base_url=server.url) as client:
        page = (await client.get("/metrics")).text
    (number,) = re.findall(r"^gateway_queue_log_lines_dropped_total (\S+)$", page, re.MULTILINE)
    return int(float(number))


@pytest.mark.parametrize("command", [SERVER, HYPERCORN], ids=["gateway-queue", "hypercorn"])
async def test_grants_continue_while_nobody_reads_the_log(command: tuple[str, ...]) -> None:
    async with (
        unread(command, GATEWAY_QUEUE_INTERVAL=0.02, GATEWAY_QUEUE_CRASH_LOOP="off") as server,
        shards(server.url) as bot,
    ):
        bot.ask(*CROWD)
        await bot.granted(len(CROWD))

        assert await dropped(server) == 0
        bot.ask(1_000)
        lines = await server.read_until("identify_granted", shard=1_000)

    granted = [line for line in lines if line["event"] == "identify_granted"]
    assert {line["shard"] for line in granted} == {*CROWD, 1_000}
    assert max(line["late"] for line in granted) < 1


async def test_dropped_lines_are_counted_and_reported_once_somebody_reads() -> None:
    async with (
        unread(server_with("log_holds_few_lines"), GATEWAY_QUEUE_INTERVAL=0.02) as server,
        shards(server.url) as bot,
    ):
        bot.ask(*CROWD)
        await bot.granted(len(CROWD))

        lost = await dropped(server)
        assert lost > 0
        *lines, count = await server.read_until("log_lines_dropped")
        assert count["lines"] == lost
        assert 100 <= len(lines) < 2 * len(CROWD)

        bot.ask(1_000)
        *lines, _ = await server.read_until("identify_granted", shard=1_000)
        assert [line["event"] for line in lines] == ["identify_queued"]
        assert await dropped(server) == lost


async def test_the_end_does_not_wait_for_somebody_to_read() -> None:
    async with (
        unread(GATEWAY_QUEUE_INTERVAL=60, GATEWAY_QUEUE_SHUTDOWN_GRACE=0.5) as server,
        shards(server.url) as bot,
    ):
        bot.ask(*CROWD)
        await waiting(server, len(CROWD))
        server.process.terminate()
        assert await server.ended() == 0


async def test_a_crash_does_not_wait_for_somebody_to_read() -> None:
    async with (
        unread(server_with("bucket_crashes"), GATEWAY_QUEUE_INTERVAL=2) as server,
        shards(server.url) as bot,
    ):
        bot.ask(*CROWD)
        assert await server.ended() == 1


async def waiting(server: Unread, number: int) -> None:
    """Return once so many requests wait."""
    async with httpx.AsyncClient(base_url=server.url) as client:
        with trio.fail_after(PATIENCE):
            while (await client.get("/status")).json()["waiting"] < number:  # noqa: ASYNC110
                await trio.sleep(0.1)
