"""How those who wait stand: their position, what they wait for, and for how long.

It reads the queue and changes nothing, but that whoever asks is seated by then.
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
    """How a waiting request stands.

    ``expected_in`` is in seconds, None if nobody can know. ``reset_in``: seconds until
    session starts come back, where that is what it waits for.
    """

    position: int
    expected_in: float | None
    reason: Reason
    reset_in: float | None = None


def standing_of(turn: Turn, queue: Queue) -> Standing:
    """How one waiting request stands."""
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
    """Seconds until the last of those who wait in a bucket is in, None if nobody can know."""
    if not bucket.line.waiting:
        return 0.0
    now = trio.current_time()
    return seconds_until(bucket.all_granted_at(now), queue, now)


def others_in_in(bucket: Bucket, queue: Queue) -> float | None:
    """As `all_in_in`, but of those only whom no crash loop slows down."""
    last = bucket.line.last_ready
    if last is None:
        return 0.0
    now = trio.current_time()
    return seconds_until(bucket.granted_at(last, now), queue, now)


def seconds_until(granted_at: float, queue: Queue, now: float) -> float | None:
    """How far away a grant is, None if it will not be given then or nobody can know."""
    starts = queue.starts
    if starts.obstacle(now) or granted_at > queue.coverage.until(
        queue.buckets, starts.left(now), now
    ):
        return None
    return round(granted_at - now, 3)
