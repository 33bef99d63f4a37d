"""What a waiting client costs, and how punctual the grants are, measured on the real server.

    python bench/waiting.py [--clients 10000] [--buckets 16] [--interval 5.5] [--json]

starts ``python -m gateway_queue`` as a process of its own (journal in a temporary file), talks to
it over 127.0.0.1 only, and takes about 4 intervals + ``--seconds-parked`` + the burst. Linux only.
With two cores the server gets the first and this process the second. The phases:

idle    Every bucket is asked once before it first opens (they open all at once), and once more
        when it has been open for some time, one bucket after the other, spread over an interval.
        Nobody else waits.
burst   ``--clients`` connections are opened one after the other, each sends its request at once;
        never more than 100 of them wait in the server's accept queue.
parked  All of them wait; nobody comes, and the server is left alone for ``--seconds-parked``.

What is measured, and how:

arrivals    A client has arrived when the server has taken it. No endpoint is asked. The burst is
            over when every request is sent, the accept queue is empty and, for the 0.1 s that
            follow, the server sleeps whenever it is looked at and uses at most 10 ms of CPU;
            if then some connection has unread bytes (/proc/net/tcp), it goes on. The quiet 0.1 s
            do not count. CPU: /proc/PID/task/*/schedstat, the grants of the burst included.
KiB         VmRSS of /proc/PID/status after the burst less VmRSS before, per client then waiting.
late        The server's own word, ``late`` of its ``identify_granted`` lines: from the moment the
            bucket was open and had somebody there, to the grant. A grant belongs to the phase its
            answer came in. p99 is the nearest rank: of fewer than 100 grants it is the maximum.
parked CPU  The same in percent of the wall time, over the slices of 50 ms in which nobody is
            granted; and what the other slices cost for each grant.
gap         Between two answers of one bucket, by the kernel's time stamp of each answer's last
            byte, so that a slow benchmark does not show. The minimum is over all answers, the
            maximum over those since the burst began (from then on every bucket has clients).

The exit code is 1 if a gap was below the interval, a client was lost (closed, refused, answered
anything but 200, or granted in the log without an answer) or the run broke off; else 0.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from outside import ESTABLISHED, LISTENING, Answer, Crowd, Server, receive_queues

IN_FLIGHT = 100  # no more than any backlog there is: no SYN is dropped
QUIET = 0.1
SLICE = 0.05
SPARE_FILES = 100


def ask_idle_buckets(crowd: Crowd, buckets: int, interval: float) -> None:
    for _ in range(buckets):
        crowd.join()
    while crowd.waiting:
        crowd.listen(0.05)
    crowd.listen(interval + 0.5)
    for _ in range(buckets):
        crowd.join()
        crowd.listen(interval / buckets)
    while crowd.waiting:
        crowd.listen(0.05)


def burst(crowd: Crowd, clients: int) -> None:
    for n in range(clients):
        if n % (IN_FLIGHT // 2) == 0:
            while next(receive_queues(crowd.port, LISTENING), 0) > IN_FLIGHT // 2:
                crowd.listen(0.001)
        crowd.join()


def wait_until_taken(server: Server, crowd: Crowd) -> tuple[float, float]:
    """Return the moment of the last arrival, and the server's CPU seconds by then."""
    while True:
        since, cpu = time.monotonic(), server.cpu()
        while time.monotonic() - since < QUIET:
            crowd.listen(0.02)
            server.must_live()
            if not server.sleeps() or server.cpu() - cpu > 0.01:
                break
        else:
            left = (receive_queues(crowd.port, state) for state in (LISTENING, ESTABLISHED))
            if not any(map(any, left)):
                return since, cpu


@dataclass(slots=True)
class Parked:
    """The server's CPU seconds while all wait, apart for slices of time with and without grants."""

    quiet_seconds: float = 0.0
    quiet_cpu: float = 0.0
    busy_cpu: float = 0.0
    grants: int = 0


