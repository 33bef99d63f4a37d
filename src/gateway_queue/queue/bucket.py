"""One identify bucket: a long-lived task that grants its shards, one per interval.

It sleeps until it may grant, and only then picks who goes: whoever left meanwhile costs
nothing. To pick, to record in the journal and to hand over is one synchronous step. This
module knows tasks and the trio clock; the order of seats is `line`'s, the arithmetic is
`pace`'s, and what all buckets share is `starts`'.
"""

import math
from contextlib import suppress
from typing import Protocol

import trio

from gateway_queue.queue.events import AskedTwice, Granted, Report
from gateway_queue.queue.rules.line import Line
from gateway_queue.queue.rules.pace import Pace
from gateway_queue.queue.starts import Starts
from gateway_queue.queue.turn import Client, Turn

# Seconds for which to sleep in one go, where a grant is due at the end.
LONG_WAIT = 0.1

# Arrivals seated, or departures noticed, before others get their turn: a millisecond or two.
PORTION = 100


class Usher(Protocol):
    """Leads turns to their seats and out, whatever the buckets are at the moment."""

    def seat(self, turn: Turn) -> "Bucket":
        """Seat a turn in the bucket that its shard has now, if it is not yet; returns that."""
        ...

    def dismiss(self, turn: Turn) -> None:
        """Take the turn of a client who left out of the line."""
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
        self._asked_twice: set[int] = set()  # shards that were warned of
        self._due_at = math.inf  # when a grant was due, when that was last considered
        self.hand_in, self._arrivals = trio.open_memory_channel[Turn](math.inf)

    async def run(self) -> None:
        """Grant whoever is next whenever that is allowed, for ever."""
        while True:
            with trio.CancelScope(deadline=self._next_look_at()) as self._asleep:
                self._take(await self._arrivals.receive())
            self.take_arrivals(PORTION)
            now = trio.current_time()
            self.line.forget(now)
            if self.may_grant_at(now) <= now:
                self._grant_next(now)

    def look_again(self) -> None:
        """Wake the bucket: something that it sleeps for has changed."""
        self._asleep.cancel()

    def take_arrivals(self, at_most: int) -> bool:
        """Seat whoever is in the channel, but so many only; True if there may be more."""
        with suppress(trio.WouldBlock):
            for _ in range(at_most):
                self._take(self._arrivals.receive_nowait())
            return True
        return False

    def may_grant_at(self, now: float) -> float:
        """When a shard that is not slowed down may be granted; inf if the clock can't tell."""
        return max(self.pace.ready_at, self._starts.more_at(now))

    def granted_at(self, turn: Turn, now: float) -> float:
        """When a turn that waits here is likely to be granted."""
        return self.line.granted_at(turn, self._moves_at(now), self.pace.spacing.interval)

    def all_granted_at(self, now: float) -> float:
        """When the last of those who wait here is likely to be granted; there is somebody."""
        return self.line.all_granted_at(self._moves_at(now), self.pace.spacing.interval)

    def grants_until(self, at: float, now: float) -> int:
        """How many of those who wait here will be granted by an instant, as far as we know."""
        slots = math.floor((at - self._moves_at(now)) / self.pace.spacing.interval) + 1
        return min(max(0, slots), self.line.waiting)

    def all_move_at(self, now: float) -> float:
        """When there was a slot for each of those who wait here, slowed down or not."""
        return self._moves_at(now) + self.line.waiting * self.pace.spacing.interval

    def _moves_at(self, now: float) -> float:
        return max(now, self.pace.opens_at)

    def _next_look_at(self) -> float:
        now = trio.current_time()
        self._due_at = max(now, self.may_grant_at(now), self.line.next_at)
        if not self.line.waiting:
            return self.line.forgets_at
        at = self._due_at
        # Linux may end a wait late by a thousandth of its length (5 ms of an interval): so
        # wake up a little before, and sleep the short rest.
        if LONG_WAIT < at - now < math.inf:
            at -= (at - now) / 500
        return min(self.line.forgets_at, at)

    def _take(self, turn: Turn) -> None:
        bucket = self._usher.seat(turn)
        if bucket is not self:  # the buckets changed while the turn was in the channel
            bucket.look_again()

    def _grant_next(self, now: float) -> None:
        """Pick, record and hand over: no other task can run in between."""
        turn = self._next_who_is_here(now)
        if turn is None:
            return
        could_at = max(turn.arrived_at, min(self._due_at, now))
        number = self._starts.spend(turn.shard, self.index, confirm=turn.confirm)
        if number is None:
            return
        since = self.line.since(turn)
        self.line.grant(turn)
        turn.is_in_line = False
        turn.grant = number
        is_handed_over = turn.client.hand_over(number)
        now = trio.current_time()
        self.pace.grant(number, now, confirm=turn.confirm, in_hand=not is_handed_over)
        turn.waiting.cancel()
        granted = Granted(turn.shard, self.index, now - since, now - could_at)
        if is_handed_over:
            turn.handed_over = granted  # reported once the buckets that open now have written
        else:
            self._report(granted)
        if turn.shard is not None and (other := self.line.newest(turn.shard)):
            self._warn_of_second_client(turn.shard, turn.client, other.client)

    def _warn_of_second_client(self, shard: int, granted: Client, waiting: Client) -> None:
        if shard not in self._asked_twice:
            self._asked_twice.add(shard)
            self._report(AskedTwice(shard, granted.peer, waiting.peer))

    def _next_who_is_here(self, now: float) -> Turn | None:
        """Whose turn it is; whoever is seen to have hung up loses theirs, not a session start."""
        for _ in range(PORTION):
            turn = self.line.next(now)
            if turn is None or not turn.client.has_left():
                return turn
            turn.leave()
            self._usher.dismiss(turn)
        return None  # the others are looked at in a moment
