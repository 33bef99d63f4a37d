"""The state of the queue for operators and sharders, as JSON."""

import json
import math
import resource
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from itertools import islice
from typing import Any

import trio

from gateway_queue import __version__
from gateway_queue.queue.bucket import Bucket
from gateway_queue.queue.queue import Queue
from gateway_queue.queue.rules.allowance import ReadAllowance
from gateway_queue.queue.standing import Standing, all_in_in, others_in_in, standing_of
from gateway_queue.queue.turn import Turn
from gateway_queue.watch.metrics import BotMetrics

# A page is made at most once in this many seconds, however many clients ask.
GOOD_FOR = 1.0

# Seats, buckets or shards processed in one go: delays grants by a few milliseconds at most.
SLICE = 250

# Lists that nobody reads to the end are cut short.
NEXT = 3  # of each line
LONGEST_SLOWED = 10
MOST_INVALID = 10

# Reports of op 9s are shown for this many seconds.
NEWS = 900.0

# More shards than Discord recommends to any bot.
MOST_SHARDS = 100_000


class Page:
    """A page that is made at most once a second and shared by all readers."""

    def __init__(self, make: Callable[[], Awaitable[bytes]]) -> None:
        self._make = make
        self._made_at = float("-inf")
        self._body = b""
        self._making = trio.Lock()

    async def body(self) -> bytes:
        async with self._making:
            now = trio.current_time()
            if now - self._made_at >= GOOD_FOR:
                self._body = await self._make()
                self._made_at = now
            return self._body


class Status:
    """The pages about the state of one queue."""

    def __init__(self, queue: Queue, metrics: BotMetrics) -> None:
        self._queue = queue
        self._metrics = metrics
        self.summary = Page(self._summary)
        self.with_seats = Page(self._with_seats)

    def of_shard(self, shard: int) -> dict[str, Any] | None:
        """Everything known about one shard; None if nothing is."""
        now = trio.current_time()
        queue, starts = self._queue, self._queue.starts
        place = queue.place_of(shard)
        day = starts.last_day.of(shard, now)
        if place is None and day is None:
            return None
        latest = starts.latest(shard, now)
        level = starts.restarting.level(shard, now)
        here = place is not None and bool(place.requests)
        seat = _standing(standing_of(place.requests[-1], queue)) if place and here else None
        return {
            "shard": shard,
            "bucket": queue.bucket_of(shard).index,
            "state": "waiting" if here else "away" if place else "granted",
            "requests": len(place.requests) if place else 0,
            "first": place is not None and place.is_first,
            "seat": seat,
            "waited": _rounded(now - place.seats[0].since) if place else None,
            "away_for": _rounded(now - place.left_at) if place and not here else None,
            "starts": day.grants if day else 0,
            "granted_ago": _rounded(now - day.latest_at) if day else None,
            "grant": latest.number if latest else None,
            "level": level,
            "eligible_in": _eligible_in(shard, queue, now),
        }

    async def _summary(self) -> bytes:
        return json.dumps(await self._summarized()).encode()

    async def _with_seats(self) -> bytes:
        seats: list[str] = []
        for bucket in self._queue.buckets:
            for number, turn in enumerate(list(bucket.line)):
                if turn in bucket.line:
                    seats.append(json.dumps(_seat(turn, bucket, self._queue)))
                if number % SLICE == SLICE - 1:
                    await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
        summary = json.dumps(await self._summarized())
        return f'{summary[:-1]}, "seats": [{", ".join(seats)}]}}'.encode()

    async def _summarized(self) -> dict[str, Any]:
        queue, starts = self._queue, self._queue.starts
        buckets, others_in = await self._buckets()
        not_asked = await self._not_asked()
        now = trio.current_time()
        waiting = sum(bucket["waiting"] for bucket in buckets)
        all_in = [bucket["all_in_in"] for bucket in buckets]
        return {
            "version": __version__,
            "uptime": _rounded(now - queue.started_at),
            "ready": starts.why_not_ready() is None,
            "obstacle": "ending" if queue.ending else starts.obstacle(now),
            "paused": paused(queue, now),
            "limits": limits_of(queue, now),
            "pace": pace(queue, now),
            "waiting": waiting,
            "waiting_slowed": sum(bucket.line.aside for bucket in queue.buckets),
            "away": sum(bucket["away"] for bucket in buckets),
            "covered": min(waiting, starts.left(now)),
            "all_in_in": longest(all_in),
            "others_in_in": longest(others_in),
            "back_in": _rounded(starts.back_in(now)) if starts.allowance.known else None,
            "recommended_shards": queue.gateway.shards if queue.gateway else None,
            "not_asked": not_asked,
            "last_24_hours": {
                "granted": starts.last_day.granted(now),
                "shards": starts.last_day.shards(now),
            },
            "buckets": buckets,
            "slowed_down": slowed_down(queue, now),
            "invalid_sessions": invalid_sessions(self._metrics, now),
            "open_files_limit": _open_files_limit(),
            "replicas": replicas(queue),
        }

    async def _buckets(self) -> tuple[list[dict[str, Any]], list[float | None]]:
        """All buckets, and when all in each are in but those in a crash loop."""
        found: list[dict[str, Any]] = []
        others_in: list[float | None] = []
        for bucket in self._queue.buckets:
            found.append(_bucket(bucket, self._queue))
            others_in.append(others_in_in(bucket, self._queue))
            if len(found) % SLICE == 0:
                await trio.lowlevel.checkpoint()
        return found, others_in

    async def _not_asked(self) -> int | None:
        """How many of the recommended shards neither wait nor had a turn in 24 hours."""
        queue = self._queue
        if queue.gateway is None or queue.gateway.shards > MOST_SHARDS:
            return None
        absent = 0
        for shard in range(queue.gateway.shards):
            if not queue.place_of(shard):
                absent += not queue.starts.last_day.of(shard, trio.current_time())
            if shard % SLICE == SLICE - 1:
                await trio.lowlevel.checkpoint()
        return absent


