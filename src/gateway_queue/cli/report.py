"""Shows a server's ``/status`` in a terminal.

Pure: turns the JSON into what rich can print; no clock, no terminal, no I/O. The output is
ASCII except for the bar, which falls back to ASCII if the terminal's encoding requires it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import nlargest
from typing import Annotated, TypeVar

from pydantic import FiniteFloat, StringConstraints, TypeAdapter, ValidationError
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

# Nobody reads more lines than this; the rest is summed up.
MOST_BUCKETS_SHOWN = 16
MOST_SLOWED_SHOWN = 8
HEAD = ("1st", "2nd", "3rd")

WIDEST_BAR = 60


# Printed as it is, so it must not contain control sequences.
Version = Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z.+!-]{1,40}$")]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Failure:
    error: str
    age: FiniteFloat


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
    expected_in: FiniteFloat | None
    reason: str


@dataclass(frozen=True, slots=True)
class Bucket:
    bucket: int
    waiting: int
    away: int
    opens_in: FiniteFloat
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
class Pause:
    reason: str | None
    began_ago: FiniteFloat
    ends_in: FiniteFloat | None


@dataclass(frozen=True, slots=True)
class Status:
    """The parts of ``/status`` that are shown. Times are in seconds."""

    version: Version
    uptime: FiniteFloat
    ready: bool
    obstacle: str | None
    limits: Limits
    waiting: int
    away: int
    covered: int
    all_in_in: FiniteFloat | None
    recommended_shards: int | None
    not_asked: int | None
    last_24_hours: LastDay
    buckets: list[Bucket]
    slowed_down: AllSlowedDown
    open_files_limit: int | None = None  # earlier versions do not say
    paused: Pause | None = None


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


def report(status: Status, address: str) -> RenderableType:
    """The full report about the server at this address."""
    facts = Table.grid(padding=(0, 3))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("State", _state(status))
    facts.add_row("In line", f"{status.waiting} waiting, {status.away} away")
    facts.add_row("All of these in", _all_in(status))
    if status.recommended_shards and status.not_asked is not None:
        facts.add_row("Others", _not_asked(status.not_asked, status.recommended_shards))
    facts.add_row("Session starts", _starts(status.limits))
    if status.limits.failure:
        facts.add_row("Last failure", _failure(status.limits.failure))
    last_day = status.last_24_hours
    facts.add_row(
        "Last 24 hours", f"{many(last_day.granted, 'grant')} to {many(last_day.shards, 'shard')}"
    )
    facts.add_row("Slowed down", _slowed_down(status.slowed_down))
    title = Text.assemble(
        (f"Gateway Queue {status.version}", "bold"), f" at {address}, up {length(status.uptime)}"
    )
    return Group(title, "", facts, "", _lines(status))


def length(seconds: float) -> str:
    """A duration that can be read at a glance, such as 5.5s, 3m 20s or 2h 10m."""
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f}s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes}m"
    return f"{minutes}m {seconds}s" if minutes else f"{seconds}s"


def _state(status: Status) -> Text:
    obstacle = status.obstacle
    if obstacle is None and not status.ready:
        obstacle = "journal"  # unready without an obstacle: it must be the journal
    match obstacle:
        case None if status.waiting:
            return Text("granting", "green")
        case None:
            return Text("ready", "green")
        case "paused":
            return Text(_paused(status.paused), "yellow")
        case "limits_unknown":
            words = (
                "grants nothing: Discord has not yet said how many session starts are left;"
                " if that lasts, see the server's log"
            )
        case "reserve":
            words = "grants nothing: " + (
                f"only the reserve is left ({status.limits.kept})"
                if status.limits.kept
                else "no session starts are left"
            )
        case "journal":
            words = (
                "grants nothing: the journal cannot be written; see the server's log. The server"
                " tries again every interval"
            )
        case "ending":
            return Text("ending: waiting shards are granted for the grace period", "yellow")
        case _:
            words = "grants nothing, for a reason unknown to this version"
    return Text(words, "red")


def _paused(pause: Pause | None) -> str:
    if pause is None:
        return "paused by an operator"
    reason = f": {printable(pause.reason)}" if pause.reason else ""
    until = "until somebody resumes" if pause.ends_in is None else f"for {length(pause.ends_in)}"
    return f"paused by an operator {length(pause.began_ago)} ago, {until}{reason}"


def _all_in(status: Status) -> Text:
    if not status.waiting:
        return Text("nobody waits")
    if status.all_in_in is not None:
        return Text(length(status.all_in_in))
    if status.limits.known and status.covered < status.waiting:
        covered = f"only {status.covered} of them" if status.covered else "none of them"
        return Text(f"unknown: the remaining session starts are enough for {covered}", "yellow")
    return Text("unknown", "yellow")


def _not_asked(absent: int, recommended: int) -> Text:
    """The server only sees shards that ask; the others may come later, or be up already."""
    if not absent:
        return Text(f"all {recommended} recommended shards have asked in 24h")
    return Text(f"{absent} of the {recommended} recommended shards have not asked in 24h")


def _starts(limits: Limits) -> RenderableType:
    if not limits.known:
        return Text("unknown", "yellow")
    bar = Bar(
        (
            Part(limits.used, "used", "cyan", "\N{FULL BLOCK}", "#"),
            Part(limits.left, "left", "green", "\N{LIGHT SHADE}", "."),
            Part(limits.kept, "reserve", "yellow", "\N{DARK SHADE}", "="),
        )
    )
    if limits.source == "discord":
        rule, back = f"of {limits.total} by Discord's count", "reset in"
    else:
        rule, back = f"of {limits.total} in any 24 hours", "the next comes back in"
    if limits.used and limits.reset_in:
        rule = f"{rule}; {back} {length(limits.reset_in)}"
    return Group(bar, rule)


def _failure(failure: Failure) -> Text:
    """Why the last reading of the limits failed."""
    ago, error = length(failure.age), printable(failure.error)
    return Text(f"{ago} ago the limits could not be read: {error}", "yellow")


def printable(text: str) -> str:
    """The text without control sequences."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def _slowed_down(slowed_down: AllSlowedDown) -> Text:
    """The shards that are slowed down, those with the longest wait first."""
    if not slowed_down.shards:
        return Text("none")
    lines = [
        f"{_name(slowed.shard)} for {length(slowed.eligible_in)}"
        f" (crash loop, level {slowed.level}, {many(slowed.starts, 'start')} in 24h)"
        for slowed in slowed_down.longest[:MOST_SLOWED_SHOWN]
    ]
    if slowed_down.shards > len(lines):
        lines.append(f"and {slowed_down.shards - len(lines)} more")
    return Text("\n".join(lines), "yellow")


