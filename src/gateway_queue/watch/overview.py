"""An overview of several bots for operators, as JSON."""

import json
from collections.abc import Mapping
from typing import Any, Protocol

import trio

from gateway_queue import __version__
from gateway_queue.queue.queue import Queue
from gateway_queue.queue.standing import all_in_in, others_in_in
from gateway_queue.watch.picture import BUCKETS_SLICE, slices
from gateway_queue.watch.status import limits_of, longest, paused


class Bot(Protocol):
    @property
    def queue(self) -> Queue: ...
    def why_not_ready(self) -> str | None: ...


class Guests(Protocol):
    @property
    def guests(self) -> int: ...


class Bots(Protocol):
    """All bots, as far as this module needs to know them."""

    @property
    def by_name(self) -> Mapping[str, Bot]: ...
    @property
    def faults(self) -> Mapping[str, str]: ...
    @property
    def lobby(self) -> Guests: ...
    def why_not_ready(self) -> str | None: ...


async def page(bots: Bots) -> bytes:
    """The body of ``/status`` if there are several bots, which is also what their page shows."""
    found = [await _bot(name, bot) for name, bot in sorted(bots.by_name.items())]
    return json.dumps(
        {
            "version": __version__,
            "ready": bots.why_not_ready() is None,
            "waiting": sum(bot["waiting"] for bot in found),
            "unknown_bot_waiting": bots.lobby.guests,
            "bots": found,
            "faults": [{"file": file, "error": error} for file, error in bots.faults.items()],
        }
    ).encode()


async def _bot(name: str, bot: Bot) -> dict[str, Any]:
    queue, starts = bot.queue, bot.queue.starts
    all_in: list[float | None] = []
    others_in: list[float | None] = []
    for some in slices(queue.buckets, BUCKETS_SLICE):
        all_in += [all_in_in(bucket, queue) for bucket in some]
        others_in += [others_in_in(bucket, queue) for bucket in some]
        await trio.lowlevel.checkpoint()
    now = trio.current_time()
    waiting = sum(bucket.line.waiting for bucket in queue.buckets)
    return {
        "name": name,
        "ready": bot.why_not_ready() is None,
        "obstacle": "ending" if queue.ending else starts.obstacle(now),
        "paused": paused(queue, now),
        "waiting": waiting,
        "waiting_slowed": sum(bucket.line.aside for bucket in queue.buckets),
        "away": sum(bucket.line.away for bucket in queue.buckets),
        "covered": min(waiting, starts.left(now)),
        "all_in_in": longest(all_in),
        "others_in_in": longest(others_in),
        "slowed_down": starts.restarting.slowed(now),
        "granted": starts.last_day.granted(now),
        "shards": starts.last_day.shards(now),
        "recommended_shards": queue.gateway.shards if queue.gateway else None,
        "limits": limits_of(queue, now),
        "back_in": round(starts.back_in(now), 1) if starts.allowance.known else None,
    }
