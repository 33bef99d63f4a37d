"""Others in the line of our server, and what its log says of shards that wait there."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

import httpx
import trio
from background import background
from harness import Program
from shards import shards

PATIENCE = 40.0  # seconds


async def said(program: Program, event: str, times: int = 1, **fields: Any) -> None:
    """Wait until it has said so, so often."""
    with trio.fail_after(PATIENCE):
        while len(program.logged_so_far(event, **fields)) < times:
            assert program.returncode is None, f"ended without {event!r} {fields}"
            await trio.sleep(0.01)


def grants(queue: Program, of: Collection[int]) -> list[int]:
    """These shards, in order of their numbers and each as often as it was granted."""
    granted = (line["shard"] for line in queue.logged_so_far("identify_granted"))
    return sorted(shard for shard in granted if shard in of)


async def granted(queue: Program, of: Collection[int], number: int) -> list[int]:
    """As ``grants``, once there are so many: a grant is logged after its answer was sent."""
    with trio.move_on_after(PATIENCE):
        while len(grants(queue, of)) < number:  # noqa: ASYNC110 (as in ``said``)
            await trio.sleep(0.01)
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
                await said(queue, "identify_queued", shard=shard)
            task_status.started(standing)
            await trio.sleep_forever()
