"""Others in the line of our server, and what its log says of shards that wait there."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

import trio
from background import background
from harness import Program
from instants import logged_at
from shards import shards

AT_ONCE = 2.0  # seconds; for what a bot does at once
WAITS = {"identify_queued", "identify_returned"}


def grants(queue: Program, of: Collection[int]) -> list[int]:
    """These shards, in order of their numbers and each as often as it was granted."""
    granted = (line["shard"] for line in queue.logged_so_far("identify_granted"))
    return sorted(shard for shard in granted if shard in of)


async def granted(queue: Program, of: Collection[int], number: int) -> list[int]:
    """As ``grants``, once there are so many: a grant is logged after its answer was sent."""
    await queue.until(lambda: len(grants(queue, of)) >= number, f"{number} grants")
    return grants(queue, of)


async def gone(
    queue: Program, ids: Collection[int], *, since: float, within: float = AT_ONCE
) -> None:
    """Wait until none of these shards waits; fail if the last of them left later than that.

    Their clients have ended: one that asks again and again is away now and then.
    """

    def latest() -> list[dict[str, Any]]:
        of_shards = {
            line["shard"]: line
            for line in queue.log
            if line["event"].startswith("identify_") and line["shard"] in ids
        }
        return list(of_shards.values())

    def nobody_waits() -> bool:
        return not any(line["event"] in WAITS for line in latest())

    await queue.until(nobody_waits, "end of waiting")
    assert max(map(logged_at, latest())) - since < within


@asynccontextmanager
async def in_line(queue: Program, ids: Collection[int]) -> AsyncIterator[trio.CancelScope]:
    """Have these shards stand in the line during the block, or until the scope is cancelled."""
    async with background() as nursery:
        yield await nursery.start(_stand_in_line, queue, ids)


async def _stand_in_line(
    queue: Program,
    ids: Collection[int],
    task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED,
) -> None:
    with trio.CancelScope() as standing:
        async with shards(queue.url) as line:
            line.ask(*ids)
            for shard in ids:
                await queue.logged("identify_queued", shard=shard)
            task_status.started(standing)
            await trio.sleep_forever()
