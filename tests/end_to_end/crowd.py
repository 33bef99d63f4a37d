"""Others in the line of our server, and what its log says of shards that wait there."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

import httpx
import trio
from background import background
from harness import Program
from shards import shards


def grants(queue: Program, of: Collection[int]) -> list[int]:
    """These shards, in order of their numbers and each as often as it was granted."""
    granted = (line["shard"] for line in queue.logged_so_far("identify_granted"))
    return sorted(shard for shard in granted if shard in of)


async def granted(queue: Program, of: Collection[int], number: int) -> list[int]:
    """As ``grants``, once there are so many: a grant is logged after its answer was sent."""
    await queue.until(lambda: len(grants(queue, of)) >= number, f"{number} grants")
    return grants(queue, of)


async def gone(queue: Program, ids: Collection[int], *, within: float) -> None:
    """Wait until none of these shards is seen waiting."""
    async with httpx.AsyncClient() as client:
        with trio.fail_after(within):
            while True:
                pages = [await client.get(f"{queue.url}/status/shards/{id_}") for id_ in ids]
                if not any(page.json().get("state") == "waiting" for page in pages):
                    return
                await trio.sleep(0.01)


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
