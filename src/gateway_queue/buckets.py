"""One identify bucket: a long-lived task that grants its shards, one per interval.

It sleeps until it may grant, and only then picks who goes: whoever left meanwhile costs
nothing. To pick, to record in the journal and to hand over is one synchronous step. This
module knows tasks and the trio clock; the order of seats is `line`'s, the arithmetic is
`pace`'s, and what all buckets share is `starts`'.
"""

import math
from contextlib import suppress
from typing import Protocol

import structlog
import trio

from gateway_queue.line import Line
from gateway_queue.metrics import Metrics
from gateway_queue.pace import Pace
from gateway_queue.starts import Starts
from gateway_queue.turn import Turn

log = structlog.get_logger()


class Seating(Protocol):
    """Seats a turn in the line of the bucket that its shard has now, and returns that."""

    def __call__(self, turn: Turn) -> "Bucket": ...


class Bucket:
    """The shards of one rate limit key, granted in the order of their seats."""

    def __init__(
        self,
        index: int,
        *,
        pace: Pace,
        line: Line[Turn],
        starts: Starts,
        metrics: Metrics,
        seat: Seating,
    ) -> None:
        self.index = index
        self.pace = pace
        self.line = line
        self._starts = starts
        self._metrics = metrics
        self._seat = seat
        self._asleep = trio.CancelScope()
        self.hand_in, self._arrivals = trio.open_memory_channel[Turn](math.inf)

    async def run(self) -> None:
        """Grant whoever is next whenever that is allowed, for ever."""
        while True:
            with trio.CancelScope(deadline=self._next_look_at()) as self._asleep:
                self._take(await self._arrivals.receive())
            self.take_arrivals()
            now = trio.current_time()
            self.line.forget(now)
            if self.opens_at(now) <= now:
                self._grant_next(now)

    def look_again(self) -> None:
        """Wake the bucket: something that it sleeps for has changed."""
        self._asleep.cancel()

    def take_arrivals(self) -> None:
        """Seat everybody who is in the channel."""
        with suppress(trio.WouldBlock):
            while True:
                self._take(self._arrivals.receive_nowait())

    def opens_at(self, now: float) -> float:
        """When a shard that is not slowed down may be granted; inf if the clock can't tell."""
        return max(self.pace.ready_at, self._starts.more_at(now))

    def granted_at(self, position: int, now: float) -> float:
        """When the request at a position of the line is likely to be granted."""
        return max(now, self.pace.opens_at) + (position - 1) * self.pace.spacing.interval

    def grants_before(self, at: float, now: float) -> int:
        """How many of those who wait here will be granted before an instant, as far as we know."""
        first_at = max(now, self.pace.opens_at)
        slots = math.ceil((at - first_at) / self.pace.spacing.interval)
        return min(max(0, slots), self.line.waiting)

    def _next_look_at(self) -> float:
        if not self.line.waiting:
            return self.line.forgets_at
        now = trio.current_time()
        return min(self.line.forgets_at, max(self.opens_at(now), self._somebody_at(now)))

    def _somebody_at(self, now: float) -> float:
        """When one of those who wait is not slowed down."""
        if self._next(now) is not None:
            return now
        return min(self._starts.eligible_at(turn.shard) for turn in self.line)

    def _next(self, now: float) -> Turn | None:
        return self.line.next(lambda shard: self._starts.eligible_at(shard) <= now)

    def _take(self, turn: Turn) -> None:
        bucket = self._seat(turn)
        if bucket is not self:  # the buckets changed while the turn was in the channel
            bucket.look_again()

    def _grant_next(self, now: float) -> None:
        turn = self._next(now)
        if turn is None:
            return
        could_at = max(
            self.pace.opens_at,
            turn.arrived_at,
            self._starts.changed_at,
            self._starts.eligible_at(turn.shard),
        )
        number = self._starts.spend(turn.shard, self.index, confirm=turn.confirm)
        if number is None:
            return
        now = trio.current_time()
        self.line.grant(turn)
        self.pace.grant(number, now, confirm=turn.confirm)
        turn.grant = number
        turn.waiting.cancel()
        waited, late = now - turn.arrived_at, now - could_at
        log.info(
            "identify_granted",
            shard=turn.shard,
            bucket=self.index,
            waited=round(waited, 3),
            late=round(late, 6),
        )
        self._metrics.granted(self.index, waited, late)
