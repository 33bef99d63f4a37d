"""What operators and sharders may see of the queue, as JSON."""

import json
from typing import Any

import trio

from gateway_queue import __version__
from gateway_queue.queue.journal import Journal, JournalError
from gateway_queue.queue.queue import Queue
from gateway_queue.queue.standing import standings

# Seats described in one go: a few milliseconds at the most in which nothing is granted.
SLICE = 250


async def page(queue: Queue) -> bytes:
    """The body of ``/status``, made in slices so that no grant waits for all of it."""
    seats: list[str] = []
    for bucket in queue.buckets:
        for number, (turn, standing) in enumerate(standings(bucket, queue)):
            seats.append(
                json.dumps(
                    {
                        "shard": turn.shard,
                        "bucket": bucket.index,
                        "position": standing.position,
                        "expected_in": standing.expected_in,
                        "reason": standing.reason,
                        "waited": _rounded(trio.current_time() - turn.arrived_at),
                    }
                )
            )
            if number % SLICE == SLICE - 1:
                await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
    summary = json.dumps(_summary(queue))
    return f'{summary[:-1]}, "seats": [{", ".join(seats)}]}}'.encode()


def gateway_bot(queue: Queue) -> dict[str, Any] | None:
    """Discord's answer to ``GET /gateway/bot`` with the numbers of this moment, if it was read.

    https://discord.com/developers/docs/events/gateway#get-gateway-bot
    """
    allowance = queue.starts.allowance
    if queue.gateway is None or not allowance.known:
        return None
    now = trio.current_time()
    return {
        "url": queue.gateway.url,
        "shards": queue.gateway.shards,
        "session_start_limit": {
            "total": allowance.total,
            "remaining": allowance.remaining(now),
            "reset_after": round(allowance.reset_after(now) * 1000),  # milliseconds
            "max_concurrency": queue.layout.max_concurrency,
        },
    }


def _summary(queue: Queue) -> dict[str, Any]:
    now = trio.current_time()
    starts, allowance = queue.starts, queue.starts.allowance
    return {
        "version": __version__,
        "uptime": _rounded(now - queue.started_at),
        "ready": starts.why_not_ready() is None,
        "obstacle": "ending" if queue.ending else starts.obstacle(now),
        "limits": {
            "known": allowance.known,
            "source": "discord" if allowance.read_from_discord else "counted",
            "total": allowance.total,
            "remaining": allowance.remaining(now),
            "reserve": allowance.reserved,
            "reset_after": _rounded(allowance.reset_after(now)) if allowance.known else None,
            "max_concurrency": queue.layout.max_concurrency,
        },
        "last_24_hours": _last_day(starts.journal),
        "buckets": [
            {
                "bucket": bucket.index,
                "waiting": bucket.line.waiting,
                "away": bucket.line.away,
                "opens_in": _rounded(max(0.0, bucket.pace.opens_at - now)),
            }
            for bucket in queue.buckets
        ],
        "slowed_down": [
            {
                "shard": shard,
                "level": restarts.level,
                "eligible_in": _rounded(restarts.eligible_at - now),
            }
            for shard, restarts in starts.slowed(now)
        ],
    }


def _last_day(journal: Journal) -> dict[str, int] | None:
    try:
        granted, shards = journal.counts_of_last_day()
    except JournalError:  # this page is wanted most just when the journal is damaged
        return None
    return {"granted": granted, "shards": shards}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
