"""Load and faults: many clients that behave as badly as real ones, and a server in trouble.

    PYTHONPATH=tests python bench/soak.py [--clients 10000] [--seconds 120]

For ``--seconds``, each client performs random acts one after another: it stays until it is
granted, gives up and comes back, polls with ``wait``, resets its connection, half-closes it,
vanishes without a FIN (with TCP_REPAIR, which needs root), or sends garbage. Meanwhile the server
is killed twice and shut down once, and restarted on its journal; Discord's API fails for a while;
``max_concurrency`` grows and shrinks. After that, everybody behaves, and must get in.

Then all clients come and leave a few more times, to see what such a wave leaves behind.

What must hold, or the exit code is 1:

early grants   Of two answers in one bucket, none is closer to the one before than the interval,
               by the kernel's time stamps as they arrive. Where thousands connect at a time it
               drops packets; what was on its way for long counts from the server's log. The
               buckets are those of that log; besides, shards that share the largest number of
               buckets there was share one all the time, also across restarts and changes.
lost shards    Every shard was granted after the storm.
left behind    Tasks, descriptors and seats of the server are as many as before the first client,
               but for those of its connection to Discord, which comes and goes; the last wave
               adds less than a mebibyte to its memory. Garbage is collected before; by itself
               that happens every 30,000 connections or so, which leave 4 KiB each until then.
never closed   A client that closes half of its connection, or sends garbage, is closed in return.

How many grants nobody received is printed as well: somebody may leave in the moment of its turn.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import httpx
import trio
from fake_discord import FakeDiscord, fake_discord

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

INTERVAL = 0.25
BUCKETS = 32, 16, 64  # one after the other
WAVES = 4
SEAT_TTL = 5.0
REFRESH = 15.0  # the least there is
SETTINGS = {
    "HOST": "127.0.0.1",
    "GATEWAY_QUEUE_CRASH_LOOP": "off",
    "GATEWAY_QUEUE_INTERVAL": str(INTERVAL),
    "GATEWAY_QUEUE_LOG_FORMAT": "json",
    "GATEWAY_QUEUE_REFRESH": str(REFRESH),
    "GATEWAY_QUEUE_SEAT_TTL": str(SEAT_TTL),
    "GATEWAY_QUEUE_SHUTDOWN_GRACE": "1",
}
LATENCY = 0.001  # seconds that the answers of two connections may differ on their way
LONG_ON_ITS_WAY = 0.05  # seconds from a grant to its arrival, of which a packet was lost
CONNECTION_TO_DISCORD = {"tasks": 2, "descriptors": 1, "seats": 0}
# Seconds until a connection must be closed. Those for which the kernel had no room in its queue
# it takes, or resets, after a minute (tcp_synack_retries).
PATIENCE = 120.0
MOST_GROWTH = 1024  # KiB
SO_TIMESTAMPNS, TCP_REPAIR = 35, 19  # asm-generic/socket.h, linux/tcp.h; Python does not name them


@dataclass
class Server:
    """The server, and the next one on its journal and its port."""

    directory: Path
    environment: dict[str, str]
    process: subprocess.Popen[bytes] = field(init=False)

    @property
    def log(self) -> Path:
        return self.directory / "server.log"

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("counted_server.py"))],
                env=self.environment,
                stderr=log,
            )

    async def end(self, signum: int) -> None:
        self.process.send_signal(signum)
        await trio.to_thread.run_sync(self.process.wait)

    def lines(self, *events: str) -> list[dict[str, Any]]:
        """What all of them logged; a killed one may leave half a line."""
        found = []
        for line in self.log.read_text(errors="replace").splitlines():
            if line.startswith("{") and line.endswith("}"):
                words = json.loads(line)
                if words["event"] in events:
                    found.append(words)
        return found

    async def until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            if self.process.poll() is not None:
                sys.exit(f"the server ended: {self.log.read_text()[-1000:]}")
            await trio.sleep(0.1)

    async def tasks(self) -> int:
        known = len(self.lines("tasks"))
        self.process.send_signal(signal.SIGUSR1)
        await self.until(lambda: len(self.lines("tasks")) > known)
        return int(self.lines("tasks")[-1]["tasks"])

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def memory(self) -> int:
        """In KiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split(maxsplit=1)[0])