def replicas(queue: Queue) -> list[dict[str, Any]] | None:
    """The replicas that share a queue; None where there is one process."""
    members = queue.members()
    if members is None:
        return None
    return [
        {
            "name": member.name,
            "waiting": member.waiting,
            "silent_for": round(member.silent_for, 1),
            "leads": member.leads,
        }
        for member in members
    ]


def gateway_bot(queue: Queue) -> dict[str, Any] | None:
    """Discord's answer to ``GET /gateway/bot``, with current numbers; None before it was read.

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


def limits_of(queue: Queue, now: float) -> dict[str, Any]:
    """The current session start limit."""
    allowance, failure = queue.starts.allowance, queue.limits_failure
    age = None
    if isinstance(allowance, ReadAllowance) and allowance.known:
        age = _rounded(now - allowance.sent_at)
    return {
        "known": allowance.known,
        "source": "discord" if allowance.read_from_discord else "counted",
        "total": allowance.total,
        "remaining": allowance.remaining(now),
        "reserve": allowance.reserved,
        "reset_in": _rounded(allowance.reset_after(now)) if allowance.known else None,
        "max_concurrency": queue.layout.max_concurrency,
        "age": age,
        "failure": {"error": failure.why, "age": _rounded(now - failure.at)} if failure else None,
    }


def longest(lengths: Iterable[float | None]) -> float | None:
    """The longest of all, None if one of them is not known."""
    most = 0.0
    for length in lengths:
        if length is None:
            return None
        most = max(most, length)
    return most


def paused(queue: Queue, now: float) -> dict[str, Any] | None:
    """The operator's pause; None if there is none. ``ends_in``: None if it is open-ended."""
    pause = queue.starts.orders.pause
    if pause is None:
        return None
    return {
        "reason": pause.reason,
        "began_ago": _rounded(now - pause.since),
        "ends_in": _ends_in(pause.until, now),
        "survives_restart": pause.survives_restart,
    }


def pace(queue: Queue, now: float) -> dict[str, Any]:
    """The interval. ``ends_in``: seconds until it is the configured one again, if known."""
    slower = queue.starts.orders.slower
    return {
        "interval": queue.spacing.interval,
        "configured": queue.configured.interval,
        "ends_in": _ends_in(slower.until, now) if slower else None,
    }


def _bucket(bucket: Bucket, queue: Queue) -> dict[str, Any]:
    return {
        "bucket": bucket.index,
        "waiting": bucket.line.waiting,
        "away": bucket.line.away,
        "opens_in": _rounded(max(0.0, bucket.pace.opens_at - trio.current_time())),
        "all_in_in": all_in_in(bucket, queue),
        "next": [
            {"shard": turn.shard, **_standing(standing_of(turn, queue))}
            for turn in islice(bucket.line, NEXT)
        ],
    }


def slowed_down(queue: Queue, now: float) -> dict[str, Any]:
    """How many shards are in a crash loop, and those with the longest wait."""
    restarting, last_day = queue.starts.restarting, queue.starts.last_day
    slowest = []
    for shard in islice(restarting.longest(now), LONGEST_SLOWED):
        record = last_day.of(shard, now)
        slowest.append(
            {
                "shard": shard,
                "level": restarting.level(shard, now),
                "eligible_in": _eligible_in(shard, queue, now),
                "starts": record.grants if record else 0,
            }
        )
    return {"shards": restarting.slowed(now), "longest": slowest}


def invalid_sessions(metrics: BotMetrics, now: float) -> dict[str, Any]:
    """The latest reports of op 9s, and the shards with the most of them."""
    news = [shard for at, shard in metrics.latest_invalid_sessions if at > now - NEWS]
    return {
        "reports": len(news),
        "shards": [
            {"shard": shard, "reports": reports}
            for shard, reports in Counter(news).most_common(MOST_INVALID)
        ],
    }


def _open_files_limit() -> int | None:
    """How many files the process may have open; each waiting connection needs one."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def _seat(turn: Turn, bucket: Bucket, queue: Queue) -> dict[str, Any]:
    return {
        "shard": turn.shard,
        "bucket": bucket.index,
        **_standing(standing_of(turn, queue)),
        "waited": _rounded(trio.current_time() - bucket.line.since(turn)),
    }


def _standing(standing: Standing) -> dict[str, Any]:
    return {
        "position": standing.position,
        "expected_in": standing.expected_in,
        "reason": standing.reason,
    }


def _eligible_in(shard: int | None, queue: Queue, now: float) -> float:
    return round(max(0.0, queue.starts.restarting.eligible_at(shard) - now), 3)


def _ends_in(until: float, now: float) -> float | None:
    return None if until == math.inf else _rounded(max(0.0, until - now))


def _rounded(seconds: float) -> float:
    return round(seconds, 3)
