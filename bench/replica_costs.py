"""What replicas cost beside one server: CPU of each process, traffic, and late grants.

    PYTHONPATH=tests:tests/end_to_end python bench/replica_costs.py [--clients 10000] [--bots 200]

starts one server with its journal in a file, and two replicas with a Valkey that writes an
append-only file, in turn and each with a crowd of clients over 127.0.0.1, and prints tables for
docs/benchmarks.md. All processes share all cores. It takes six minutes. Linux only.

held       The interval is so long that nobody is granted. A fifth of ``--clients`` come to the
           replica that does not lead, which gives what an arrival costs each process; then 500
           ask there with ``wait=`` again and again, which gives the cost of a poll. Then the
           other clients come to both replicas.
granted    The buckets open one after the other, with clients at both replicas: how late is each
           grant, counted as ``waiting.py`` does while all wait. In the first of these runs all
           clients are at the replica that does not lead, which gives the cost of a grant.
           With 16 buckets the interval is a second, with 128 it is 5.5, so that about as many
           grants come in a second.
bots       The same with ``--bots`` bots of a bucket each, and ten clients for each of them.

From each cost is taken away what the processes spend in the same time while nobody waits. That is
measured first, and again with all of the clients waiting. A step is a script that Valkey executes
for a replica, a read is an answer to one that waits for news (or the end of its five seconds).

The exit code is 1 if two grants of a bucket were closer than the interval, if a client was lost,
or if the replicas asked Valkey for more while clients waited than while nobody did.
"""

from __future__ import annotations