def watch_parked(server: Server, crowd: Crowd, seconds: float) -> Parked:
    parked = Parked()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        at, cpu, answers = time.monotonic(), server.cpu(), len(crowd.answers)
        crowd.listen(SLICE)
        cpu = server.cpu() - cpu
        if grants := len(crowd.answers) - answers:
            parked.grants += grants
            parked.busy_cpu += cpu
        else:
            parked.quiet_seconds += time.monotonic() - at
            parked.quiet_cpu += cpu
    return parked


@dataclass(frozen=True, slots=True)
class Late:
    """How late one phase's grants were, in ms."""

    grants: int
    p50: float | None = None
    p99: float | None = None
    max: float | None = None


@dataclass(frozen=True, slots=True)
class Gaps:
    """Seconds between the answers of a bucket."""

    count: int
    min: float | None
    max: float | None
    below: int


@dataclass(frozen=True, slots=True)
class Result:
    clients: int
    buckets: int
    interval: float
    python: str
    burst_seconds: float
    arrivals_per_second: float
    arrivals_per_cpu_second: float
    cpu_us_per_arrival: float
    kib_per_client: float
    parked_cpu_percent: float
    cpu_ms_per_grant: float
    late_ms: dict[str, Late]
    gaps: Gaps
    lost: int


def lateness(lates: list[float]) -> Late:
    if not lates:
        return Late(0)
    ms = sorted(late * 1000 for late in lates)
    p50, p99 = (ms[math.ceil(len(ms) * q) - 1] for q in (0.5, 0.99))
    return Late(len(ms), p50, p99, ms[-1])


def spacing(answers: list[Answer], buckets: int, interval: float, burst_at: float) -> Gaps:
    last: dict[int, float] = {}
    gaps, crowded = [], []
    for answer in sorted(answers, key=lambda answer: answer.at):
        before = last.get(answer.shard % buckets)
        last[answer.shard % buckets] = answer.at
        if before is not None:
            gaps.append(answer.at - before)
            if before >= burst_at:
                crowded.append(gaps[-1])
    below = sum(gap < interval for gap in gaps)
    return Gaps(len(gaps), min(gaps, default=None), max(crowded, default=None), below)


def measure(server: Server, options: argparse.Namespace) -> Result:
    crowd = Crowd(server.port())
    ask_idle_buckets(crowd, options.buckets, options.interval)
    server.must_live()

    rss, burst_cpu, burst_at = server.rss(), server.cpu(), time.monotonic()
    burst(crowd, options.clients)
    taken_at, taken_cpu = wait_until_taken(server, crowd)
    kib = (server.rss() - rss) / max(1, len(crowd.waiting))

    parked = watch_parked(server, crowd, options.seconds_parked)

    server.must_live()
    late = {line["shard"]: line["late"] for line in server.lines("identify_granted")}
    crowd.listen(0.2)  # whoever was granted by then has the answer by now
    for shard in late.keys() - {answer.shard for answer in crowd.answers}:
        crowd.lost.append(f"shard {shard}: granted, and no answer came")
    for why in crowd.lost[:20]:
        print(why, file=sys.stderr)

    def phase(start: float, end: float) -> Late:
        seen = (answer.shard for answer in crowd.answers if start <= answer.at < end)
        return lateness([late[shard] for shard in seen if shard in late])

    cpu = taken_cpu - burst_cpu
    return Result(
        clients=options.clients,
        buckets=options.buckets,
        interval=options.interval,
        python=platform.python_version(),
        burst_seconds=taken_at - burst_at,
        arrivals_per_second=options.clients / (taken_at - burst_at),
        arrivals_per_cpu_second=options.clients / cpu,
        cpu_us_per_arrival=cpu / options.clients * 1e6,
        kib_per_client=kib,
        parked_cpu_percent=parked.quiet_cpu / parked.quiet_seconds * 100,
        cpu_ms_per_grant=parked.busy_cpu / max(1, parked.grants) * 1e3,
        late_ms={
            "idle": phase(0, burst_at),
            "burst": phase(burst_at, taken_at),
            "parked": phase(taken_at, math.inf),
        },
        gaps=spacing(crowd.answers, options.buckets, options.interval, burst_at),
        lost=len(crowd.lost),
    )


