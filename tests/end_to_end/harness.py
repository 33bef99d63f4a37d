"""Programs under test, our server first of all: started, listened to, and stopped with the test.

A program speaks in JSON objects, one a line; pytest shows its words when the test fails. It
inherits the environment of the tests, but none of our server's settings.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count, cycle, islice
from pathlib import Path
from typing import Any

import httpx
import trio
from background import background
from patience import PATIENCE

SERVER = (sys.executable, "-m", "gateway_queue")
TAMPERED_SERVER = (sys.executable, str(Path(__file__).parent / "programs" / "tampered_server.py"))
DEFAULTS: dict[str, object] = {
    "HOST": "127.0.0.1",
    "PORT": 0,
    "GATEWAY_QUEUE_LOG_FORMAT": "json",
    "GATEWAY_QUEUE_JOURNAL": "memory",
    "GATEWAY_QUEUE_LOG_LEVEL": "debug",
}

# For ``free_port``: a range for each of up to 20 processes that run tests, all of them below the
# ports that Linux (from 32768) gives to whoever does not ask for one.
PORTS_EACH = 1000
_first = 12_000 + PORTS_EACH * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 20)
_ports = cycle(range(_first, _first + PORTS_EACH))

# A shell has what it starts in the background ignore these, and all that is started from there;
# a handler is not inherited.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda *_: None)


@dataclass(eq=False)
class Program:
    process: trio.Process
    lines: list[str] = field(default_factory=list)  # all it said
    log: list[dict[str, Any]] = field(default_factory=list)  # those that are JSON objects
    leader: "Program | None" = None  # of a replica that does not lead
    follower: "Program | None" = None  # a replica whose test hears this one's words as well
    _silent: bool = False
    _said_more: trio.Event = field(default_factory=trio.Event)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        return self.process.returncode

    @property
    def url(self) -> str:
        """Where our server listens."""
        return str(self.logged_so_far("listening")[-1]["address"])

    def logged_so_far(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        """The lines of this event with these fields that were heard until now.

        A line comes after what it tells of, so whoever has seen that must still wait for the
        line. This is for what must not have happened: once a later line was awaited, or the
        program has ended by itself.
        """
        wanted = {"event": event, **fields}
        return [line for line in self.log if all(line.get(k) == v for k, v in wanted.items())]

    async def logged(
        self, event: str, *, within: float = PATIENCE, **fields: Any
    ) -> dict[str, Any]:
        """The first line of this event with these fields; waits for it if need be."""
        [line] = await self.logged_times(1, event, within=within, **fields)
        return line

    async def logged_times(
        self, times: int, event: str, *, within: float = PATIENCE, **fields: Any
    ) -> list[dict[str, Any]]:
        """The first so many lines of this event with these fields; waits for them if need be."""

        def found() -> list[dict[str, Any]]:
            return self.logged_so_far(event, **fields)

        what = f"{event!r} {fields}" if times == 1 else f"{times} times {event!r} {fields}"
        await self.until(lambda: len(found()) >= times, what, within=within)
        return found()[:times]

    async def said(self) -> AsyncIterator[dict[str, Any]]:
        """Its lines that are JSON objects, as they come, until it ends."""
        number = 0
        while number < len(self.log) or not self._silent:
            if number == len(self.log):
                await self._said_more.wait()
            else:
                yield self.log[number]
                number += 1

    async def said_something(self) -> None:
        await self.until(lambda: bool(self.lines), "a word")

    async def until(
        self, holds: Callable[[], bool], what: str, *, within: float = PATIENCE
    ) -> None:
        """Wait until this holds; looks again at each line. Fails if it does not say ``what``."""
        with trio.move_on_after(within):
            while not holds():
                assert not self._silent, f"ended ({self.returncode}) without {what}"
                await self._said_more.wait()
            return
        raise AssertionError(f"no {what} within {within} s")

    async def stop(self) -> int:
        """SIGTERM, then as ``ended``."""
        self.process.terminate()
        return await self.ended()

    async def kill(self) -> int:
        """SIGKILL, then as ``ended``."""
        self.process.kill()
        return await self.ended()

    async def ended(self, *, within: float = PATIENCE) -> int:
        """The exit code, once it has ended and all it said has been heard.

        Its leader ends as well, as that still had to say what became of the clients.
        """
        with trio.fail_after(within):
            while not self._silent:
                await self._said_more.wait()
            if self.leader is not None:
                await self.leader.stop()
            return await self.process.wait()

    async def listen(self) -> None:
        assert self.process.stdout is not None
        unfinished = b""
        try:
            async for chunk in self.process.stdout:
                *lines, unfinished = (unfinished + chunk).split(b"\n")
                for line in lines:
                    sys.stdout.write(f"[{self.pid}] {line.decode()}\n")
                    self.hear(line.decode())
            returncode = await self.process.wait()
            sys.stdout.write(f"[{self.pid}] ended: {returncode}\n")
        finally:
            self._silent = True
            self._said_more.set()

    def hear(self, line: str) -> None:
        self.lines.append(line)
        if line.startswith("{"):
            self.log.append(json.loads(line))
            if self.follower is not None and self.log[-1]["event"] not in {"ending", "ended"}:
                self.follower.hear(line)
        self._said_more.set()
        self._said_more = trio.Event()


@asynccontextmanager
async def running(*command: str, **environment: object) -> AsyncIterator[Program]:
    """Run this program while the block lasts, with these variables; None takes one away."""
    run = partial(
        trio.run_process,
        command,
        env=_environment(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        deliver_cancel=_kill,
    )
    async with background() as nursery:
        program = Program(await nursery.start(run))
        nursery.start_soon(program.listen)
        try:
            yield program
        finally:
            with trio.CancelScope(shield=True):
                await program.kill()


# What is changed in every server, besides what its test asks for: see the fixture ``way``.
changed_everywhere: tuple[str, ...] = ()

# Where this is the URL of a Redis, every server is one of two replicas, and does not lead.
engine: str | None = None
_prefixes = count(1)


def server_with(*changes: str) -> tuple[str, ...]:
    """The command of our server with these changes of ``programs/tampered_server.py``."""
    changes = (*changes, *changed_everywhere)
    return (*TAMPERED_SERVER, ",".join(changes)) if changes else SERVER


def running_server(*arguments: str, **settings: object) -> AbstractAsyncContextManager[Program]:
    """Our server, which listens when the block begins and is killed at its end."""
    return listening(*server_with(), *arguments, **settings)


@asynccontextmanager
async def listening(*command: str, **settings: object) -> AsyncIterator[Program]:
    """As ``running_server``, by this command."""
    settings = DEFAULTS | settings
    if engine is not None:
        async with _not_leading(command, settings, engine) as server:
            yield server
        return
    async with running(*command, **settings) as server:
        await server.logged("listening")
        yield server


@asynccontextmanager
async def _not_leading(
    command: tuple[str, ...], settings: dict[str, object], engine: str
) -> AsyncIterator[Program]:
    """One of two replicas, and not the one that leads.

    They start at once, so that the buckets open as long after it listens as at any server.
    """
    settings |= {
        "GATEWAY_QUEUE_JOURNAL": None,
        "GATEWAY_QUEUE_REDIS": engine,
        "GATEWAY_QUEUE_REDIS_PREFIX": f"queue-{next(_prefixes)}",
    }
    async with running(*command, **settings) as one, running(*command, **settings) as other:
        with trio.fail_after(PATIENCE):
            while not (one.logged_so_far("leading") or other.logged_so_far("leading")):  # noqa: ASYNC110
                await trio.sleep(0.02)
            leader, server = (one, other) if one.logged_so_far("leading") else (other, one)
            await server.logged("listening")
            async with httpx.AsyncClient(base_url=server.url, verify=False) as client:  # noqa: S501
                # It may not know yet who leads.
                while not (await client.get("/readyz")).is_success:  # noqa: ASYNC110
                    await trio.sleep(0.02)
        server.leader, leader.follower = leader, server
        yield server


async def run_server(*arguments: str, **settings: object) -> tuple[int, str]:
    """The exit code and the words of our server, where it is expected to end by itself."""
    async with running(*server_with(), *arguments, **(DEFAULTS | settings)) as server:
        return await server.ended(), "\n".join(server.lines)


def free_port() -> int:
    """A port on which nobody listens now; for a program that is to come back on the same one.

    Nobody else gets it while that program is down. One that the system gives away might go to a
    connection, or to another test's server, which would then be asked by this test's clients.
    """
    for port in islice(_ports, PORTS_EACH):
        with socket.socket() as sock, suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def _environment(variables: dict[str, object]) -> dict[str, str]:
    foreign = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GATEWAY_QUEUE_") and name not in {"DISCORD_TOKEN", "HOST", "PORT"}
    }
    given = {name: str(value) for name, value in variables.items() if value is not None}
    return foreign | {"PYTHONUNBUFFERED": "1"} | given


async def _kill(process: trio.Process) -> None:
    process.kill()
