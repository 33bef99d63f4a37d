"""When a bucket may grant, and which shards share one.

Pure: every function takes ``now`` (seconds on one monotonic clock) and returns a value.
No clock, no task, no I/O. Every rounding goes the late way.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, Self

# One identify per 5 s and rate limit key:
# https://discord.com/developers/docs/events/gateway#rate-limiting
IDENTIFY_INTERVAL = 5.0

# A client that will confirm has this long to identify, in which nobody else is granted.
CONFIRM_HOLD = 10.0

# What follows a confirmation: Discord's 5 s, and 0.3 s for the way of the identify.
AFTER_CONFIRMATION = 5.3

# READY proves that the identify has arrived, so nothing has to be added to Discord's 5 s.
AFTER_READY = IDENTIFY_INTERVAL

# What a client may say of a grant: it has sent the identify, Discord has answered it with
# READY, or with an op 9.
Outcome = Literal["identified", "ready", "invalid_session"]


def late(instant: float) -> float:
    """The next representable instant, so that a rounded sum never comes early."""
    return math.nextafter(instant, math.inf)


@dataclass(frozen=True, slots=True)
class Layout:
    """Which shards share a bucket: those with one rate limit key.

    A cap joins whole keys, so that one key never falls into two buckets.
    https://discord.com/developers/docs/events/gateway#sharding-max-concurrency
    """

    max_concurrency: int = 1
    cap: int | None = None

    @property
    def buckets(self) -> int:
        return min(self.max_concurrency, self.cap or self.max_concurrency)

    def bucket_of(self, shard: int | None) -> int:
        """The bucket of a shard; a request that names none belongs to bucket 0."""
        return (shard or 0) % self.max_concurrency % self.buckets

    def how_many(self, bucket: int, shards: int) -> int:
        """How many of the shards 0 to ``shards`` - 1 are in a bucket; in none more than in 0."""
        rounds, rest = divmod(shards, self.max_concurrency)
        keys = len(range(bucket, self.max_concurrency, self.buckets))
        keys_of_rest = len(range(bucket, rest, self.buckets))
        return rounds * keys + keys_of_rest


@dataclass(frozen=True, slots=True)
class Spacing:
    """The seconds between grants of one bucket.

    ``interval`` follows a plain grant; it is more than Discord's 5 s because what counts
    is when the identify arrives there. A grant to be confirmed is followed by ``hold``
    until the confirmation, and then by ``confirmed``, or by ``ready`` where that was READY.
    """

    interval: float
    hold: float
    confirmed: float
    ready: float

    @classmethod
    def of(cls, interval: float) -> Self:
        """The spacing for an interval; below Discord's 5 s, for tests, all of it shrinks."""
        scale = min(1.0, interval / IDENTIFY_INTERVAL)
        return cls(
            interval,
            hold=max(interval, CONFIRM_HOLD * scale),
            confirmed=AFTER_CONFIRMATION * scale,
            ready=AFTER_READY * scale,
        )

    def at_least(self, seconds: float) -> Self:
        """A spacing in which nothing follows sooner than that, not even a confirmation.

        What is to be slow are the identifies, and those are later than their grants.
        """
        return type(self)(
            interval=max(self.interval, seconds),
            hold=max(self.hold, seconds),
            confirmed=max(self.confirmed, seconds),
            ready=max(self.ready, seconds),
        )

    def after_grant(self, *, confirm: bool) -> float:
        return self.hold if confirm else self.interval


@dataclass(slots=True)
class Pace:
    """When one bucket may grant.

    A grant is *in hand* until its answer has been given to the socket. Nothing else
    is granted meanwhile: if the event loop stalls between the two, the gap that the
    clients see must not shrink.

    ``spacing`` may change at any time, and counts from the next grant on: what is said of a
    grant is judged by the spacing that it was given with.
    """

    spacing: Spacing
    opens_at: float
    in_hand: dict[int, float] = field(default_factory=dict)  # grant: seconds to keep after it
    unconfirmed: int | None = None  # the grant whose confirmation ends the hold
    granted_with: Spacing | None = None  # the spacing of the latest grant

    @property
    def ready_at(self) -> float:
        """The instant from which the bucket may grant; unknown while a grant is in hand."""
        return math.inf if self.in_hand else self.opens_at

    def grant(
        self, number: int, now: float, *, confirm: bool = False, in_hand: bool = True
    ) -> None:
        """A grant was given, and its answer with it unless that is still ``in_hand``."""
        seconds = self.spacing.after_grant(confirm=confirm)
        self.granted_with = self.spacing
        self.opens_at = late(now + seconds)
        self.unconfirmed = number if confirm else None
        if in_hand:
            self.in_hand[number] = seconds

    def handed_over(self, number: int, now: float) -> None:
        seconds = self.in_hand.pop(number, None)
        if seconds is not None:
            self.opens_at = max(self.opens_at, late(now + seconds))

    def confirm(self, number: int, now: float, outcome: Outcome = "identified") -> None:
        """Take what a client says of a grant: it ends the grant's hold, or opens later.

        What overtakes the end of its own answer counts from the hand-over.
        """
        spacing = self.granted_with or self.spacing
        seconds = spacing.ready if outcome == "ready" else spacing.confirmed
        opens_at = late(now + seconds)
        if outcome == "invalid_session" or number != self.unconfirmed:
            self.opens_at = max(self.opens_at, opens_at)
            return
        self.unconfirmed = None
        self.opens_at = opens_at
        if number in self.in_hand:
            self.in_hand[number] = seconds

    @classmethod
    def merged(cls, paces: Iterable[Self]) -> Self:
        """The pace of a new bucket that may hold shards of any of the old ones."""
        paces = list(paces)
        return cls(
            spacing=paces[0].spacing,
            opens_at=max(pace.opens_at for pace in paces),
            in_hand={number: s for pace in paces for number, s in pace.in_hand.items()},
            granted_with=max(
                (pace.granted_with or pace.spacing for pace in paces),
                key=lambda spacing: spacing.interval,
            ),
        )
