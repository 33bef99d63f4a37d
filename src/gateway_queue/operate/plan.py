"""How long a launch takes, and whether there are enough session starts for it.

Pure: plain numbers come in, a plan goes out. No clock, no tasks, no I/O. The cost grows with
the number of buckets, not with the number of shards.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from gateway_queue.queue.rules.pace import IDENTIFY_INTERVAL, Layout

# More shards than any bot has.
MOST_SHARDS = 1_000_000

LONGEST_INTERVAL = 3600.0


@dataclass(frozen=True, slots=True)
class Launch:
    """A launch to plan; None stands for the current interval or max_concurrency."""

    shards: int
    interval: float | None = None
    max_concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class Ahead:
    """What the shards of a launch find in a bucket: how many wait, and when it opens."""

    waiting: int = 0
    opens_in: float = 0.0


@dataclass(frozen=True, slots=True)
class Limits:
    """The session starts. ``reset_in``: seconds until they, or the first of them, are back."""

    source: Literal["discord", "counted"]
    total: int
    remaining: int
    reserve: int
    reset_in: float

    @property
    def left(self) -> int:
        """How many may still be granted."""
        return max(0, self.remaining - self.reserve)


@dataclass(frozen=True, slots=True)
class Plan:
    """An estimate of a launch; times in seconds.

    ``takes``: from the first turn to the last if nobody else waits. ``all_in_in``: until the
    last turn, after the shards that are waiting now; None if that cannot be known.
    ``missing``: how many more session starts than may be granted these and the waiting shards
    need. ``obstacle``: why nothing at all is granted now.
    """

    shards: int
    max_concurrency: int
    buckets: int
    interval: float
    takes: float
    waiting: int
    all_in_in: float | None
    obstacle: str | None
    missing: int
    limits: Limits


def plan(
    shards: int,
    layout: Layout,
    interval: float,
    limits: Limits,
    *,
    ahead: Iterable[Ahead] = (Ahead(),),
    waiting: int = 0,
    obstacle: str | None = None,
) -> Plan:
    """Plan the launch of the shards 0 to ``shards`` - 1; ``shards`` is at least 1.

    ``ahead`` has an entry for each bucket in order, and ``waiting`` is their sum. If no bucket
    has more ahead than bucket 0, that one's entry is enough.

    The plan is late rather than early: it assumes that waiting shards in a crash loop go first.
    """
    last_in = max(
        found.opens_in + (found.waiting + coming - 1) * interval
        for bucket, found in enumerate(ahead)
        if (coming := layout.how_many(bucket, shards))
    )
    missing = max(0, waiting + shards - limits.left)
    return Plan(
        shards=shards,
        max_concurrency=layout.max_concurrency,
        buckets=layout.buckets,
        interval=interval,
        takes=round((layout.how_many(0, shards) - 1) * interval, 3),
        waiting=waiting,
        all_in_in=None if missing or obstacle else round(last_in, 3),
        obstacle=obstacle,
        missing=missing,
        limits=limits,
    )


def resized(waiting: int, opens_in: float, layout: Layout) -> Ahead:
    """What bucket 0 would have ahead with another layout; no other bucket would have more.

    After a resize, all buckets open when the last of the old ones would. The waiting shards are
    assumed to spread over the buckets like shards numbered from 0.
    """
    return Ahead(layout.how_many(0, waiting), opens_in)


def shortest_interval(configured: float) -> float:
    """The shortest interval to plan with: Discord's, or the configured one if that is shorter."""
    return min(IDENTIFY_INTERVAL, configured)
