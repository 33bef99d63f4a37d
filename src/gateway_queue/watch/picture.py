"""The picture of a queue that people watch: its figures, and one letter for each shard.

It is made anew each time from what the queue knows, so that nothing has to be told of changes,
and in slices, so that no grant waits for all of it.
"""

from collections.abc import Iterable, Iterator, Sequence
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
    pace,
    paused,
    slowed_down,
)

T = TypeVar("T")

# What a shard is doing, each a letter.
NOT_ASKED = b"."
LET_IN, JUST_LET_IN, INVALID_SESSION, WAITING, NEXT, SLOWED_DOWN, AWAY = b"ijxwnca"

# A shard was just let in for so many seconds: about two turns of its bucket.
JUST = 10.0

# Shards with higher numbers are not in the picture. Twice as many as the largest bots have.
MOST_SHARDS = 20_000

# Shards and buckets looked at in one go: at most a millisecond without a grant.
SLICE = 1_000
BUCKETS_SLICE = 16

MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class Picture:
    """``shards`` has a letter for each shard; ``beside``: those who wait and are not among them."""

    shards: bytes
    beside: int


async def paint(queue: Queue, metrics: BotMetrics) -> Picture:
    """The shards as they are now. What is painted later covers what was before."""
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
    """An op 9 is the last that is known of a shard, until it is granted again."""
    now = trio.current_time()
    for at, shard in metrics.latest_invalid_sessions:
        if at > now - NEWS and shard < MOST_SHARDS:
            record = queue.starts.last_day.of(shard, now)
            if record is not None and record.latest_at <= at:
                letters[shard] = INVALID_SESSION


async def _paint_lines(letters: bytearray, queue: Queue) -> int:
    """Paint those who wait or are away; returns how many wait that have no letter."""
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
    """The figures; those that ``/status`` has too have the same names and meaning."""
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
    }


def longest(lengths: Iterable[float | None]) -> float | None:
    """The longest of all, None if one of them is not known."""
    most = 0.0
    for length in lengths:
        if length is None:
            return None
        most = max(most, length)
    return most


def changes(before: bytes, after: bytes) -> dict[str, list[int]]:
    """Which shards are to have which letter; nothing where the numbers of shards differ."""
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
    """So many at a time."""
    for first in range(0, len(items), size):
        yield items[first : first + size]
