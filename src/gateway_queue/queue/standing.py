"""How those who wait stand: their position, what they wait for, and for how long.

It reads the queue and changes nothing, but that whoever asks is seated by then.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal

import trio

from gateway_queue.queue.bucket import Bucket
from gateway_queue.queue.queue import Queue
from gateway_queue.queue.starts import Obstacle
from gateway_queue.queue.turn import Turn

Reason = Literal[Obstacle, "interval", "crash_loop", "ending"]


@dataclass(frozen=True, slots=True)
class Standing:
    """How a waiting request stands; ``expected_in`` is in seconds, None if nobody can know."""

    position: int
    expected_in: float | None
    reason: Reason


def standing_of(turn: Turn, queue: Queue) -> Standing:
    """How one waiting request stands."""
    now = trio.current_time()
    bucket = queue.seat(turn)
    return _standing(
        turn,
        bucket,
        queue,
        position=bucket.line.position(turn),
        slowed_ahead=[
            restarts.eligible_at
            for shard, restarts in queue.starts.slowed(now)
            for _ in range(bucket.line.seats_before(turn, shard))
        ],
        left=_left_to_share(queue, now),
    )


def standings(bucket: Bucket, queue: Queue) -> Iterator[tuple[Turn, Standing]]:
    """How everybody in a bucket stands, in the order of seats."""
    now = trio.current_time()
    left = _left_to_share(queue, now)
    slowed_ahead: list[float] = []
    for position, turn in enumerate(list(bucket.line), 1):
        yield (
            turn,
            _standing(turn, bucket, queue, position=position, slowed_ahead=slowed_ahead, left=left),
        )
        if (eligible_at := queue.starts.eligible_at(turn.shard)) > now:
            slowed_ahead.append(eligible_at)


def _standing(
    turn: Turn,
    bucket: Bucket,
    queue: Queue,
    *,
    position: int,
    slowed_ahead: Sequence[float],
    left: float,
) -> Standing:
    now = trio.current_time()
    eligible_at = queue.starts.eligible_at(turn.shard)
    obstacle = queue.starts.obstacle(now)
    reason: Reason = obstacle or ("crash_loop" if eligible_at > now else "interval")
    at = max(bucket.granted_at(position - 1, slowed_ahead, now), eligible_at)
    if left < inf:
        left -= sum(other.grants_before(at, now) for other in queue.buckets)
    return Standing(
        position,
        round(at - now, 3) if left > 0 and obstacle is None else None,
        "ending" if queue.ending else reason,
    )


def _left_to_share(queue: Queue, now: float) -> float:
    """How many starts there are for those who wait; inf if there is one for each."""
    left = queue.starts.left(now)
    return inf if left >= sum(bucket.line.waiting for bucket in queue.buckets) else left
