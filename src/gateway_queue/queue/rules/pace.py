"""When a bucket may grant, and which shards share one.

Pure: every function takes ``now`` (seconds on one monotonic clock) and returns a value.
No clock, no tasks, no I/O. Rounding is always towards later.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, Self

# Discord allows one identify per 5 s and rate limit key:
# https://discord.com/developers/docs/events/gateway#rate-limiting
IDENTIFY_INTERVAL = 5.0

# A client that will confirm has this many seconds to identify; nobody else is granted meanwhile.
CONFIRM_HOLD = 10.0

# Seconds after a confirmation: Discord's 5, plus 0.3 for the identify to reach Discord.
AFTER_CONFIRMATION = 5.3

# READY proves that the identify has arrived, so there is nothing to add to Discord's 5 s.
AFTER_READY = IDENTIFY_INTERVAL

# What a client may report about a grant: it has sent the identify, Discord has answered with
# READY, or Discord has answered with op 9 (invalid session).
Outcome = Literal["identified", "ready", "invalid_session"]


def late(instant: float) -> float:
    """The next representable instant, so that a rounded sum never comes early."""
    return math.nextafter(instant, math.inf)


@dataclass(frozen=True, slots=True)
class Layout:
    """Which shards share a bucket: those with the same rate limit key.

    A cap merges whole keys, so that one key is never split across two buckets.
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
        """How many of the shards 0 to ``shards`` - 1 are in a bucket; bucket 0 has the most."""
        rounds, rest = divmod(shards, self.max_concurrency)
        keys = len(range(bucket, self.max_concurrency, self.buckets))
        keys_of_rest = len(range(bucket, rest, self.buckets))
        return rounds * keys + keys_of_rest


@dataclass(frozen=True, slots=True)
class Spacing:
    """The seconds between grants of one bucket.

    A plain grant is followed by ``interval``, which is longer than Discord's 5 s because what
    counts is when the identify arrives there. A grant with ``confirm`` is followed by ``hold``
    until it is confirmed, and then by ``confirmed``, or by ``ready`` if READY confirmed it.
    """

    interval: float
    hold: float
    confirmed: float
    ready: float

    @classmethod
    def of(cls, interval: float) -> Self:
        """The spacing for an interval; below Discord's 5 s (for tests), all of it is scaled."""
        scale = min(1.0, interval / IDENTIFY_INTERVAL)
        return cls(
            interval,
            hold=max(interval, CONFIRM_HOLD * scale),
            confirmed=AFTER_CONFIRMATION * scale,
            ready=AFTER_READY * scale,
        )

    def at_least(self, seconds: float) -> Self:
        """A spacing in which nothing follows sooner than ``seconds``, even when confirmed.

        It is the identifies that have to be slow, and these come later than their grants.
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

    A grant is *in hand* until its answer has been written to the socket. Nothing else is
    granted until then: if the event loop stalls between the two, the gap that clients see must
    not shrink.

    ``spacing`` may change at any time and applies from the next grant on. A report about a
    grant is judged by the spacing in effect when it was given.
    """

    spacing: Spacing
    opens_at: float
    in_hand: dict[int, float] = field(default_factory=dict)  # grant number: seconds to follow it
    opened_before: tuple[int, float] | None = None  # the latest grant; `opens_at` without it
    unconfirmed: int | None = None  # the grant whose confirmation ends the hold
    granted_with: Spacing | None = None  # the spacing of the latest grant

    @property
    def ready_at(self) -> float:
        """When the bucket may grant; inf (unknown) while a grant is in hand."""
        return math.inf if self.in_hand else self.opens_at

    def grant(
        self, number: int, now: float, *, confirm: bool = False, in_hand: bool = True
    ) -> None:
        """Record a grant; ``in_hand``: its answer has not been written yet."""
        seconds = self.spacing.after_grant(confirm=confirm)
        self.granted_with = self.spacing
        self.opened_before = number, self.opens_at
        self.opens_at = late(now + seconds)
        self.unconfirmed = number if confirm else None
        if in_hand:
            self.in_hand[number] = seconds

    def handed_over(self, number: int, now: float) -> None:
        seconds = self.in_hand.pop(number, None)
        if seconds is not None:
            self.opens_at = max(self.opens_at, late(now + seconds))

    def given_back(self, number: int) -> None:
        """The answer of a grant that was in hand was not given, and never will be."""
        self.in_hand.pop(number, None)
        if self.opened_before and self.opened_before[0] == number:
            self.opens_at = self.opened_before[1]

    def confirm(self, number: int, now: float, outcome: Outcome = "identified") -> None:
        """Record a client's report about a grant: it ends the hold, or postpones the opening.

        A report that arrives before its own answer was fully written counts from that moment.
        """
        spacing = self.granted_with or self.spacing
        seconds = spacing.ready if outcome == "ready" else spacing.confirmed
        opens_at = late(now + seconds)
        if outcome == "invalid_session" or number != self.unconfirmed:
            self.opens_at = max(self.opens_at, opens_at)
            if self.opened_before:
                granted, otherwise_at = self.opened_before
                self.opened_before = granted, max(otherwise_at, opens_at)
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
