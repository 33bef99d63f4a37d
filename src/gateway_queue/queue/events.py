"""What happens in the queue, as it is reported to whoever watches.

The queue tells each event once, synchronously, and knows nothing of what is made of it:
log lines, metrics, pages. Lengths are in seconds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from gateway_queue.queue.rules.allowance import Usage


@dataclass(frozen=True, slots=True)
class Queued:
    """A shard asked and took a seat; ``returns``: its old one."""

    shard: int | None
    bucket: int
    position: int
    returns: bool


@dataclass(frozen=True, slots=True)
class Granted:
    """A shard may identify.

    ``waited``: since the first request for its seat. ``late``: since the grant could have
    been given.
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
    """A client was told to ask again, as it wanted to be."""

    shard: int | None


@dataclass(frozen=True, slots=True)
class ShardMissing:
    """A request named no shard although there are several buckets."""


@dataclass(frozen=True, slots=True)
class BucketsChanged:
    """Discord changed max_concurrency; there were ``before`` buckets."""

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
    """What a client said of a grant changed nothing: it was an earlier one, or too long ago."""

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
    """A shard was granted too often, and is slowed down; None: requests that name none."""

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
    """A grant could not be recorded; it is tried again after ``retry_after``."""

    error: str
    retry_after: float


@dataclass(frozen=True, slots=True)
class JournalLost:
    """The journal is damaged or not ours any more: nothing is granted until a restart."""

    error: str


@dataclass(frozen=True, slots=True)
class JournalRecovered:
    """Grants can be recorded again."""


@dataclass(frozen=True, slots=True)
class Paused:
    """An operator paused everything, or did so before a restart; ``ends_in``: None if never."""

    reason: str
    ends_in: float | None
    survives_restart: bool


@dataclass(frozen=True, slots=True)
class Resumed:
    """A pause is over; ``by_itself``: its time was."""

    by_itself: bool


@dataclass(frozen=True, slots=True)
class IntervalChanged:
    """An operator changed the interval, or did so before a restart; or the time of that is over.

    ``ends_in``: when it will be the ``configured`` one again, None if never or it is already.
    """

    interval: float
    configured: float
    ends_in: float | None
    survives_restart: bool


@dataclass(frozen=True, slots=True)
class PutFirst:
    """An operator put a shard first in its bucket's line."""

    shard: int
    bucket: int


@dataclass(frozen=True, slots=True)
class TakenBack:
    """An operator gave a shard the place back that it had before it was put first."""

    shard: int
    bucket: int


@dataclass(frozen=True, slots=True)
class Dropped:
    """An operator dropped a shard: its seats, and the requests that waited in some of them."""

    shard: int
    seats: int
    requests: int


@dataclass(frozen=True, slots=True)
class Forgiven:
    """An operator forgave a shard its crash loop, which had this level."""

    shard: int
    level: int


@dataclass(frozen=True, slots=True)
class ReadingOrdered:
    """An operator had Discord asked for the limits at once."""


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
