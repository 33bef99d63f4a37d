"""The standing of waiting requests: their position, what they wait for, and for how long.

This module only reads the queue, except that a request that was not seated yet gets its seat.
"""

from dataclasses import dataclass
from typing import Literal

import trio

from gateway_queue.queue.bucket import Bucket
from gateway_queue.queue.queue import Queue
from gateway_queue.queue.starts import Obstacle
from gateway_queue.queue.turn import Turn

Reason = Literal[Obstacle, "interval", "crash_loop", "ending", "unknown_bot"]


@dataclass(frozen=True, slots=True)
class Standing:
    """The standing of a waiting request.

    ``expected_in``: seconds until its grant, None if that cannot be known. ``reset_in``:
    seconds until session starts become available again, if that is what it waits for.
    """

    position: int
    expected_in: float | None
    reason: Reason
    reset_in: float | None = None


def standing_of(turn: Turn, queue: Queue) -> Standing:
    """The standing of one waiting request."""
    now = trio.current_time()
    bucket = queue.seat(turn)
    reason: Reason = queue.starts.obstacle(now) or "interval"
    expected_in = seconds_until(bucket.granted_at(turn, now), queue, now)
    if reason == "interval" and queue.starts.restarting.eligible_at(turn.shard) > now:
        reason = "crash_loop"
    if queue.ending:
        reason = "ending"
    return Standing(
        bucket.line.position(turn),
        expected_in,
        reason,
        round(queue.starts.back_in(now), 3) if reason == "reserve" else None,
    )


def all_in_in(bucket: Bucket, queue: Queue) -> float | None:
    """Seconds until everybody in a bucket has been granted; None if that cannot be known."""
    if not bucket.line.waiting:
        return 0.0
    now = trio.current_time()
    return seconds_until(bucket.all_granted_at(now), queue, now)


def others_in_in(bucket: Bucket, queue: Queue) -> float | None:
    """Like `all_in_in`, but without the shards that are slowed down by a crash loop."""
    last = bucket.line.last_ready
    if last is None:
        return 0.0
    now = trio.current_time()
    return seconds_until(bucket.granted_at(last, now), queue, now)


def seconds_until(granted_at: float, queue: Queue, now: float) -> float | None:
    """Seconds until an expected grant; None if it cannot be given then, or nobody can know."""
    starts = queue.starts
    if starts.obstacle(now) or granted_at > queue.coverage.until(
        queue.buckets, starts.left(now), now
    ):
        return None
    return round(granted_at - now, 3)