import argparse
import platform
import random
import signal
import sys
import tempfile
import time
from collections import ChainMap, Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bots
import trio
from engines import INSTALLED, servers
from engines import Server as Engine
from outside import Crowd, Server, cpu, most_clients
from waiting import (
    POLLERS,
    Figures,
    faults,
    gaps,
    join_all,
    lateness,
    spread_buckets,
    start_polling,
    stop_polling,
    wait_until_quiet,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    Start = Callable[[int, float, dict[str, str]], AbstractContextManager["Group"]]

KIND = INSTALLED[-1]
ALONE, HOLDS, LEADS, ENGINE = "one server", "does not lead", "leads", KIND.capitalize()
STEPS, READS = "steps", "reads"
NAMES = ALONE, "replicas"
OF_GRANTS = "CPU ms a grant", "late by, ms", "p99"
COLUMNS = ALONE, HOLDS, LEADS, ENGINE, STEPS, READS

SIZES = {16: 1.0, 128: 5.5}  # buckets, and the interval
BUCKETS = 16
INTERVAL = 5.5  # of bots
FOREVER = 3600.0
SETTLING = 2.0
WAIT = 5.0  # between two polls of a client
EACH = 10  # clients of a bot
BOUND = 120


@dataclass
class Group:
    """One server, or replicas with their engine: each process by what it does."""

    servers: dict[str, Server]
    engine: Engine | None = None

    @property
    def ports(self) -> list[int]:
        """Those of the replicas that do not lead come first."""
        return [server.port() for server in self.servers.values()]

    def cpu(self) -> float:
        return sum(server.cpu() for server in self.servers.values())

    def sleeps(self) -> bool:
        return all(server.sleeps() for server in self.servers.values())

    def must_live(self) -> None:
        for server in self.servers.values():
            server.must_live()

    def lines(self, event: str) -> list[dict[str, Any]]:
        return [line for server in self.servers.values() for line in server.lines(event)]

    def spent(self) -> Figures:
        """Until now: milliseconds of CPU of each process, and what was asked of the engine."""
        spent = {name: server.cpu() * 1e3 for name, server in self.servers.items()}
        if self.engine is not None:
            calls = trio.run(self.engine.calls)
            spent[ENGINE] = cpu(self.engine.pid) * 1e3
            spent |= {STEPS: calls["evalsha"], READS: calls["xread"]}
        return spent


class Meter:
    """What a group spends from now on, apart from what it would spend in any second."""

    def __init__(self, group: Group, idle: Figures | None = None) -> None:
        self._group = group
        self._idle = idle or {}
        self._before = group.spent()
        self._since = time.monotonic()

    def each(self, number: float) -> Figures:
        """What was spent for each of so many."""
        seconds = time.monotonic() - self._since
        return {
            name: (spent - self._before[name] - self._idle.get(name, 0) * seconds) / number
            for name, spent in self._group.spent().items()
        }


@dataclass
class Spread(Crowd):
    """Clients that ask at any of these ports, and for one bot after the other if there are some."""

    ports: Sequence[int] = ()
    bots: int = 0
    _rng: random.Random = field(default_factory=partial(random.Random, 1))

    def address(self, shard: int) -> tuple[int, str]:
        self.port = self._rng.choice(self.ports)
        return self.port, f"/bots/{bots.name_of(shard % self.bots)}/" if self.bots else "/"


@contextmanager
def alone(buckets: int, interval: float, more: dict[str, str]) -> Iterator[Group]:
    with (
        tempfile.TemporaryDirectory() as folder,
        serve(Path(folder), buckets, interval, more) as server,
    ):
        yield Group({ALONE: server})


@contextmanager
def replicas(buckets: int, interval: float, more: dict[str, str]) -> Iterator[Group]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        engine = stack.enter_context(servers(folder))(KIND, "--appendonly", "yes")
        trio.run(engine.start)
        more = more | {"GATEWAY_QUEUE_REDIS": engine.url}
        started = {}
        for name in (LEADS, HOLDS):
            own = folder / name
            own.mkdir()
            server = stack.enter_context(serve(own, buckets, interval, more))
            server.port()
            while name == LEADS and not server.lines("leading"):
                server.must_live()
                time.sleep(0.05)
            started[name] = server
        yield Group(dict(reversed(started.items())), engine)
        assert not started[HOLDS].lines("leading")


@contextmanager
def serve(folder: Path, buckets: int, interval: float, more: dict[str, str]) -> Iterator[Server]:
    signal.alarm(BOUND)
    with Server(sys.executable, folder, buckets=buckets, interval=interval, more=more) as server:
        server.port()
        yield server


def a_second(group: Group, crowd: Crowd, seconds: float) -> Figures:
    meter = Meter(group)
    crowd.listen(seconds)
    return meter.each(seconds)


@dataclass
class Held:
    """What is spent while nobody is granted: in a second with nobody and with all, and for each."""

    idle: Figures
    crowded: Figures
    arrival: Figures
    poll: Figures
    faults: Figures


def hold(group: Group, clients: int, seconds: float) -> Held:
    crowd = Spread(group.ports[0], ports=group.ports[:1])
    crowd.listen(SETTLING)
    idle = a_second(group, crowd, seconds)

    meter, some = Meter(group, idle), clients // 5
    join_all(crowd, some)
    wait_until_quiet(group, crowd.port, crowd.listen)
    arrival = meter.each(some)

    start_polling(crowd, WAIT)
    meter, before = Meter(group, idle), crowd.polls
    crowd.listen(seconds)
    poll = meter.each(crowd.polls - before)
    stop_polling(crowd)

    crowd.ports = group.ports
    join_all(crowd, clients - some)
    wait_until_quiet(group, crowd.port, crowd.listen)
    crowd.listen(SETTLING)
    crowded = a_second(group, crowd, seconds)
    return Held(idle, crowded, arrival, poll, faults(group, crowd, BUCKETS, FOREVER))


@dataclass
class Granted:
    """What is spent in a second with nobody, and for each grant; how late they were, in ms."""

    idle: Figures
    each: Figures
    late: Figures
    faults: Figures

    @property
    def cpu(self) -> float:
        """Of all processes."""
        return sum(spent for name, spent in self.each.items() if name not in {STEPS, READS})


def grant(
    group: Group, crowd: Spread, clients: int, buckets: int, interval: float, seconds: float
) -> Granted:
    crowd.listen(SETTLING)
    idle = a_second(group, crowd, seconds / 2)
    spread_buckets(crowd, buckets, interval)
    join_all(crowd, clients)
    crowd.listen(SETTLING)
    meter, since, before = Meter(group, idle), time.monotonic(), len(crowd.answers)
    crowd.listen(seconds)
    each = meter.each(len(crowd.answers) - before)
    lates = [b.at - a.at - interval for a, b in gaps(crowd.answers, buckets) if b.at >= since]
    late = lateness("", lates)
    return Granted(idle, each, late, faults(group, crowd, buckets, interval))


def grant_in(buckets: int, start: Start, clients: int, seconds: float) -> Granted:
    interval = SIZES[buckets]
    with start(buckets, interval, {}) as group:
        crowd = Spread(group.ports[0], ports=group.ports)
        return grant(group, crowd, clients, buckets, interval, seconds)


def grant_elsewhere(clients: int, seconds: float) -> Granted:
    """All clients are at the replica that does not lead."""
    interval = SIZES[BUCKETS]
    with replicas(BUCKETS, interval, {}) as group:
        crowd = Spread(group.ports[0], ports=group.ports[:1])
        return grant(group, crowd, clients, BUCKETS, interval, seconds)


def grant_bots(number: int, start: Start, seconds: float) -> Granted:
    with (
        tempfile.TemporaryDirectory() as folder,
        bots.discord() as api,
        start(1, INTERVAL, bots.settings_of(number, api, Path(folder))) as group,
    ):
        while len(group.lines("limits_read")) < number:
            group.must_live()
            time.sleep(0.1)
        crowd = Spread(group.ports[0], ports=group.ports, bots=number)
        return grant(group, crowd, EACH * number, number, INTERVAL, seconds)


def measure(clients: int, number: int, seconds: float) -> Counter[str]:
    """Print the tables; return what must not be, and how often it was."""
    some, starts = clients // 5, (alone, replicas)
    held = []
    for start in starts:
        with start(BUCKETS, FOREVER, {}) as group:
            held.append(hold(group, clients, seconds))
    elsewhere = grant_elsewhere(some, seconds)
    granted = {
        f"{waiting:,}, {buckets} buckets": [
            grant_in(buckets, start, waiting, seconds) for start in starts
        ]
        for waiting, buckets in ((some, 16), (clients, 16), (clients, 128))
    }
    of_one = next(iter(granted.values()))[0]
    of_bots = [grant_bots(number, start, seconds) for start in starts]
    granted[f"{EACH * number:,}, {number} bots"] = of_bots

    print(f"{ENGINE}, CPython {platform.python_version()}")
    show(
        ["CPU ms", *COLUMNS],
        {
            "an arrival": columns(one.arrival for one in held),
            "a poll": columns(one.poll for one in held),
            "a grant": columns([of_one.each, elsewhere.each]),
        },
    )
    show(
        ["CPU ms a second", *COLUMNS],
        {
            "nobody waits": columns(one.idle for one in held),
            f"{clients:,} wait, nobody is granted": columns(one.crowded for one in held),
            f"nobody waits, {number} bots": columns(one.idle for one in of_bots),
        },
    )
    show(
        ["waiting", *(f"{name}, {of}" for name in NAMES for of in OF_GRANTS)],
        {
            name: [figure for one in row for figure in (one.cpu, *one.late.values())]
            for name, row in granted.items()
        },
    )
    rows: list[Held | Granted] = [*held, elsewhere, *chain.from_iterable(granted.values())]
    found = Counter[str]()
    for row in rows:
        found.update(row.faults)
    two = held[1]
    found["polls of the engine"] = int(two.crowded[STEPS] > two.idle[STEPS] + 1)
    return found


def columns(parts: Iterable[Figures]) -> list[float]:
    figures = ChainMap(*parts)
    return [figures[name] for name in COLUMNS]


def show(head: list[str], rows: dict[str, list[float]]) -> None:
    print("\n|", " | ".join(head), "|")
    print("|---" + "|---:" * (len(head) - 1) + "|")
    for name, figures in rows.items():
        print("|", " | ".join([name, *(f"{max(0.0, figure):.2f}" for figure in figures)]), "|")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--bots", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    signal.signal(signal.SIGALRM, lambda *_: sys.exit("broke off: not done in time"))
    if given.clients + POLLERS > most_clients():
        parser.error(
            f"at most {most_clients() - POLLERS} clients: `ulimit -Hn` or the ports allow no more"
        )
    found = measure(given.clients, given.bots, given.seconds)
    print("\n" + ", ".join(f"{fault}: {times}" for fault, times in found.items()))
    sys.exit(1 if any(found.values()) else 0)


if __name__ == "__main__":
    main()
