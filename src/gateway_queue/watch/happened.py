"""What happened lately, in plain words, for people who look at it."""

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

# What is older than so many others nobody reads.
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
    """An event and when it was, in seconds of trio's clock; ``number`` counts them."""

    number: int
    at: float
    event: Event


class Happenings:
    """The latest events that people want to know of."""

    def __init__(self) -> None:
        self._latest: deque[Happening] = deque(maxlen=REMEMBERED)
        self.number = 0

    def note(self, event: Event) -> None:
        """Remember an event. It runs within the step of a grant, so it does no more than that."""
        if isinstance(event, NEWS):
            self.number += 1
            self._latest.append(Happening(self.number, trio.current_time(), event))

    def between(self, number: int, last: int) -> list[Happening]:
        """Those after the one with this number, up to the last, the latest first."""
        return [found for found in reversed(self._latest) if number < found.number <= last]


def in_words(event: Event) -> tuple[Level, str]:  # noqa: C901, PLR0911 - one branch per kind of event
    """How bad an event is, and what it says to a person."""
    match event:
        case LimitsRead(total, remaining):
            return "info", f"Discord's limits were read: {remaining:,} of {total:,} starts are left"
        case BucketsChanged(_, buckets, before):
            return "info", f"Discord changed the buckets: {before} to {buckets}"
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
            return "error", "The reserve is reached: nothing more is granted until the reset"
        case UsageRose(_, remaining):
            return "warning", f"Half of the session starts are used, {remaining:,} are left"
        case JournalFailed(error):
            return "error", f"Grants cannot be recorded: {error}"
        case JournalLost(error):
            return "error", f"The journal is lost, restart the server: {error}"
        case JournalRecovered():
            return "info", "Grants can be recorded again"
    return _order_in_words(event)


def _order_in_words(event: Event) -> tuple[Level, str]:  # noqa: PLR0911
    """The same for what an operator did."""
    match event:
        case Paused(reason):
            return "warning", f"An operator paused everything{reason and ': '}{reason}"
        case Resumed(by_itself):
            return "info", "The pause is over" if by_itself else "An operator ended the pause"
        case IntervalChanged(interval, configured) if interval == configured:
            return "info", f"The interval is the configured one again, {configured:g} s"
        case IntervalChanged(interval, configured):
            return "warning", f"An operator slowed it down: {interval:g} s, not {configured:g} s"
        case PutFirst(shard, bucket):
            return "info", f"An operator let shard {shard} go first (bucket {bucket})"
        case TakenBack(shard, bucket):
            return "info", f"An operator gave shard {shard} its old place (bucket {bucket})"
        case Dropped(shard):
            return "warning", f"An operator dropped shard {shard}"
        case Forgiven(shard, level):
            return "info", f"An operator forgave shard {shard} its crash loop (level {level})"
        case ReadingOrdered():
            return "info", "An operator had Discord asked for the limits"
    raise ValueError(event)
