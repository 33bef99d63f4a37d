"""An identify bucket whose clients are held by several replicas.

It picks the next turn like any bucket. The replica that holds the client records the grant and
hands it over, so the bucket waits for that, and for nothing else in the meantime.
"""

import trio

from gateway_queue.queue.bucket import Bucket
from gateway_queue.queue.events import Granted
from gateway_queue.queue.ledger import Ledger


class SharedBucket(Bucket):
    """A bucket whose grants go through a ledger."""

    @property
    def _ledger(self) -> Ledger:
        ledger = self._starts.journal.ledger
        assert ledger is not None  # noqa: S101 - otherwise the buckets are not shared
        return ledger

    async def _grant(self, now: float) -> None:
        """Pick a turn and have it granted. The bucket stays closed until the outcome is known."""
        turn = self.next_who_is_here(now)
        if turn is None:
            return
        could_at = self._could_at(turn, now)
        number = self._ledger.next_number()
        self.pace.grant(number, now, confirm=turn.confirm)
        seconds = self.pace.in_hand[number]
        # If the buckets change, the new ones wait for this.
        with trio.CancelScope(shield=True):
            with self._starts.held():
                is_taken = await self._ledger.offer(turn, number, self.index, seconds)
            if not is_taken:
                self._usher.give_back(number)
                return
            self._starts.count(turn.shard, number, confirm=turn.confirm)
            fate = await self._ledger.fate(number)
        if fate == "given_back":
            self._usher.give_back(number)
            return
        self._usher.end_hand_over(number)
        if fate == "given" and turn.is_in_line:
            since = self._usher.seat(turn).take_out(turn, number)
            now = trio.current_time()
            turn.waiting.cancel()
            self._report(Granted(turn.shard, self.index, now - since, now - could_at))
            self._warn_of_second_client(turn)
            turn.end()  # nobody else does: its client's own task is at another replica
