"""What a waiting client costs and how punctual the grants are, measured on the real server.

    python bench/waiting.py [--against PYTHON] [--clients 10000] [--buckets 16] [--save FILE]

starts ``python -m gateway_queue`` as a process of its own (its journal in a temporary file) and
talks to it over 127.0.0.1 only. That takes about three minutes. ``--against`` names the
interpreter of another installed version: both are measured in turn on the same core, server by
server, and each figure is divided by the other version's. Linux only. With two cores the server
gets the first and this process the second.

The first server goes through these phases:

idle     Every bucket is asked once when it has opened, one bucket after the other, so that from
         then on they open evenly spread over an interval.
burst    ``--clients`` connections are opened one after the other, each sends its request at once;
         never more than 100 of them wait in the server's accept queue.
parked   All of them wait; nobody comes, and the server is left alone for ``--seconds``.
polled   500 more clients ask with ``wait=`` a quarter of ``--seconds``, and whenever they are told
         to ask again (202) they do, at once and over the same connection, for ``--seconds``. They
         arrive evenly spread, so that their polls do not come in waves. Then they leave.
opening  All buckets open in one instant, ``--openings`` times.
leaving  All clients but the first ten of each bucket close their connections at once, starting
         50 ms before the buckets open.

The second server starts with 10,000 grants of the last day in its journal and goes through idle,
burst, parked and polled. The third holds more and more streams of one HTTP/2 connection: 100,
1,000 and 2,000 (1, 10 and 20 percent of ``--clients``).

What is measured, and how:

arrival   A client has arrived when the server has taken it. No endpoint is asked. The burst is
          over when every request is sent, the accept queue is empty and, for the 0.1 s that
          follow, the server sleeps whenever it is looked at and uses at most 10 ms of CPU; if
          then some connection has unread bytes (/proc/net/tcp), it goes on. The rate leaves out
          those 0.1 s. CPU: /proc/PID/task/*/schedstat, the grants of the burst included.
KiB       VmRSS of /proc/PID/status after the burst less VmRSS before, per client then waiting.
parked    The server's CPU over the slices of 50 ms in which nobody is granted, in percent of the
          wall time. The CPU of the other slices, divided by their grants, is what a grant costs
          that comes alone, from a cold cache.
poll      The server's CPU over the slices in which nobody is granted, per 202.
opening   The server is halted (SIGSTOP) while its buckets become due, so they all open in the
          instant in which it goes on (SIGCONT). The benchmark knows this instant without the
          server's help, no grant can come before it, and each grant's lateness counts from it.
          By the clock alone the buckets open together only once in a server's life, at its
          start; after that they are as far apart as its grants were late. Nor would the spread
          of the answers do: a server that decides on all grants before it sends the first
          answer is late with every one of them, and sends them close together.
late      In the other phases, counted from the earliest instant at which the bucket could open:
          the gap between two answers of a bucket less the interval. Only from the burst on, when
          somebody always waits.
leaver    The server's CPU from the first close until it is quiet again, per client that left, the
          grants meanwhile included. The lateness is that of each bucket's first answer meanwhile.
HTTP/2    The server's CPU while each bucket grants a stream, one bucket after the other over an
          interval, per grant. Streams that were granted are replaced before the next size.

Answers are timed by the kernel's time stamp of their last byte, so that a slow benchmark does not
show. A percentile is the nearest rank: with fewer than 100 grants p99 is the maximum.

The exit code is 1 if two answers of a bucket were closer than the interval, if a client was lost
(closed, refused, given another answer, or granted in the log without one), or if the run broke
off; else 0. A missed target is reported and changes nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass
from itertools import count, islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from outside import (
    ESTABLISHED,
    LISTENING,
    Answer,
    Crowd,
    Http2Crowd,
    Server,
    most_clients,
    receive_queues,
    serving,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

IN_FLIGHT = 100  # no more than any backlog there is: no SYN is dropped
QUIET = 0.1
SLICE = 0.05
POLLERS = 500
ROWS = 10_000
STAYING = 10  # of each bucket: more than arrivals of one tick may have changed places
LEAD = 0.05

Figures = dict[str, float]
FAULTS = "early grants", "clients lost"


@dataclass(frozen=True, slots=True)
class Target:
    """The most a figure is to be, and the most of the other version's figure."""

    figure: float = math.inf
    ratio: float = math.inf