@dataclass(frozen=True, slots=True)
class Grant:
    shard: int
    at: float  # wall clock, as the kernel received it


@dataclass
class Fleet:
    """The clients, each with a shard of its own."""

    port: int
    clients: int
    random: Random
    acting: bool = True
    grants: list[Grant] = field(default_factory=list)
    acts: Counter[str] = field(default_factory=Counter)
    never_closed: int = 0

    async def run(self) -> None:
        """Act for as long as ``acting`` says, and then until each is granted."""
        async with trio.open_nursery() as nursery:
            for shard in range(self.clients):
                nursery.start_soon(self._shard, shard)

    async def visit(self) -> None:
        """All come, wait for a moment, and leave."""
        async with trio.open_nursery() as nursery:
            for shard in range(self.clients):
                nursery.start_soon(self._act, partial(self.look_in, shard))

    async def _shard(self, shard: int) -> None:
        acts = {
            self.stay: 30,
            self.give_up: 25,
            self.poll: 25,
            self.reset: 5,
            self.half_close: 5,
            self.send_garbage: 5,
            self.vanish: 5 if may_vanish() else 0,
        }
        await trio.sleep(self.random.uniform(0, 20))
        while self.acting:
            [act] = self.random.choices(list(acts), list(acts.values()))
            self.acts[act.__name__] += 1
            await self._act(partial(act, shard))
            await trio.sleep(self.random.uniform(0, 10))
        while not await self._act(partial(self.stay, shard)):
            pass

    async def _act(self, act: Callable[[trio.SocketStream], Awaitable[bool]]) -> bool:
        """Whether it was granted; a lost connection is part of the play."""
        try:
            async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
                stream.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
                return await act(stream)
        except (OSError, trio.BrokenResourceError):
            await trio.sleep(self.random.uniform(1, 5))
            return False

    async def stay(self, shard: int, stream: trio.SocketStream) -> bool:
        await ask(stream, shard)
        return await self._answer(shard, stream)

    async def give_up(self, shard: int, stream: trio.SocketStream) -> bool:
        await ask(stream, shard)
        with trio.move_on_after(self.random.uniform(1, 40)):
            return await self._answer(shard, stream)
        return False

    async def look_in(self, shard: int, stream: trio.SocketStream) -> bool:
        await ask(stream, shard)
        await trio.sleep(10)
        return False

    async def poll(self, shard: int, stream: trio.SocketStream) -> bool:
        for _ in range(5):
            await ask(stream, shard, f"&wait={self.random.uniform(2, 8):.3f}")
            if await self._answer(shard, stream):
                return True
        return False

    async def reset(self, shard: int, stream: trio.SocketStream) -> bool:
        granted = await self.give_up(shard, stream)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return granted

    async def half_close(self, shard: int, stream: trio.SocketStream) -> bool:
        await ask(stream, shard)
        await stream.send_eof()
        return await self._to_its_end(stream, shard)

    async def send_garbage(self, shard: int, stream: trio.SocketStream) -> bool:
        garbage = self.random.randbytes(self.random.randrange(1, 200))
        request = f"GET /?shard={shard} HTTP/1.1\r\n".encode()
        await stream.send_all(self.random.choice([b"", request]) + garbage + b"\r\n\r\n")
        await stream.send_eof()
        return await self._to_its_end(stream, shard)

    async def vanish(self, shard: int, stream: trio.SocketStream) -> bool:
        await ask(stream, shard)
        await trio.sleep(self.random.uniform(0, 5))
        stream.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)  # closes without a word
        return False

    async def _to_its_end(self, stream: trio.SocketStream, shard: int) -> bool:
        """It may have been the shard's turn when the half of the connection was closed."""
        received, granted = b"", False
        with trio.move_on_after(PATIENCE) as waiting:
            while data := await self._receive(stream):
                received += data[0]
                granted |= self._granted(shard, received, data[1])
        if waiting.cancelled_caught:
            self.never_closed += 1
        return granted

    async def _answer(self, shard: int, stream: trio.SocketStream) -> bool:
        received = b""
        while data := await self._receive(stream):
            received += data[0]
            if received.endswith(b"}"):
                return self._granted(shard, received, data[1])
        raise trio.BrokenResourceError

    async def _receive(self, stream: trio.SocketStream) -> tuple[bytes, float] | None:
        """The bytes, and when the kernel received them; None at the end."""
        data, stamps, _, _ = await stream.socket.recvmsg(4096, 64)
        if not data:
            return None
        if not stamps:
            return data, time.time()
        seconds, nanoseconds = struct.unpack("ll", stamps[0][2])
        return data, seconds + nanoseconds / 1e9

    def _granted(self, shard: int, received: bytes, at: float) -> bool:
        if not received.startswith(b"HTTP/1.1 200 ") or not received.endswith(b"}"):
            return False
        self.grants.append(Grant(shard, at))
        return True


