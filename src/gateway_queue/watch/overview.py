"""What operators may see of several bots at a glance, as JSON."""

import json
from collections.abc import Mapping
from typing import Any, Protocol

import trio

from gateway_queue import __version__
from gateway_queue.queue.queue import Queue
from gateway_queue.watch.status import limits_of

# Bots looked at in one go.
PORTION = 50


class Bot(Protocol):
    @property
    def queue(self) -> Queue: ...
    def why_not_ready(self) -> str | None: ...


class Guests(Protocol):
    @property
    def guests(self) -> int: ...


class Bots(Protocol):
    """All bots, as far as they can be seen from here."""

    @property
    def by_name(self) -> Mapping[str, Bot]: ...
    @property
    def faults(self) -> Mapping[str, str]: ...
    @property
    def lobby(self) -> Guests: ...
    def why_not_ready(self) -> str | None: ...


async def page(bots: Bots) -> bytes:
    """The body of ``/status`` where there are several bots."""
    found = []
    for number, (name, bot) in enumerate(sorted(bots.by_name.items()), start=1):
        found.append(_bot(name, bot))
        if number % PORTION == 0:
            await trio.lowlevel.checkpoint()
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


def _bot(name: str, bot: Bot) -> dict[str, Any]:
    now = trio.current_time()
    queue = bot.queue
    return {
        "name": name,
        "ready": bot.why_not_ready() is None,
        "obstacle": "ending" if queue.ending else queue.starts.obstacle(now),
        "waiting": sum(bucket.line.waiting for bucket in queue.buckets),
        "away": sum(bucket.line.away for bucket in queue.buckets),
        "slowed_down": queue.starts.restarting.slowed(now),
        "granted": queue.starts.last_day.granted(now),
        "limits": limits_of(queue, now),
    }