TARGETS = {
    "CPU us per arrival": Target(ratio=0.4),
    "KiB per waiting client": Target(8.5),
    "CPU % while parked": Target(0.5),
    "CPU us per grant": Target(ratio=0.4),
    "CPU us per poll": Target(ratio=0.35),
    "CPU us per leaver": Target(ratio=0.6),
    "late in the burst, ms, p99": Target(10),
    "late while parked, ms, p99": Target(2),
    "late when all open, ms, p50": Target(ratio=0.15),
    "late when all open, ms, p99": Target(ratio=0.25),
    "clients lost": Target(0),
    "early grants": Target(0),
}


def per(number: int, cpu: float) -> float:
    """Return the microseconds of each."""
    return cpu / number * 1e6 if number else math.nan


class Watchable(Protocol):
    """A server, or several together."""

    def cpu(self) -> float: ...
    def sleeps(self) -> bool: ...
    def must_live(self) -> None: ...
    def lines(self, event: str) -> list[dict[str, Any]]: ...


def wait_until_quiet(
    server: Watchable, port: int, listen: Callable[[float], None]
) -> tuple[float, float]:
    """Return the moment when it had done all there was, and its CPU seconds."""
    while True:
        since, cpu = time.monotonic(), server.cpu()
        while time.monotonic() - since < QUIET:
            listen(0.02)
            server.must_live()
            if not server.sleeps() or server.cpu() - cpu > 0.01:
                break
        else:
            left = (receive_queues(port, state) for state in (LISTENING, ESTABLISHED))
            if not any(map(any, left)):
                return since, server.cpu()


def spread_buckets(crowd: Crowd, buckets: int, interval: float) -> None:
    """Ask each bucket once, so that from now on one opens after the other."""
    crowd.join()
    while crowd.waiting:
        crowd.listen(0.01)  # all of them are open after that
    for _ in range(buckets - 1):
        crowd.listen(interval / buckets)
        crowd.join()
    while crowd.waiting:
        crowd.listen(0.01)