async def ask(stream: trio.SocketStream, shard: int, more: str = "") -> None:
    await stream.send_all(f"GET /?shard={shard}{more} HTTP/1.1\r\nHost: soak\r\n\r\n".encode())


def may_vanish() -> bool:
    with socket.socket() as sock:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        except OSError:
            return False
    return True


async def suffer(server: Server, discord: FakeDiscord, seconds: float) -> None:
    """What happens to the server while the clients act."""
    blow = seconds / 8
    await trio.sleep(2 * blow)
    for signum in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        await server.end(signum)
        server.start()
        await trio.sleep(blow)
    fails: list[tuple[int, dict[str, str], bytes]] = [
        (500, {}, b"{}"),
        (200, {}, b"<html>"),
        (429, {"Retry-After": "1"}, b"{}"),
    ]
    discord.answers.extend(fails)
    await discord.until(lambda: not discord.answers)
    for discord.max_concurrency in BUCKETS[1:]:
        await server.until(lambda: spans(server)[-1][1] == discord.max_concurrency)
        await trio.sleep(blow)


async def quiet(url: str, server: Server, baseline: float = math.inf) -> dict[str, int]:
    """What is left once nobody is there, and the seats' time is over."""
    await trio.sleep(SEAT_TTL + 1)
    with trio.move_on_after(PATIENCE):  # as long as a vanished client may be unnoticed
        await server.until(lambda: server.descriptors() <= baseline)
    async with httpx.AsyncClient(base_url=url) as client:
        status = (await client.get("/status")).json()
    await trio.sleep(0.5)  # for the connection of this request to end
    return {
        "tasks": await server.tasks() - len(status["buckets"]),
        "descriptors": server.descriptors(),
        "seats": sum(bucket["waiting"] + bucket["away"] for bucket in status["buckets"]),
    }


def as_sent(grants: list[Grant], logged: list[dict[str, Any]]) -> tuple[list[Grant], int]:
    """The grants, dated from the log where a packet was lost; and how many these are."""
    given: dict[int, list[float]] = {}
    for line in logged:
        given.setdefault(line["shard"], []).append(moment(line))
    sent, delayed = [], 0
    for grant in grants:
        granted_at = max(at for at in given[grant.shard] if at < grant.at + LATENCY)
        late = grant.at - granted_at > LONG_ON_ITS_WAY
        delayed += late
        sent.append(Grant(grant.shard, granted_at) if late else grant)
    return sent, delayed


def moment(line: dict[str, Any]) -> float:
    return datetime.fromisoformat(line["timestamp"]).timestamp()


def early(grants: list[Grant], buckets: int) -> tuple[int, float]:
    """How many came too early, and the shortest gap."""
    last: dict[int, float] = {}
    gaps = []
    for grant in sorted(grants, key=lambda grant: grant.at):
        bucket = grant.shard % buckets
        if bucket in last:
            gaps.append(grant.at - last[bucket])
        last[bucket] = grant.at
    return sum(gap < INTERVAL - LATENCY for gap in gaps), min(gaps)


def spans(server: Server) -> list[tuple[float, int]]:
    """Since when there were how many buckets; one, before Discord has said it."""

    def number(buckets: int | str) -> int:
        return buckets if isinstance(buckets, int) else 1

    return [
        (moment(line), number(line["buckets"]))
        for line in server.lines("listening", "buckets_changed")
    ]


