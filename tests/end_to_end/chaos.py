"""Several replicas in a storm: they, and the engine that they share, are killed and stopped.

Clients ask again and again, some leave and come back, through whichever replica. Whether a
grant came too early is judged by the kernel's time stamps at the clients, and by nothing that
the server says.
"""

import random
import signal
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import trio
from background import background
from engines import Server, servers
from harness import DEFAULTS, Program, free_port, running, server_with
from instants import EXACT, dial

INTERVAL = 0.5
BUCKETS = 4
REPLICAS = 5

# A fault is over for those who wait after so many seconds.
CALM_AFTER = 4.0

# Who came so much later than another must not be granted before it.
CLEARLY_LATER = 0.25

# Seconds in which everybody is to be granted, after the storm.
ALL_IN = 90.0


@dataclass
class Grant:
    shard: int
    at: float  # when the kernel received the answer
    asked_at: float  # first
    stayed: bool  # all the time


@dataclass
class Fault:
    what: str
    at: float
    over_at: float = 0.0


@dataclass
class Storm:
    """What happened."""

    seed: int
    grants: list[Grant] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    lost: int = 0

    def by_bucket(self) -> dict[int, list[Grant]]:
        buckets = defaultdict(list)
        for grant in sorted(self.grants, key=lambda grant: grant.at):
            buckets[grant.shard % BUCKETS].append(grant)
        return buckets

    @property
    def early(self) -> list[float]:
        """The gaps between two grants of a bucket that were too short."""
        return [
            late.at - soon.at
            for grants in self.by_bucket().values()
            for soon, late in pairwise(grants)
            if late.at - soon.at < INTERVAL - EXACT
        ]

    @property
    def overtaken(self) -> int:
        """How many were granted after somebody who came later, while nothing was wrong."""
        number = 0
        for grants in self.by_bucket().values():
            stayed = [grant for grant in grants if grant.stayed]
            for soon, late in pairwise(stayed):
                if late.asked_at < soon.asked_at - CLEARLY_LATER:
                    number += self.is_calm(late.asked_at, late.at)
        return number

    def is_calm(self, since: float, until: float) -> bool:
        """Whether there was no fault between these instants, nor shortly before."""
        return not any(
            fault.at < until and since < fault.over_at + CALM_AFTER for fault in self.faults
        )

    def late_after(self) -> dict[str, float]:
        """By the kind of fault, how late the latest grant was that came next in a bucket."""
        latest: dict[str, float] = defaultdict(float)
        for fault in self.faults:
            for grants in self.by_bucket().values():
                times = [grant.at for grant in grants]
                for soon, late in pairwise(times):
                    if soon < fault.over_at + 0.5 and late > fault.at:
                        lateness = late - max(soon + INTERVAL, fault.over_at)
                        latest[fault.what] = max(latest[fault.what], lateness)
        return dict(latest)

    def report(self) -> str:
        late = "  ".join(f"{what} {s:.2f} s" for what, s in sorted(self.late_after().items()))
        return (
            f"seed {self.seed}: {len(self.grants)} grants, {len(self.faults)} faults,"
            f" early {len(self.early)}, lost {self.lost}, overtaken {self.overtaken};"
            f" late after {late}"
        )


