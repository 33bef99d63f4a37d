"""How long the remaining session starts last for the turns that are waiting."""

from collections.abc import Sequence
from math import inf

from gateway_queue.queue.bucket import Bucket

# Seconds for which an answer is reused, because its cost grows with the number of buckets.
GOOD_FOR = 1.0

PRECISION = 0.01  # seconds; much less than an interval


class Coverage:
    """When the session starts will run out; remembered for a second."""

    def __init__(self) -> None:
        self._until = inf
        self._good_until = -inf

    def until(self, buckets: Sequence[Bucket], left: int, now: float) -> float:
        """The instant until which grants have a start: inf if all do, -inf if none does."""
        if now >= self._good_until:
            self._until = _until(buckets, left, now)
            self._good_until = now + GOOD_FOR
        return self._until


def _until(buckets: Sequence[Bucket], left: int, now: float) -> float:
    if left >= sum(bucket.line.waiting for bucket in buckets):
        return inf
    if not left:
        return -inf
    early, late = now, max(bucket.all_move_at(now) for bucket in buckets)
    while late - early > PRECISION:
        middle = (early + late) / 2
        if sum(bucket.grants_until(middle, now) for bucket in buckets) < left:
            early = middle
        else:
            late = middle
    return late
