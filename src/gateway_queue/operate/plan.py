"""How long a launch takes, and whether the session starts suffice for it.

Pure: plain numbers come in, a plan goes out. No clock, no task, no I/O. What it costs grows
with the number of buckets, not with that of shards.
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
    """A launch that is to be planned; None: with the interval or the limit that there is."""

    shards: int
    interval: float | None = None
    max_concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class Ahead:
    """What the shards of a launch find in a bucket: who waits there, and when it opens."""

    waiting: int = 0
    opens_in: float = 0.0


@dataclass(frozen=True, slots=True)
class Limits:
    """The session starts. ``reset_in``: seconds until they, or the first of them, come back."""

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
    """A launch as it is likely to go; lengths in seconds.

    ``takes`` is from the first turn to the last where nobody else waits. ``all_in_in`` is
    until the last turn, after those who wait now; None if nobody can know. ``missing`` are
    the session starts that those who wait and these shards need beyond what may be granted.
    ``obstacle`` is why nothing at all is granted now.
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
    """Plan the launch of the shards 0 to ``shards`` - 1, which is one at least.

    ``ahead`` has an entry for each bucket in order, and ``waiting`` is their sum. Where no
    bucket has more to wait for than bucket 0, that one's will do.

    It is late rather than early: shards in a crash loop that wait are taken to go first.
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
    """What bucket 0 would have ahead, and no other more, with a layout that is not the present.

    After a resize all buckets open when the latest of the old ones would. Those who wait are
    taken to spread over the buckets like shards that are numbered from 0.
    """
    return Ahead(layout.how_many(0, waiting), opens_in)


def shortest_interval(configured: float) -> float:
    """The shortest interval to plan with: Discord's, or the configured one if that is shorter."""
    return min(IDENTIFY_INTERVAL, configured)
