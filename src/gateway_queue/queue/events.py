"""The events that the queue reports.

The queue reports each event once, synchronously, and does not know what becomes of it: log
lines, metrics, pages. All durations are in seconds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from gateway_queue.queue.rules.allowance import Usage


@dataclass(frozen=True, slots=True)
class Queued:
    """A shard asked and took a seat; ``returns``: it got its old seat back."""

    shard: int | None
    bucket: int
    position: int
    returns: bool


@dataclass(frozen=True, slots=True)
class Granted:
    """A shard may identify.

    ``waited``: since the first request for its seat. ``late``: since the grant was due.
    """

    shard: int | None
    bucket: int
    waited: float
    late: float


@dataclass(frozen=True, slots=True)
class Left:
    """A client left without a grant; ``waited``: since the first request for its seat."""

    shard: int | None
    waited: float


@dataclass(frozen=True, slots=True)
class PutOff:
    """A client was told to ask again, because the ``wait`` it had set was over."""

    shard: int | None


@dataclass(frozen=True, slots=True)
class ShardMissing:
    """A request named no shard although there are several buckets."""


@dataclass(frozen=True, slots=True)
class BucketsChanged:
    """Discord changed max_concurrency; there were ``before`` buckets until now."""

    max_concurrency: int
    buckets: int
    before: int


@dataclass(frozen=True, slots=True)
class InvalidSession:
    """A client reported that Discord answered its identify with an op 9."""

    shard: int
    bucket: int


@dataclass(frozen=True, slots=True)
class ConfirmationIgnored:
    """A client's report about a grant had no effect: the grant is outdated, or too long ago."""

    shard: int
    grant: int
    why: Literal["outdated", "late"]


@dataclass(frozen=True, slots=True)
class AskedTwice:
    """Two clients wait for one shard, which will be granted twice."""

    shard: int
    granted: str
    waiting: str


@dataclass(frozen=True, slots=True)
class CrashLooping:
    """A shard was granted too often and is slowed down; None: requests that name no shard."""

    shard: int | None
    level: int
    next_grant_in: float


@dataclass(frozen=True, slots=True)
class UsageRose:
    """Half of the session starts are used, or the reserve is reached."""

    level: Usage
    remaining: int
    total: int
    reserve: int
    reset_after: float


@dataclass(frozen=True, slots=True)
class LimitsRead:
    """Discord's session start limit was read for the first time, or again after trouble."""

    total: int
    remaining: int
    reset_after: float
    max_concurrency: int


@dataclass(frozen=True, slots=True)
class LimitsUnread:
    """A reading of Discord's session start limit failed."""


@dataclass(frozen=True, slots=True)
class JournalFailed:
    """A grant could not be recorded; the next attempt follows after ``retry_after``."""

    error: str
    retry_after: float


@dataclass(frozen=True, slots=True)
class JournalLost:
    """The journal is damaged or no longer ours: nothing is granted until a restart."""

    error: str


@dataclass(frozen=True, slots=True)
class JournalRecovered:
    """Grants can be recorded again."""


@dataclass(frozen=True, slots=True)
class Paused:
    """An operator paused all grants, maybe before a restart; ``ends_in``: None if open-ended."""

    reason: str
    ends_in: float | None
    survives_restart: bool


@dataclass(frozen=True, slots=True)
class Resumed:
    """A pause is over; ``by_itself``: because its time was up."""

    by_itself: bool


@dataclass(frozen=True, slots=True)
class IntervalChanged:
    """An operator changed the interval, maybe before a restart, or that change has expired.

    ``ends_in``: seconds until the ``configured`` interval applies again; None if it does
    already, or if the change is open-ended.
    """

    interval: float
    configured: float
    ends_in: float | None
    survives_restart: bool


@dataclass(frozen=True, slots=True)
class PutFirst:
    """An operator moved a shard to the front of its bucket's line."""

    shard: int
    bucket: int


@dataclass(frozen=True, slots=True)
class TakenBack:
    """An operator moved a shard back to the place it had before it was put first."""

    shard: int
    bucket: int


@dataclass(frozen=True, slots=True)
class Dropped:
    """An operator dropped a shard: its seats, and the requests waiting in them."""

    shard: int
    seats: int
    requests: int


@dataclass(frozen=True, slots=True)
class Forgiven:
    """An operator reset a shard's crash loop, which had reached this level."""

    shard: int
    level: int


@dataclass(frozen=True, slots=True)
class ReadingOrdered:
    """An operator had the limits read from Discord at once."""


Event = (
    Queued
    | Granted
    | Left
    | PutOff
    | ShardMissing
    | BucketsChanged
    | InvalidSession
    | ConfirmationIgnored
    | AskedTwice
    | CrashLooping
    | UsageRose
    | LimitsRead
    | LimitsUnread
    | JournalFailed
    | JournalLost
    | JournalRecovered
    | Paused
    | Resumed
    | IntervalChanged
    | PutFirst
    | TakenBack
    | Dropped
    | Forgiven
    | ReadingOrdered
)

Report = Callable[[Event], None]
