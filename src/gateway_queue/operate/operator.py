"""Carries out an operator's orders to a queue.

No order lets a shard identify earlier than its bucket, the session starts and the crash loop
rule allow. Orders that make the queue more careful take effect at once. Ending one is first
written to the journal, so that it does not come back with the next start.
"""

import math
from contextlib import suppress
from itertools import count

import trio

from gateway_queue.queue.events import (
    Dropped,
    Forgiven,
    IntervalChanged,
    Paused,
    PutFirst,
    Resumed,
    TakenBack,
)
from gateway_queue.queue.journal import JournalError, Order, OrderKind
from gateway_queue.queue.queue import Queue
from gateway_queue.queue.rules.orders import Pause, Slower


class Operator:
    """The operator of one queue. Times are in seconds; None means until further notice."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._orders = queue.starts.orders
        self._journal = queue.starts.journal
        self._asleep = trio.CancelScope()
        self._numbers = count(0, -1)  # for the seats that are put first
        self._put_first: dict[int, None] = {}  # shards that are, or were, put first

    async def run(self) -> None:
        """End each order when its time is over. Never returns."""
        if self._orders.pause:
            self._report_pause(self._orders.pause)
        if self._orders.slower:
            self._report_interval()
        while True:
            with trio.CancelScope(deadline=self._orders.next_end_at) as self._asleep:
                await trio.sleep_forever()
            for order in self._orders.end(trio.current_time()):
                kind: OrderKind = "pause" if isinstance(order, Pause) else "slower"
                with suppress(JournalError):  # read again only if the clock is wrong
                    self._journal.order(kind, None)
                self._follow()
                if isinstance(order, Pause):
                    self._queue.report(Resumed(by_itself=True))
                else:
                    self._report_interval()

    def pause(self, reason: str, seconds: float | None) -> None:
        """Grant nothing for ``seconds``; replaces a pause that is in effect."""
        now = trio.current_time()
        left = math.inf if seconds is None else seconds
        pause = Pause(now, now + left, reason, self._keep("pause", Order(reason, left=left)))
        self._orders.pause = pause
        self._follow()
        self._report_pause(pause)

    def resume(self) -> None:
        """End the pause, if there is one. Raises JournalError."""
        if self._orders.pause is None:
            return
        self._journal.order("pause", None)
        self._orders.pause = None
        self._follow()
        self._queue.report(Resumed(by_itself=False))

    def slow_down(self, interval: float, seconds: float | None) -> None:
        """Set an interval longer than the configured one for ``seconds``.

        The change, and its end, take effect with the next grant of each bucket.
        """
        now = trio.current_time()
        left = math.inf if seconds is None else seconds
        kept = self._keep("slower", Order(repr(interval), left=left))
        self._orders.slower = Slower(now, now + left, interval, kept)
        self._follow()
        self._report_interval()

    def speed_up(self) -> None:
        """Return to the configured interval. Raises JournalError."""
        if self._orders.slower is None:
            return
        self._journal.order("slower", None)
        self._orders.slower = None
        self._follow()
        self._report_interval()

    @property
    def first(self) -> list[int]:
        """The shards that were put first and have a seat, in order."""
        self._put_first = dict.fromkeys(shard for shard in self._put_first if self._is_first(shard))
        return list(self._put_first)

    def put_first(self, shard: int) -> bool:
        """Move a shard's seat before all others; False if it has no seat.

        Everything else that the shard waits for still applies.
        """
        if self._queue.place_of(shard) is None:
            return False
        bucket = self._queue.bucket_of(shard)
        bucket.line.put_first(shard, next(self._numbers))
        self._put_first = dict.fromkeys([shard, *self.first])
        self._queue.report(PutFirst(shard, bucket.index))
        return True

    def take_back(self, shard: int) -> bool:
        """Move a shard that was put first back to its place; False if it was not."""
        if not self._is_first(shard):
            return False
        bucket = self._queue.bucket_of(shard)
        bucket.line.take_back(shard)
        self._queue.report(TakenBack(shard, bucket.index))
        return True

    def drop(self, shard: int) -> bool:
        """Forget a shard's seats, and end its requests unanswered; False if it has no seat."""
        if self._queue.place_of(shard) is None:
            return False
        place = self._queue.bucket_of(shard).line.drop(shard)
        for turn in place.requests:
            turn.is_in_line = False
            turn.drop()
        self._queue.report(Dropped(shard, len(place.seats), len(place.requests)))
        return True

    def forgive(self, shard: int) -> bool:
        """Reset a shard's crash loop; False if it is in none. Raises JournalError."""
        level = self._queue.starts.restarting.level(shard, trio.current_time())
        if not level:
            return False
        self._queue.starts.forgive(shard)
        if self._queue.place_of(shard) is not None:
            bucket = self._queue.bucket_of(shard)
            bucket.line.reconsider(shard)
            bucket.look_again()
        self._queue.report(Forgiven(shard, level))
        return True

    def _is_first(self, shard: int) -> bool:
        place = self._queue.place_of(shard)
        return place is not None and place.is_first

    def _keep(self, kind: OrderKind, order: Order) -> bool:
        """Store an order in the journal; returns whether it survives a restart."""
        try:
            self._journal.order(kind, order)
        except JournalError:
            return False
        return self._journal.survives_restart

    def _follow(self) -> None:
        self._queue.follow_orders()
        self._asleep.cancel()

    def _report_pause(self, pause: Pause) -> None:
        self._queue.report(Paused(pause.reason, _ends_in(pause), pause.survives_restart))

    def _report_interval(self) -> None:
        slower = self._orders.slower
        self._queue.report(
            IntervalChanged(
                self._queue.spacing.interval,
                self._queue.configured.interval,
                _ends_in(slower) if slower else None,
                slower.survives_restart if slower else True,
            )
        )


def _ends_in(order: Pause | Slower) -> float | None:
    """Seconds until an order ends by itself; None if it does not."""
    return None if order.until == math.inf else order.until - trio.current_time()