def join(between: str, digits: int, *figures: float | None) -> str:
    return between.join("-" if figure is None else f"{figure:.{digits}f}" for figure in figures)


def show(r: Result) -> None:
    def row(name: str, figure: str, target: str = "", *, met: bool = True) -> None:
        print(f"{name:26}{figure:28}{target:12}{'' if met else 'MISSED'}".rstrip())

    print(f"{r.clients:,} clients, {r.buckets} buckets, {r.interval:g} s, CPython {r.python}\n")
    row("", "measured", "target")
    row("arrivals per second", f"{r.arrivals_per_second:,.0f}")
    rate = r.arrivals_per_cpu_second
    row("arrivals per CPU second", f"{rate:,.0f}", ">= 2,000", met=rate >= 2000)
    row("CPU us per arrival", f"{r.cpu_us_per_arrival:.0f}")
    row("KiB per waiting client", f"{r.kib_per_client:.1f}", "<= 22", met=r.kib_per_client <= 22)
    percent = r.parked_cpu_percent
    row("CPU while parked", f"{percent:.2f} %", "< 0.5 %", met=percent < 0.5)
    row("CPU ms per grant", f"{r.cpu_ms_per_grant:.1f}")
    row("", "p50 / p99 / max (grants)")
    for phase, limit in (("idle", math.inf), ("burst", 10), ("parked", 2)):
        late = r.late_ms[phase]
        figure = f"{join(' / ', 2, late.p50, late.p99, late.max)} ({late.grants})"
        target = f"p99 < {limit}" if limit < math.inf else ""
        row(f"late {phase}, ms", figure, target, met=(late.p99 or 0) < limit)
    gaps = r.gaps
    figure = f"{join(' to ', 4, gaps.min, gaps.max)} ({gaps.count})"
    row("gap between answers, s", figure, f">= {r.interval:g}", met=not gaps.below)
    row("clients lost", str(r.lost), "0", met=not r.lost)
    if gaps.below:
        print(f"\n*** SPACING VIOLATED: {gaps.below} gaps below {r.interval:g} s ***")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--buckets", type=int, default=16)
    parser.add_argument("--interval", type=float, default=5.5)
    parser.add_argument("--seconds-parked", type=float, default=10)
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object as the last line"
    )
    options = parser.parse_args()
    if min(options.buckets, options.interval, options.seconds_parked) <= 0:
        parser.error("every number must be more than 0")
    # Some must still wait at the end, and each bucket grants now and then until then.
    needed = math.ceil(options.buckets * (10 + options.seconds_parked / options.interval))
    if options.clients < needed:
        parser.error(f"{options.buckets} buckets need at least {needed} clients")
    return options


def raise_file_limit(clients: int) -> None:
    needed = clients + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        sys.exit(f"{clients} clients need {needed} open files, `ulimit -Hn` allows {hard}")
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    if high - low < needed:
        sys.exit(f"{clients} clients need {needed} ports, ip_local_port_range has {high - low}")


def main() -> None:
    options = parse()
    raise_file_limit(options.clients)
    bound = math.ceil(60 + 5 * options.interval + options.seconds_parked + options.clients / 200)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    signal.signal(signal.SIGALRM, lambda *_: sys.exit(f"broke off: not done after {bound} s"))
    signal.alarm(bound)
    server_core, *others = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as directory:
        os.sched_setaffinity(0, {server_core})  # the server inherits it
        with Server(Path(directory), buckets=options.buckets, interval=options.interval) as server:
            os.sched_setaffinity(0, {*others[:1]} or {server_core})
            result = measure(server, options)
    show(result)
    if options.json:
        print(json.dumps(asdict(result)))
    sys.exit(1 if result.gaps.below or result.lost else 0)


if __name__ == "__main__":
    main()