def join_all(crowd: Crowd, clients: int) -> None:
    for n in range(clients):
        if n % (IN_FLIGHT // 2) == 0:
            while next(receive_queues(crowd.port, LISTENING), 0) > IN_FLIGHT // 2:
                crowd.listen(0.001)
        crowd.join()


def arrive(server: Server, crowd: Crowd, clients: int) -> Figures:
    rss, cpu, at = server.rss(), server.cpu(), time.monotonic()
    join_all(crowd, clients)
    taken_at, taken_cpu = wait_until_quiet(server, crowd.port, crowd.listen)
    return {
        "arrivals per second": clients / (taken_at - at),
        "CPU us per arrival": per(clients, taken_cpu - cpu),
        "KiB per waiting client": (server.rss() - rss) / max(1, len(crowd.waiting)),
    }


@dataclass(slots=True)
class Watched:
    """The server's CPU seconds, apart for slices of time with and without grants."""

    quiet_seconds: float = 0.0
    quiet_cpu: float = 0.0
    polls: int = 0  # without grants
    busy_cpu: float = 0.0
    grants: int = 0


def watch(server: Server, crowd: Crowd, seconds: float) -> Watched:
    seen = Watched()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        at, cpu, answers, polls = time.monotonic(), server.cpu(), len(crowd.answers), crowd.polls
        crowd.listen(SLICE)
        cpu = server.cpu() - cpu
        if grants := len(crowd.answers) - answers:
            seen.grants += grants
            seen.busy_cpu += cpu
        else:
            seen.quiet_seconds += time.monotonic() - at
            seen.quiet_cpu += cpu
            seen.polls += crowd.polls - polls
    return seen


def park(server: Server, crowd: Crowd, seconds: float) -> Figures:
    seen = watch(server, crowd, seconds)
    return {
        "CPU % while parked": seen.quiet_cpu / max(SLICE, seen.quiet_seconds) * 100,
        "CPU us per grant": per(seen.grants, seen.busy_cpu),
    }


def start_polling(crowd: Crowd, wait: float) -> None:
    pollers = min(POLLERS, len(crowd.waiting) // 2)
    for _ in range(pollers):
        crowd.join(wait)
        crowd.listen(wait / pollers)


def stop_polling(crowd: Crowd) -> None:
    crowd.leave([client for client in crowd.waiting.values() if client.polls])


def poll(server: Server, crowd: Crowd, seconds: float) -> Figures:
    start_polling(crowd, seconds / 4)
    seen = watch(server, crowd, seconds)
    stop_polling(crowd)
    wait_until_quiet(server, crowd.port, crowd.listen)
    return {"CPU us per poll": per(seen.polls, seen.quiet_cpu)}


def open_at_once(
    server: Server, crowd: Crowd, buckets: int, interval: float, times: int
) -> Figures:
    margin = min(0.1, interval / 4)
    lates: list[float] = []
    seconds = 0.0
    for _ in range(times):
        opens_at = next_openings(crowd, buckets, interval, margin).values()
        crowd.listen(min(opens_at) - margin - time.monotonic())
        server.stop()
        time.sleep(max(opens_at) + margin - time.monotonic())
        cpu, before = server.cpu(), len(crowd.answers)
        at = server.resume()
        hear(server, crowd, before + buckets)
        crowd.listen(SLICE)
        seconds += server.cpu() - cpu
        lates += [answer.at - at for answer in crowd.answers[before : before + buckets]]
    return {
        "CPU us per grant when all open": per(len(lates), seconds),
        **lateness("when all open", lates),
    }


def leave(server: Server, crowd: Crowd, buckets: int, interval: float) -> Figures:
    ahead: Counter[int] = Counter()
    leavers = []
    for client in sorted(crowd.waiting.values(), key=lambda client: client.shard):
        ahead[client.shard % buckets] += 1
        if ahead[client.shard % buckets] > STAYING:
            leavers.append(client)
    lead = min(LEAD, interval / 4)
    opens_at = next_openings(crowd, buckets, interval, lead)
    crowd.listen(min(opens_at.values()) - lead - time.monotonic())
    cpu, before = server.cpu(), len(crowd.answers)
    crowd.leave(leavers)
    hear(server, crowd, before + buckets)
    _, quiet_cpu = wait_until_quiet(server, crowd.port, crowd.listen)
    first = {answer.shard % buckets: answer.at for answer in reversed(crowd.answers[before:])}
    return {
        "CPU us per leaver": per(len(leavers), quiet_cpu - cpu),
        **lateness("while all leave", [first[n] - opens_at[n] for n in first]),
    }


def hear(server: Server, crowd: Crowd, answers: int) -> None:
    while len(crowd.answers) < answers:
        crowd.listen(0.01)
        server.must_live()


def next_openings(crowd: Crowd, buckets: int, interval: float, ahead: float) -> dict[int, float]:
    """Return when each bucket opens, once all of that is so many seconds ahead or more."""
    while True:
        opens_at = {answer.shard % buckets: answer.at + interval for answer in crowd.answers}
        if min(opens_at.values()) > time.monotonic() + ahead:
            return opens_at
        crowd.listen(ahead)


def ask_over_http2(
    server: Server, sizes: Sequence[int], buckets: int, interval: float
) -> dict[int, Figures]:
    """Have more and more streams wait on one connection; return the figures for each size."""
    port = server.port()
    others = Crowd(port)
    spread_buckets(others, buckets, interval)
    shards, rss, results = count(buckets), server.rss(), {}
    with Http2Crowd(port) as crowd:
        for size in sizes:
            if size > crowd.most_streams:
                print(f"{crowd.most_streams} streams are allowed, not {size}", file=sys.stderr)
                continue
            cpu, coming = server.cpu(), size - crowd.waiting
            for shard in islice(shards, coming):
                crowd.join(shard)
            _, taken_cpu = wait_until_quiet(server, port, crowd.listen)
            kib, before = server.rss() - rss, crowd.answers
            until = before + min(buckets, crowd.waiting)
            while crowd.answers < until:
                crowd.listen(0.01)
                server.must_live()
            _, granted_cpu = wait_until_quiet(server, port, crowd.listen)
            results[size] = {
                "CPU us per arrival": per(coming, taken_cpu - cpu),
                "KiB per waiting client": kib / size,
                "CPU us per grant": per(crowd.answers - before, granted_cpu - taken_cpu),
            }
        if crowd.lost:
            sys.exit(f"lost over HTTP/2: {crowd.lost[:20]}")
    return results


def gaps(answers: list[Answer], buckets: int) -> list[tuple[Answer, Answer]]:
    """Each two answers that one bucket gave one after the other."""
    ordered = sorted(answers, key=lambda answer: (answer.shard % buckets, answer.at))
    return [(a, b) for a, b in pairwise(ordered) if a.shard % buckets == b.shard % buckets]


def lateness(when: str, lates: list[float]) -> Figures:
    if not lates:
        return {}
    ms = sorted(late * 1000 for late in lates)
    ranks = {"p50": 0.5, "p99": 0.99}
    return {f"late {when}, ms, {p}": ms[math.ceil(len(ms) * q) - 1] for p, q in ranks.items()}


def measure_waiting(server: Server, options: argparse.Namespace) -> Figures:
    crowd = Crowd(server.port())
    buckets, interval = options.buckets, options.interval
    spread_buckets(crowd, buckets, interval)

    burst_at = time.monotonic()
    figures = arrive(server, crowd, options.clients)
    taken_at = time.monotonic()
    figures |= park(server, crowd, options.seconds)
    crowded = [(a, b) for a, b in gaps(crowd.answers, buckets) if a.at >= burst_at]
    in_burst = [b.at - a.at - interval for a, b in crowded if b.at < taken_at]
    parked = [b.at - a.at - interval for a, b in crowded if b.at >= taken_at]
    figures |= lateness("in the burst", in_burst) | lateness("while parked", parked)

    figures |= poll(server, crowd, options.seconds)
    figures |= open_at_once(server, crowd, buckets, interval, options.openings)
    figures |= leave(server, crowd, buckets, interval)
    return figures | faults(server, crowd, buckets, interval)


def measure_journal(server: Server, options: argparse.Namespace) -> Figures:
    crowd = Crowd(server.port())
    spread_buckets(crowd, options.buckets, options.interval)
    arrive(server, crowd, options.clients)
    figures = park(server, crowd, options.seconds) | poll(server, crowd, options.seconds)
    names = "CPU us per grant", "CPU us per poll"
    return {f"{name}, {ROWS:,} in the journal": figures[name] for name in names} | faults(
        server, crowd, options.buckets, options.interval
    )


def measure_http2(server: Server, options: argparse.Namespace) -> Figures:
    sizes = [options.clients // share for share in (100, 10, 5)]
    figures = ask_over_http2(server, sizes, options.buckets, options.interval)
    name = "CPU us per grant"
    return {f"{name}, {n:,} HTTP/2 streams": each[name] for n, each in figures.items()}


def faults(server: Watchable, crowd: Crowd, buckets: int, interval: float) -> Figures:
    """Count what must not be, and print the first of it."""
    granted = {line["shard"] for line in server.lines("identify_granted")}
    crowd.listen(0.2)  # whoever was granted by then has the answer by now
    for shard in granted - crowd.left - {answer.shard for answer in crowd.answers}:
        crowd.lost.append(f"shard {shard}: granted, and no answer came")
    for why in crowd.lost[:20]:
        print(why, file=sys.stderr)
    early = [a for a, b in gaps(crowd.answers, buckets) if b.at - a.at < interval]
    return {"early grants": len(early), "clients lost": len(crowd.lost)}


def measure(options: argparse.Namespace) -> dict[str, Figures]:
    """Measure the other version, if one is named, and this one, each server in turn."""
    pythons = {"other": options.against} if options.against else {}
    pythons |= {"this": sys.executable}
    results = {name: Figures() for name in pythons}
    wrong = {name: Counter[str]() for name in pythons}
    size = {"buckets": options.buckets, "interval": options.interval}
    bound = 60 + options.clients / 100 + 5 * options.seconds
    bound += options.interval * (10 + options.openings)
    for phases, rows in ((measure_waiting, 0), (measure_journal, ROWS), (measure_http2, 0)):
        for name, python in pythons.items():
            with serving(python, **size, seconds=bound, rows=rows) as server:
                figures = phases(server, options)
            wrong[name].update({fault: figures.pop(fault, 0) for fault in FAULTS})
            results[name] |= figures
    return {name: figures | wrong[name] for name, figures in results.items()}


def show(results: dict[str, Figures]) -> None:
    this, other = results["this"], results.get("other")
    print(f"{'':42}{'' if other is None else 'other':>10}{'this':>10}{'ratio':>8}  target")
    for name, figure in this.items():
        target = TARGETS.get(name, Target())
        before = None if other is None else other.get(name)
        ratio = figure / before if before else None
        missed = figure > target.figure or (ratio is not None and ratio > target.ratio)
        goals = [f"<= {target.figure:g}"] * (target.figure < math.inf)
        goals += [f"ratio <= {target.ratio:g}"] * (target.ratio < math.inf)
        print(
            f"{name:42}{written(before):>10}{written(figure):>10}{written(ratio):>8}"
            f"  {', '.join(goals):14}{'  MISSED' if missed else ''}".rstrip()
        )


def written(figure: float | None) -> str:
    if figure is None:
        return ""
    return f"{figure:,.{0 if isinstance(figure, int) or figure >= 100 else 2}f}"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--against", metavar="PYTHON", help="an interpreter with another version")
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--buckets", type=int, default=16)
    parser.add_argument("--interval", type=float, default=5.5)
    parser.add_argument("--seconds", type=float, default=10, help="of parked, and of polled")
    parser.add_argument("--openings", type=int, default=7)
    parser.add_argument(
        "--save", metavar="FILE", type=Path, help="write the figures there, as JSON"
    )
    options = parser.parse_args()
    if min(options.buckets, options.interval, options.seconds, options.openings) <= 0:
        parser.error("every number must be more than 0")
    # Some must still wait at the end, and each bucket grants now and then until then.
    rounds = 2 * STAYING + options.openings + 3 * options.seconds / options.interval
    if options.clients < (needed := math.ceil(options.buckets * rounds)):
        parser.error(f"{options.buckets} buckets need at least {needed} clients")
    if options.clients + POLLERS > most_clients():
        parser.error(
            f"at most {most_clients() - POLLERS} clients: `ulimit -Hn` or the ports allow no more"
        )
    return options


def main() -> None:
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    signal.signal(signal.SIGALRM, lambda *_: sys.exit("broke off: not done in time"))
    results = measure(options)
    title = f"{options.clients:,} clients, {options.buckets} buckets, {options.interval:g} s"
    print(f"{title}, CPython {platform.python_version()}\n")
    show(results)
    if options.save:
        options.save.write_text(json.dumps(results, indent=1) + "\n")
    failed = any(figures[fault] for figures in results.values() for fault in FAULTS)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
