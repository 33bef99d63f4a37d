"""One identify bucket: a long-lived task that grants its shards, one per interval.

It sleeps until it may grant, and only then picks a shard, so a client that left in the
meantime costs nothing. Picking, recording in the journal and handing over are one
synchronous step, which it takes together with all buckets that are due. This module knows
tasks and the trio clock. `line` orders the seats, `pace` does the arithmetic, and `starts`
holds what all buckets share.
"""

import math
from contextlib import suppress
from typing import Protocol

import trio

from gateway_queue.queue.events import AskedTwice, Granted, Report
from gateway_queue.queue.rules.line import Line
from gateway_queue.queue.rules.pace import Pace
from gateway_queue.queue.starts import Starts
from gateway_queue.queue.turn import Turn

# Sleeps before a grant that are longer than this many seconds are split in two.
LONG_WAIT = 0.1

# Arrivals seated, or departures noticed, before other tasks get to run: a millisecond or two.
PORTION = 100


class Usher(Protocol):
    """Seats and dismisses turns, whatever the current buckets are."""

    def seat(self, turn: Turn) -> "Bucket":
        """Seat a turn, unless it has a seat, and return its shard's current bucket."""
        ...

    def dismiss(self, turn: Turn) -> None:
        """Take the turn of a client that left out of the line."""
        ...

    def grant_together(self, bucket: "Bucket", now: float) -> None:
        """Grant the next in this bucket, which may do so, and in others that are due as well."""
        ...

    def end_hand_over(self, grant: int) -> None:
        """A grant that was in hand has been handed over."""
        ...

    def give_back(self, grant: int) -> None:
        """A grant that was in hand was not handed over, and never will be."""
        ...


class Bucket:
    """The shards of one rate limit key, granted in the order of their seats."""

    def __init__(
        self,
        index: int,
        *,
        pace: Pace,
        line: Line[Turn],
        starts: Starts,
        report: Report,
        usher: Usher,
    ) -> None:
        self.index = index
        self.pace = pace
        self.line = line
        self._starts = starts
        self._report = report
        self._usher = usher
        self._asleep = trio.CancelScope()
        self._asked_twice: set[int] = set()  # shards we have warned about
        self._due_at = math.inf  # when a grant was due, as of the last look
        self._unseated = 0  # arrivals; the channel does not count one that it is handing over
        self._hand_in, self._arrivals = trio.open_memory_channel[Turn](math.inf)

    def admit(self, turn: Turn) -> None:
        """Take in an arrival, which is seated in a moment."""
        self._unseated += 1
        self._hand_in.send_nowait(turn)

    async def run(self) -> None:
        """Grant the next shard whenever that is allowed. Never returns."""
        while True:
            with trio.CancelScope(deadline=self._next_look_at()) as self._asleep:
                self._take(await self._arrivals.receive())
            self.take_arrivals(PORTION)
            now = trio.current_time()
            self.line.forget(now)
            if self.may_grant_at(now) <= now:
                await self._grant(now)

    def look_again(self) -> None:
        """Wake the bucket, because something it is waiting for has changed."""
        self._asleep.cancel()

    def take_arrivals(self, at_most: int) -> bool:
        """Seat up to ``at_most`` arrivals from the channel; True if there may be more."""
        with suppress(trio.WouldBlock):
            for _ in range(at_most):
                self._take(self._arrivals.receive_nowait())
            return True
        return False

    def may_grant_at(self, now: float) -> float:
        """When a shard that is not slowed down may be granted; inf if that is not up to time."""
        return max(self.pace.ready_at, self._starts.more_at(now))

    def granted_at(self, turn: Turn, now: float) -> float:
        """When a turn waiting here is likely to be granted."""
        return self.line.granted_at(turn, self._moves_at(now), self.pace.spacing.interval)

    def all_granted_at(self, now: float) -> float:
        """When the last turn waiting here is likely to be granted; there must be one."""
        return self.line.all_granted_at(self._moves_at(now), self.pace.spacing.interval)

    def grants_until(self, at: float, now: float) -> int:
        """How many of the turns waiting here are likely to be granted by the instant ``at``."""
        slots = math.floor((at - self._moves_at(now)) / self.pace.spacing.interval) + 1
        return min(max(0, slots), self.line.waiting)

    def all_move_at(self, now: float) -> float:
        """By when there will have been a slot for each waiting turn, slowed down or not."""
        return self._moves_at(now) + self.line.waiting * self.pace.spacing.interval

    def _moves_at(self, now: float) -> float:
        return max(now, self.pace.opens_at)

    def _next_look_at(self) -> float:
        now = trio.current_time()
        self._due_at = max(now, self.may_grant_at(now), self.line.next_at)
        if not self.line.waiting:
            return self.line.forgets_at
        at = self._due_at
        # Linux may end a sleep late by a thousandth of its length (5 ms for an interval), so
        # wake up a little early and sleep for the short remainder.
        if LONG_WAIT < at - now < math.inf:
            at -= (at - now) / 500
        return min(self.line.forgets_at, at)

    def _take(self, turn: Turn) -> None:
        self._unseated -= 1
        bucket = self._usher.seat(turn)
        if bucket is not self:  # a resize happened while the turn was in the channel
            bucket.look_again()

    def is_due(self, now: float) -> bool:
        """Whether it may grant if a start may be spent, and has no arrivals to seat first."""
        return self.pace.ready_at <= now and self.line.waiting > 0 and not self._unseated

    async def _grant(self, now: float) -> None:
        """Pick, record and hand over; it never waits, so no other task can run in between."""
        self._usher.grant_together(self, now)

    def hand_over(self, turn: Turn, number: int, now: float) -> None:
        """Give a turn its grant, which has been recorded and counted."""
        could_at = self._could_at(turn, now)
        since = self.take_out(turn, number)
        is_handed_over = turn.client.hand_over(number)
        now = trio.current_time()
        self.pace.grant(number, now, confirm=turn.confirm, in_hand=not is_handed_over)
        turn.waiting.cancel()
        granted = Granted(turn.shard, self.index, now - since, now - could_at)
        if is_handed_over:
            turn.handed_over = granted  # reported after all buckets that are due have written
        else:
            self._report(granted)
        self._warn_of_second_client(turn)

    def _could_at(self, turn: Turn, now: float) -> float:
        """When a turn that is granted now could have been granted."""
        return max(turn.arrived_at, min(self._due_at, now))

    def take_out(self, turn: Turn, number: int) -> float:
        """Take a turn with a grant out of the line; returns when its seat was taken."""
        since = self.line.since(turn)
        self.line.grant(turn)
        turn.is_in_line = False
        turn.grant = number
        return since

    def _warn_of_second_client(self, granted: Turn) -> None:
        shard = granted.shard
        if shard is None or shard in self._asked_twice:
            return
        if waiting := self.line.newest(shard):
            self._asked_twice.add(shard)
            self._report(AskedTwice(shard, granted.client.peer, waiting.client.peer))

    def next_who_is_here(self, now: float, at_most: int = PORTION) -> Turn | None:
        """The next turn whose client is still connected, of so many; the others have left."""
        for _ in range(at_most):
            turn = self.line.next(now)
            if turn is None or not turn.client.has_left():
                return turn
            turn.leave()
            self._usher.dismiss(turn)
        return None  # look at the rest in a moment