def early_within_spans(grants: list[Grant], changes: list[tuple[float, int]]) -> tuple[int, float]:
    """As ``early``, by the buckets that there were; what is closer to a change than its log line
    may be is left to the check over the whole time.
    """
    total, shortest = 0, math.inf
    for (since, buckets), (until, _) in pairwise([*changes, (math.inf, 0)]):
        seen = [grant for grant in grants if since + 0.1 < grant.at < until - 0.1]
        if len(seen) > buckets:
            number, gap = early(seen, buckets)
            total, shortest = total + number, min(shortest, gap)
    return total, shortest


@asynccontextmanager
async def stage(directory: Path, port: int) -> AsyncIterator[tuple[FakeDiscord, Server]]:
    ours = ("GATEWAY_QUEUE_", "DISCORD_TOKEN", "HOST", "PORT")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    async with fake_discord(
        max_concurrency=BUCKETS[0], total=1_000_000, remaining=1_000_000
    ) as discord:
        environment = {
            "PORT": str(port),
            "DISCORD_TOKEN": discord.token,
            "GATEWAY_QUEUE_DISCORD_API": discord.api,
            "GATEWAY_QUEUE_JOURNAL": f"sqlite:{directory / 'journal.sqlite'}",
        }
        server = Server(directory, inherited | SETTINGS | environment)
        server.start()
        try:
            yield discord, server
        finally:
            server.process.kill()
            server.process.wait()


async def soak(clients: int, seconds: float, seed: int) -> bool:
    with socket.socket() as free, tempfile.TemporaryDirectory() as directory:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        async with stage(Path(directory), port) as (discord, server):
            await server.until(lambda: bool(server.lines("buckets_changed")))
            fleet = Fleet(port, clients, Random(seed))  # noqa: S311 - no secret
            url = f"http://127.0.0.1:{port}"
            before = await quiet(url, server)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(fleet.run)
                await suffer(server, discord, seconds)
                fleet.acting = False
                calm_since = time.time()
            in_after = time.time() - calm_since
            lost = set(range(clients)) - {g.shard for g in fleet.grants if g.at > calm_since}

            logged = server.lines("identify_granted")
            changes = spans(server)

            memory = []
            for _ in range(WAVES):
                await fleet.visit()
                after = await quiet(url, server, before["descriptors"])
                memory.append(server.memory())
    grants, delayed = as_sent(fleet.grants, logged)
    always = early(grants, max(BUCKETS))
    within = early_within_spans(grants, changes)
    grown = memory[-1] - memory[-2]
    left_behind = any(
        after[name] - before[name] > CONNECTION_TO_DISCORD[name] for name in CONNECTION_TO_DISCORD
    )

    print(f"{clients:,} clients, {seconds:g} s of faults, seed {seed}")
    print("acts          " + ", ".join(f"{name} {number}" for name, number in fleet.acts.items()))
    print(f"grants        {len(grants)}, {delayed} long on their way")
    print(f"in vain       {len(logged) - len(grants)} grants that nobody received")
    print("buckets       " + " -> ".join(str(buckets) for _, buckets in changes))
    print(
        f"early grants  {always[0]} and {within[0]}; shortest gap {min(always[1], within[1]):.4f} s"
    )
    print(f"lost shards   {len(lost)}; all were in {in_after:.0f} s after the storm")
    for name in before:
        print(f"{name:14}{before[name]} before, {after[name]} after")
    print("memory        " + ", ".join(f"{kib:,}" for kib in memory) + " KiB, after each wave")
    print(f"never closed  {fleet.never_closed}")
    if not may_vanish():
        print("vanishing without a FIN was left out: it needs CAP_NET_ADMIN")
    return not (
        always[0] or within[0] or lost or left_behind or grown > MOST_GROWTH or fleet.never_closed
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    bound = 4 * options.seconds + options.clients / 50 + 300
    signal.signal(signal.SIGALRM, lambda *_: sys.exit(f"broke off: not done after {bound:g} s"))
    signal.alarm(round(bound))
    sys.exit(0 if trio.run(soak, options.clients, options.seconds, options.seed) else 1)


if __name__ == "__main__":
    main()
