"""Recent events in plain words, for the people who watch the page."""

from collections import deque
from dataclasses import dataclass
from typing import Literal

import trio

from gateway_queue.queue.events import (
    AskedTwice,
    BucketsChanged,
    CrashLooping,
    Dropped,
    Event,
    Forgiven,
    IntervalChanged,
    InvalidSession,
    JournalFailed,
    JournalLost,
    JournalRecovered,
    LimitsRead,
    Paused,
    PutFirst,
    ReadingOrdered,
    Resumed,
    ShardMissing,
    TakenBack,
    UsageRose,
)
from gateway_queue.queue.rules.allowance import Usage

# How many of the latest events are kept; nobody reads further back.
REMEMBERED = 100

NEWS = (
    AskedTwice
    | BucketsChanged
    | CrashLooping
    | Dropped
    | Forgiven
    | IntervalChanged
    | InvalidSession
    | JournalFailed
    | JournalLost
    | JournalRecovered
    | LimitsRead
    | Paused
    | PutFirst
    | ReadingOrdered
    | Resumed
    | ShardMissing
    | TakenBack
    | UsageRose
)

Level = Literal["info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Happening:
    """An event and its time (seconds on the trio clock); ``number`` counts the events."""

    number: int
    at: float
    event: Event


class Happenings:
    """The latest events that people want to know about."""

    def __init__(self) -> None:
        self._latest: deque[Happening] = deque(maxlen=REMEMBERED)
        self.number = 0

    def note(self, event: Event) -> None:
        """Remember an event. Runs within the step of a grant, so it does nothing else."""
        if isinstance(event, NEWS):
            self.number += 1
            self._latest.append(Happening(self.number, trio.current_time(), event))

    def between(self, number: int, last: int) -> list[Happening]:
        """The events after this number, up to ``last``, latest first."""
        return [found for found in reversed(self._latest) if number < found.number <= last]


def in_words(event: Event) -> tuple[Level, str]:  # noqa: C901, PLR0911 - one branch per kind of event
    """The severity of an event, and a sentence about it."""
    match event:
        case LimitsRead(total, remaining):
            return "info", f"Discord's limits were read: {remaining:,} of {total:,} starts are left"
        case BucketsChanged(_, buckets, before):
            return "info", f"Discord changed the number of buckets from {before} to {buckets}"
        case InvalidSession(shard, bucket):
            return "warning", f"Shard {shard} got an op 9 (bucket {bucket})"
        case CrashLooping(None, level):
            return "warning", f"Requests without a shard are in a crash loop (level {level})"
        case CrashLooping(shard, level):
            return "warning", f"Shard {shard} is in a crash loop (level {level})"
        case AskedTwice(shard):
            return "warning", f"Two clients ask for shard {shard}: is the bot started twice?"
        case ShardMissing():
            return "warning", "A request named no shard, so it waits in bucket 0"
        case UsageRose(Usage.RESERVE_REACHED):
            return "error", "The reserve is reached: nothing is granted until the reset"
        case UsageRose(_, remaining):
            return "warning", f"Half of the session starts are used; {remaining:,} are left"
        case JournalFailed(error):
            return "error", f"Grants cannot be recorded: {error}"
        case JournalLost(error):
            return "error", f"The journal is lost; restart the server: {error}"
        case JournalRecovered():
            return "info", "Grants can be recorded again"
    return _order_in_words(event)


def _order_in_words(event: Event) -> tuple[Level, str]:  # noqa: PLR0911
    """The same for an operator's actions."""
    match event:
        case Paused(reason):
            return "warning", f"An operator paused all grants{reason and ': '}{reason}"
        case Resumed(by_itself):
            return "info", "The pause is over" if by_itself else "An operator ended the pause"
        case IntervalChanged(interval, configured) if interval == configured:
            return "info", f"The configured interval of {configured:g} s applies again"
        case IntervalChanged(interval, configured):
            return (
                "warning",
                f"An operator slowed grants down: {interval:g} s, not {configured:g} s",
            )
        case PutFirst(shard, bucket):
            return "info", f"An operator put shard {shard} first (bucket {bucket})"
        case TakenBack(shard, bucket):
            return "info", f"An operator moved shard {shard} back to its place (bucket {bucket})"
        case Dropped(shard):
            return "warning", f"An operator dropped shard {shard}"
        case Forgiven(shard, level):
            return "info", f"An operator reset the crash loop of shard {shard} (level {level})"
        case ReadingOrdered():
            return "info", "An operator had the limits read from Discord"
    raise ValueError(event)
