"""Plans a launch for a queue, as it is now or with another interval or max_concurrency.

It reads the queue and the trio clock, and changes nothing.
"""

import trio

from gateway_queue.operate.plan import Ahead, Launch, Limits, Plan, plan, resized
from gateway_queue.queue.queue import Queue
from gateway_queue.queue.rules.allowance import DAY
from gateway_queue.queue.rules.pace import Layout


def plan_at(queue: Queue, launch: Launch) -> Plan | None:
    """Plan a launch after the shards that are waiting now; None while the limits are unknown."""
    if not queue.starts.allowance.known:
        return None
    now = trio.current_time()
    ahead = [
        Ahead(bucket.line.waiting, max(0.0, bucket.pace.opens_at - now)) for bucket in queue.buckets
    ]
    waiting = sum(found.waiting for found in ahead)
    layout = Layout(launch.max_concurrency or queue.layout.max_concurrency, queue.layout.cap)
    if layout != queue.layout:
        ahead = [resized(waiting, max(found.opens_in for found in ahead), layout)]
    return plan(
        launch.shards,
        layout,
        launch.interval or queue.spacing.interval,
        _limits(queue, now),
        ahead=ahead,
        waiting=waiting,
        obstacle="ending" if queue.ending else queue.starts.obstacle(now),
    )


def _limits(queue: Queue, now: float) -> Limits:
    allowance = queue.starts.allowance
    remaining, total = allowance.remaining(now), allowance.total
    back_in = queue.starts.back_in(now)
    if not back_in and remaining == total:
        back_in = DAY  # which begins with the first start
    return Limits(
        source="discord" if allowance.read_from_discord else "counted",
        total=total,
        remaining=remaining,
        reserve=allowance.reserved,
        reset_in=round(back_in, 3),
    )
