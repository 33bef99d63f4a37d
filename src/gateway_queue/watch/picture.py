"""The picture of a queue for the operator's page: its figures, and one letter for each shard.

It is made from scratch each time, so that nothing needs to report changes, and in slices, so
that no grant has to wait for all of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import trio

from gateway_queue import __version__
from gateway_queue.queue.queue import Queue
from gateway_queue.queue.standing import all_in_in, others_in_in
from gateway_queue.watch.metrics import BotMetrics
from gateway_queue.watch.status import (
    NEWS,
    invalid_sessions,
    limits_of,
    longest,
    pace,
    paused,
    replicas,
    slowed_down,
)

T = TypeVar("T")

# What a shard is doing, as a letter.
NOT_ASKED = b"."
LET_IN, JUST_LET_IN, INVALID_SESSION, WAITING, NEXT, SLOWED_DOWN, AWAY = b"ijxwnca"

# A shard counts as just let in for this many seconds: about two turns of its bucket.
JUST = 10.0

# Shards with higher numbers are not shown. The largest bots have half as many.
MOST_SHARDS = 20_000

# Shards and buckets processed in one go: delays grants by a millisecond at most.
SLICE = 1_000
BUCKETS_SLICE = 16

MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class Picture:
    """``shards``: a letter for each shard; ``beside``: how many wait that have no letter."""

    shards: bytes
    beside: int


async def paint(queue: Queue, metrics: BotMetrics) -> Picture:
    """Paint the shards as they are now. Later letters overwrite earlier ones."""
    letters = bytearray(NOT_ASKED) * MOST_SHARDS
    await _paint_granted(letters, queue)
    _paint_invalid_sessions(letters, queue, metrics)
    beside = await _paint_lines(letters, queue)
    expected = min(queue.gateway.shards, MOST_SHARDS) if queue.gateway else 0
    return Picture(bytes(letters.rstrip(NOT_ASKED).ljust(expected, NOT_ASKED)), beside)


async def _paint_granted(letters: bytearray, queue: Queue) -> None:
    last_day, now = queue.starts.last_day, trio.current_time()
    for granted in slices(last_day.all(now)):
        for shard in granted:
            if shard is not None and shard < MOST_SHARDS:
                letters[shard] = LET_IN
        await trio.lowlevel.checkpoint()
    for shard in last_day.since(now - JUST):
        if shard is not None and shard < MOST_SHARDS:
            letters[shard] = JUST_LET_IN


def _paint_invalid_sessions(letters: bytearray, queue: Queue, metrics: BotMetrics) -> None:
    """Paint op 9s: the last thing known about a shard, until it is granted again."""
    now = trio.current_time()
    for at, shard in metrics.latest_invalid_sessions:
        if at > now - NEWS and shard < MOST_SHARDS:
            record = queue.starts.last_day.of(shard, now)
            if record is not None and record.latest_at <= at:
                letters[shard] = INVALID_SESSION


async def _paint_lines(letters: bytearray, queue: Queue) -> int:
    """Paint the shards that wait or are away; returns how many wait that have no letter."""
    now = trio.current_time()
    beside = looked_at = 0
    for bucket in queue.buckets:
        for places in slices(bucket.line.places()):
            for place in places:
                shard = place.shard
                if shard is None or shard >= MOST_SHARDS:
                    beside += len(place.requests)
                elif not place.requests:
                    letters[shard] = AWAY
                else:
                    letters[shard] = SLOWED_DOWN if place.aside_until > now else WAITING
            looked_at += len(places)
            if looked_at >= SLICE:
                looked_at = 0
                await trio.lowlevel.checkpoint()
        turn = bucket.line.next(now)
        if turn is not None and turn.shard is not None and turn.shard < MOST_SHARDS:
            letters[turn.shard] = NEXT
    return beside


async def summarize(queue: Queue, metrics: BotMetrics) -> dict[str, Any]:
    """The figures; those that are also in ``/status`` have the same names and meanings."""
    starts, interval = queue.starts, queue.spacing.interval
    buckets: list[list[Any]] = []  # waiting, away, opens in, all in in
    others_in: list[float | None] = []
    for some in slices(queue.buckets, BUCKETS_SLICE):
        for bucket in some:
            line, opens_in = bucket.line, max(0.0, bucket.pace.opens_at - trio.current_time())
            all_in = all_in_in(bucket, queue)
            buckets.append([line.waiting, line.away, round(opens_in, 1), all_in])
            others_in.append(others_in_in(bucket, queue))
        await trio.lowlevel.checkpoint()
    now = trio.current_time()
    waiting = sum(bucket[0] for bucket in buckets)
    return {
        "version": __version__,
        "uptime": round(now - queue.started_at, 1),
        "obstacle": "ending" if queue.ending else starts.obstacle(now),
        "paused": paused(queue, now),
        "limits": limits_of(queue, now),
        "back_in": round(starts.back_in(now), 1) if starts.allowance.known else None,
        "pace": {
            **pace(queue, now),
            "granted": sum(1 for _ in starts.last_day.since(now - MINUTE)),
            "possible": round(len(queue.buckets) * MINUTE / interval, 1),
        },
        "waiting": waiting,
        "away": sum(bucket[1] for bucket in buckets),
        "covered": min(waiting, starts.left(now)),
        "all_in_in": longest(bucket[3] for bucket in buckets),
        "others_in_in": longest(others_in),
        "recommended_shards": queue.gateway.shards if queue.gateway else None,
        "buckets": buckets,
        "slowed_down": slowed_down(queue, now),
        "invalid_sessions": invalid_sessions(metrics, now),
        "replicas": replicas(queue),
    }


def changes(before: bytes, after: bytes) -> dict[str, list[int]]:
    """The shards that changed, by their new letter; empty if the number of shards changed."""
    if len(before) != len(after):
        return {}
    found: dict[str, list[int]] = {}
    for first in range(0, len(after), SLICE):
        old, new = before[first : first + SLICE], after[first : first + SLICE]
        if old != new:
            for shard, (was, is_) in enumerate(zip(old, new, strict=True), start=first):
                if was != is_:
                    found.setdefault(chr(is_), []).append(shard)
    return found


def slices(items: Sequence[T], size: int = SLICE) -> Iterator[Sequence[T]]:
    """Split a sequence into slices of at most ``size``."""
    for first in range(0, len(items), size):
        yield items[first : first + size]
