"""Shows a server's ``/status`` in a terminal.

Pure: turns the JSON into what rich can print; no clock, no terminal, no I/O. The output is
ASCII except for the bar, which falls back to ASCII if the terminal's encoding requires it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from heapq import nlargest
from typing import Annotated, TypeVar

from pydantic import FiniteFloat, StringConstraints, TypeAdapter, ValidationError
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from gateway_queue.cli.verdict import Failure, Pause, State, Verdict, counts_of, verdict
from gateway_queue.cli.words import agree, clock, length, many, number, printable

STYLES: dict[State, str] = {"ready": "green", "busy": "green", "paused": "yellow", "stopped": "red"}

# Nobody reads more lines than this; the rest is summed up.
MOST_BUCKETS_SHOWN = 16
MOST_SLOWED_SHOWN = 8

# A replica that was not heard of for so many seconds is shown as silent.
SILENT = 1.0

WIDEST_BAR = 60


# Printed as it is, so it must not contain control sequences.
Version = Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z.+!-]{1,40}$")]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limits:
    known: bool
    source: str
    total: int
    remaining: int
    reserve: int
    reset_in: FiniteFloat | None
    failure: Failure | None

    @property
    def used(self) -> int:
        return max(0, self.total - self.remaining)

    @property
    def left(self) -> int:
        """How many may still be granted."""
        return max(0, self.remaining - self.reserve)

    @property
    def kept(self) -> int:
        """How much of the reserve is left."""
        return max(0, min(self.remaining, self.reserve))


@dataclass(frozen=True, slots=True)
class LastDay:
    granted: int
    shards: int


@dataclass(frozen=True, slots=True)
class Seat:
    shard: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Bucket:
    bucket: int
    waiting: int
    away: int
    opens_in: FiniteFloat
    all_in_in: FiniteFloat | None
    next: list[Seat]


@dataclass(frozen=True, slots=True)
class SlowedDown:
    shard: int | None
    level: int
    eligible_in: FiniteFloat
    starts: int


@dataclass(frozen=True, slots=True)
class AllSlowedDown:
    shards: int
    longest: list[SlowedDown]


@dataclass(frozen=True, slots=True)
class Replica:
    name: str
    waiting: int
    silent_for: FiniteFloat
    leads: bool


@dataclass(frozen=True, slots=True)
class Status:
    """The parts of ``/status`` that are shown. Times are in seconds."""

    version: Version
    uptime: FiniteFloat
    ready: bool
    obstacle: str | None
    limits: Limits
    waiting: int
    waiting_slowed: int
    away: int
    covered: int
    all_in_in: FiniteFloat | None
    others_in_in: FiniteFloat | None
    back_in: FiniteFloat | None
    recommended_shards: int | None
    last_24_hours: LastDay
    buckets: list[Bucket]
    slowed_down: AllSlowedDown
    open_files_limit: int | None = None  # earlier versions do not say
    paused: Pause | None = None
    replicas: list[Replica] | None = None


def parse(body: bytes) -> Status:
    """Parse the body of ``/status``. Raises ValueError if it is something else."""
    return validated(Status, body)


def validated(kind: type[T], body: bytes) -> T:
    """Parse JSON as this kind of object. Raises ValueError, which says what does not fit."""
    try:
        return TypeAdapter(kind).validate_json(body, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(step) for step in first["loc"])
        raise ValueError(f"{where}: {first['msg']}" if where else first["msg"]) from None


def report(status: Status, address: str, now: datetime) -> RenderableType:
    """The full report about the server at this address."""
    facts = Table.grid(padding=(0, 3))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("Session starts", _starts(status.limits, now))
    if status.limits.failure:
        facts.add_row("Last failure", _failure(status.limits.failure))
    last_day = status.last_24_hours
    facts.add_row(
        "Last 24 hours", f"{many(last_day.granted, 'grant')} to {many(last_day.shards, 'shard')}"
    )
    if status.away:
        facts.add_row("Away", f"{number(status.away)}, their places are kept")
    facts.add_row("Crash loops", _slowed_down(status.slowed_down))
    if status.replicas is not None:
        facts.add_row("Replicas", _replicas(status.replicas))
    title = Text.assemble(
        (f"Gateway Queue {status.version}", "bold"), f" at {address}, up {length(status.uptime)}"
    )
    return Group(title, "", shown(_verdict(status, now)), "", facts, "", _lines(status, now))


def _verdict(status: Status, now: datetime) -> Verdict:
    counts = counts_of(
        status.waiting,
        status.waiting_slowed,
        status.away,
        status.last_24_hours.shards,
        status.recommended_shards,
    )
    return verdict(status, counts, now, ready=status.ready)


def shown(its: Verdict) -> RenderableType:
    """Render a verdict in the colour of its state."""
    lines = [Text(its.headline, f"bold {STYLES[its.state]}"), Text(its.detail)]
    if its.banner:
        lines.append(Text(f"{its.banner.title} {its.banner.text}", STYLES[its.state]))
    return Group(*lines)


def _starts(limits: Limits, now: datetime) -> RenderableType:
    if not limits.known:
        return Text("unknown", "yellow")
    bar = Bar(
        (
            Part(limits.used, "used", "cyan", "\N{FULL BLOCK}", "#"),
            Part(limits.left, "may be granted", "green", "\N{LIGHT SHADE}", "."),
            Part(limits.kept, "in reserve", "yellow", "\N{DARK SHADE}", "="),
        )
    )
    if limits.source == "discord":
        rule, back = f"of {number(limits.total)}, as Discord said", "back"
    else:
        rule, back = f"of {number(limits.total)} in 24 hours, counted here", "the first is back"
    if limits.used and limits.reset_in:
        at = clock(limits.reset_in, now)
        rule = f"{rule}; {back} at {at}, in {length(limits.reset_in)}"
    return Group(bar, rule)


def _failure(failure: Failure) -> Text:
    """Why the last reading of the limits failed."""
    ago, error = length(failure.age), printable(failure.error)
    return Text(f"{ago} ago the limits could not be read: {error}", "yellow")


def _slowed_down(slowed_down: AllSlowedDown) -> Text:
    """The shards that are slowed down, those with the longest wait first."""
    if not slowed_down.shards:
        return Text("none: no shard keeps restarting")
    lines = [
        f"{_name(slowed.shard)}: {many(slowed.starts, 'start')},"
        f" next in {length(slowed.eligible_in)}"
        for slowed in slowed_down.longest[:MOST_SLOWED_SHOWN]
    ]
    if slowed_down.shards > len(lines):
        lines.append(f"and {number(slowed_down.shards - len(lines))} more")
    return Text("\n".join(lines), "yellow")


def _name(shard: int | None) -> str:
    return "without a number" if shard is None else f"shard {shard}"


def _replicas(replicas: list[Replica]) -> Text:
    """Who holds how many clients, and who is silent; in the words of the page."""
    return Text("\n").join(map(_replica, replicas))


def _replica(replica: Replica) -> Text:
    name = f"{printable(replica.name)}{', which leads' if replica.leads else ''}"
    if replica.silent_for >= SILENT:
        return Text(f"{name}: silent for {length(replica.silent_for)}", "red")
    return Text(f"{name}: {number(replica.waiting)} {agree(replica.waiting, 'wait')}")


def _lines(status: Status, now: datetime) -> RenderableType:
    """The line of each bucket that is not empty; only the longest if there are many."""
    taken = [bucket for bucket in status.buckets if bucket.waiting or bucket.away]
    if not taken:
        return Text(many(len(status.buckets), "bucket") + ", all empty")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("Bucket", "Wait", "Away", "Next turn", "All in"):
        table.add_column(name, justify="right", overflow="fold")
    table.add_column("Next are", overflow="fold")
    shown = nlargest(
        MOST_BUCKETS_SHOWN, taken, key=lambda bucket: (bucket.waiting, bucket.away, -bucket.bucket)
    )
    for bucket in sorted(shown, key=lambda bucket: bucket.bucket):
        table.add_row(
            number(bucket.bucket),
            number(bucket.waiting),
            number(bucket.away),
            _next_turn(bucket, status),
            _all_in(bucket, now),
            Text(", ").join(_seat(seat) for seat in bucket.next),
        )
    waiting = status.waiting - sum(bucket.waiting for bucket in shown)
    away = status.away - sum(bucket.away for bucket in shown)
    if len(taken) > len(shown):
        more = f"{len(taken) - len(shown)} more"
        table.add_row(more, number(waiting), number(away), style="dim")
    empty = len(status.buckets) - len(taken)
    if not empty:
        return table
    return Group(table, Text(f"and {many(empty, 'empty bucket')}", "dim"))


def _next_turn(bucket: Bucket, status: Status) -> str:
    if not bucket.waiting:
        return ""
    if status.obstacle:
        return "held"
    return f"in {length(bucket.opens_in)}" if round(bucket.opens_in) else "now"


def _all_in(bucket: Bucket, now: datetime) -> str:
    if not bucket.waiting:
        return ""
    return "not known" if bucket.all_in_in is None else clock(bucket.all_in_in, now)


def _seat(seat: Seat) -> Text:
    shard = "without a number" if seat.shard is None else str(seat.shard)
    return Text(shard, "yellow" if seat.reason == "crash_loop" else "")


@dataclass(frozen=True, slots=True)
class Part:
    amount: int
    name: str
    style: str
    sign: str
    ascii_sign: str


@dataclass(frozen=True, slots=True)
class Bar:
    """Parts of a whole, side by side, with a legend."""

    parts: tuple[Part, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        signs = [part.ascii_sign if options.ascii_only else part.sign for part in self.parts]
        cells = shares([part.amount for part in self.parts], min(options.max_width, WIDEST_BAR))
        bar, legend = Text(no_wrap=True, overflow="crop"), Text()
        for part, sign, width in zip(self.parts, signs, cells, strict=True):
            bar.append(sign * width, part.style)
            legend.append("   " if legend else "").append(f"{sign} ", part.style)
            legend.append(f"{number(part.amount)} {part.name}")
        yield bar
        yield legend


def shares(amounts: Sequence[int], width: int) -> list[int]:
    """Split a width among amounts in whole cells; every amount above 0 gets at least one."""
    whole = sum(amounts)
    if not whole:
        return [0 for _ in amounts]
    cells = [max(1, round(amount * width / whole)) if amount else 0 for amount in amounts]
    cells[cells.index(max(cells))] += width - sum(cells)
    return cells