class Replicas:
    """The processes, each with its port, started again when they are killed."""

    def __init__(self, engine: Server, nursery: trio.Nursery, changes: tuple[str, ...]) -> None:
        self.engine = engine
        self.ports = [free_port() for _ in range(REPLICAS)]
        self.programs: dict[int, Program] = {}  # those that run
        self._changes = changes
        self.nursery = nursery
        self._ends: dict[int, trio.CancelScope] = {}

    async def start(self, port: int) -> None:
        await self.nursery.start(self._run, port)

    async def kill(self, port: int) -> None:
        program = self.programs.pop(port)
        program.process.send_signal(signal.SIGKILL)
        self._ends[port].cancel()
        await program.ended()

    def leader(self) -> int:
        """The port of the replica that was the last to say that it leads."""
        said = [
            (line["timestamp"], port)
            for port, program in self.programs.items()
            for line in program.logged_so_far("leading")
        ]
        return max(said)[1] if said else min(self.programs)

    async def _run(
        self, port: int, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        settings = {
            "PORT": port,
            "GATEWAY_QUEUE_JOURNAL": None,
            "GATEWAY_QUEUE_REDIS": self.engine.url,
            "GATEWAY_QUEUE_REPLICA": f"r{self.ports.index(port)}",
            "GATEWAY_QUEUE_INTERVAL": INTERVAL,
            "GATEWAY_QUEUE_MAX_CONCURRENCY": BUCKETS,
            "GATEWAY_QUEUE_DAILY_STARTS": 1_000_000,
            "GATEWAY_QUEUE_CRASH_LOOP": "off",
            "GATEWAY_QUEUE_LOG_LEVEL": "info",
        }
        with trio.CancelScope() as self._ends[port]:
            async with running(*server_with(*self._changes), **(DEFAULTS | settings)) as program:
                await program.logged("listening")
                self.programs[port] = program
                task_status.started()
                await trio.sleep_forever()


class Crowd:
    """Clients that ask for their shards, again and again, until the storm is over."""

    def __init__(self, storm: Storm, ports: list[int], rng: random.Random) -> None:
        self.storm = storm
        self.is_over = False
        self._ports = ports
        self._rng = rng

    async def ask(self, shard: int) -> None:
        while not self.is_over:
            await trio.sleep(self._rng.uniform(0, 2))
            asked_at, stayed = time.time(), True
            while True:
                leaves_after = self._rng.uniform(0.2, 3) if self._rng.random() < 0.25 else 1e9
                with trio.move_on_after(leaves_after) as leaving:
                    at = await self._ask_once(shard)
                if leaving.cancelled_caught:
                    stayed = False
                    await trio.sleep(self._rng.uniform(0, 0.5))
                elif at is not None:
                    self.storm.grants.append(Grant(shard, at, asked_at, stayed))
                    break
                else:
                    stayed = False
                    await trio.sleep(0.05)

    async def _ask_once(self, shard: int) -> float | None:
        """When the answer came; None if there was none."""
        try:
            stream = await dial(f"http://127.0.0.1:{self._rng.choice(self._ports)}")
            async with stream:
                await stream.send_all(f"GET /?shard={shard} HTTP/1.1\r\nHost: q\r\n\r\n".encode())
                answer = await stream.receive_some()
                return stream.at if answer.startswith(b"HTTP/1.1 200") else None
        except (OSError, trio.BrokenResourceError):
            return None


Deed = Callable[["Weather"], Awaitable[None]]


class Weather:
    """What goes wrong, one thing after the other."""

    def __init__(self, storm: Storm, replicas: Replicas, rng: random.Random) -> None:
        self.storm = storm
        self.replicas = replicas
        self.rng = rng

    async def rage(self, until: float, deeds: dict[str, Deed]) -> None:
        names = list(deeds)
        while trio.current_time() < until:
            await trio.sleep(self.rng.uniform(1, 4))
            name = self.rng.choice(names)
            fault = Fault(name, time.time())
            self.storm.faults.append(fault)
            fault.over_at = float("inf")
            await deeds[name](self)
            fault.over_at = time.time()

    async def kill_replica(self) -> None:
        await self._kill(self._any())

    async def kill_leader(self) -> None:
        await self._kill(self.replicas.leader())

    async def stop_replica(self) -> None:
        await self._stop(self._any(), self.rng.uniform(0.3, 3))

    async def stop_leader(self) -> None:
        await self._stop(self.replicas.leader(), self.rng.uniform(0.3, 3))

    async def flicker(self) -> None:
        port = self._any()
        for _ in range(8):
            await self._stop(port, self.rng.uniform(0.1, 0.6))
            await trio.sleep(self.rng.uniform(0.05, 0.3))

    async def kill_engine(self) -> None:
        self.replicas.engine.kill()
        await trio.sleep(self.rng.uniform(0, 1))
        await self.replicas.engine.start()

    async def stop_engine(self) -> None:
        self.replicas.engine.signal(signal.SIGSTOP)
        await trio.sleep(self.rng.uniform(0.3, 4))
        self.replicas.engine.signal(signal.SIGCONT)

    async def flush(self) -> None:
        await self.replicas.engine.flush()

    def _any(self) -> int:
        return self.rng.choice(sorted(self.replicas.programs))

    async def _kill(self, port: int) -> None:
        await self.replicas.kill(port)

        async def come_back() -> None:
            await trio.sleep(self.rng.uniform(0, 1))
            await self.replicas.start(port)

        self.replicas.nursery.start_soon(come_back)

    async def _stop(self, port: int, seconds: float) -> None:
        process = self.replicas.programs[port].process
        process.send_signal(signal.SIGSTOP)
        await trio.sleep(seconds)
        process.send_signal(signal.SIGCONT)


DEEDS: dict[str, Deed] = {
    "replica killed": Weather.kill_replica,
    "leader killed": Weather.kill_leader,
    "replica stopped": Weather.stop_replica,
    "leader stopped": Weather.stop_leader,
    "flicker": Weather.flicker,
    "engine killed": Weather.kill_engine,
    "engine stopped": Weather.stop_engine,
    "flushed": Weather.flush,
}


async def storm(
    kind: str,
    folder: Path,
    seed: int,
    seconds: float,
    *options: str,
    shards: int = 100,
    deeds: dict[str, Deed] = DEEDS,
    changes: tuple[str, ...] = (),
) -> Storm:
    """Let it rage for so many seconds, and then see whether everybody gets in."""
    happened = Storm(seed)
    rng = random.Random(seed)  # noqa: S311 - so that it can be had again
    async with AsyncExitStack() as stack:
        make = stack.enter_context(servers(folder))
        engine = make(kind, *options)
        await engine.start()
        nursery = await stack.enter_async_context(background())
        replicas = Replicas(engine, nursery, changes)
        async with trio.open_nursery() as starting:
            for port in replicas.ports:
                starting.start_soon(replicas.start, port)
        crowd = Crowd(happened, replicas.ports, rng)
        async with trio.open_nursery() as asking:
            for shard in range(shards):
                asking.start_soon(crowd.ask, shard)
            weather = Weather(happened, replicas, rng)
            await weather.rage(trio.current_time() + seconds, deeds)
            crowd.is_over = True
            with trio.move_on_after(ALL_IN):
                while asking.child_tasks:  # noqa: ASYNC110 - it tells nobody
                    await trio.sleep(0.1)
            happened.lost = len(asking.child_tasks)
            asking.cancel_scope.cancel()
    return happened