def _name(shard: int | None) -> str:
    return "unnamed" if shard is None else f"shard {shard}"


def _lines(status: Status) -> RenderableType:
    """The line of each bucket that is not empty; only the longest if there are many."""
    taken = [bucket for bucket in status.buckets if bucket.waiting or bucket.away]
    if not taken:
        return Text(many(len(status.buckets), "bucket") + ", all empty")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("Bucket", "Waiting", "Away", "Opens in"):
        table.add_column(name, justify="right", overflow="fold")
    for name in HEAD:
        table.add_column(name, overflow="fold")
    shown = nlargest(
        MOST_BUCKETS_SHOWN, taken, key=lambda bucket: (bucket.waiting, bucket.away, -bucket.bucket)
    )
    for bucket in sorted(shown, key=lambda bucket: bucket.bucket):
        table.add_row(
            str(bucket.bucket),
            str(bucket.waiting),
            str(bucket.away),
            length(bucket.opens_in) if bucket.opens_in else "open",
            *(_seat(seat) for seat in bucket.next[: len(HEAD)]),
        )
    waiting = status.waiting - sum(bucket.waiting for bucket in shown)
    away = status.away - sum(bucket.away for bucket in shown)
    if len(taken) > len(shown):
        table.add_row(f"{len(taken) - len(shown)} more", str(waiting), str(away), style="dim")
    empty = len(status.buckets) - len(taken)
    if not empty:
        return table
    return Group(table, Text(f"and {many(empty, 'empty bucket')}", "dim"))


def _seat(seat: Seat) -> Text:
    shard = "unnamed" if seat.shard is None else str(seat.shard)
    at = "?" if seat.expected_in is None else length(seat.expected_in)
    return Text(f"{shard} in {at}", "yellow" if seat.reason == "crash_loop" else "")


def many(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


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
            legend.append(f"{part.amount} {part.name}")
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
