"""Shards that ask our server for their turn, patiently, and again where they were cut off."""

import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise

import httpx
import trio
from background import background
from instants import dial
from patience import PATIENCE

GRANT = {"message": "You're free to connect now! :)"}
RETRY_INTERVAL = 0.02  # after a lost connection: a shard that comes back at once


@dataclass(frozen=True, slots=True)
class Grant:
    """``at``: when its client's kernel received it."""

    shard: int | None
    at: float


@dataclass(eq=False)
class Shards:
    url: str
    client: httpx.AsyncClient  # for other pages
    nursery: trio.Nursery
    grants: list[Grant] = field(default_factory=list)
    _granted: trio.Event = field(default_factory=trio.Event)

    def ask(self, *shards: int | None) -> None:
        """Have each of them ask until it is granted; None names no shard."""
        for shard in shards:
            self.nursery.start_soon(self._ask, shard)

    async def granted(self, number: int) -> list[Grant]:
        """All grants so far, once there are so many."""
        with trio.move_on_after(PATIENCE):
            while len(self.grants) < number:
                await self._granted.wait()
            return self.grants
        raise AssertionError(f"{len(self.grants)} grants, not {number}, within {PATIENCE} s")

    async def ready(self) -> tuple[int, str]:
        """What ``/readyz`` says."""
        response = await self.client.get("/readyz")
        return response.status_code, response.text

    async def _ask(self, shard: int | None) -> None:
        query = "" if shard is None else f"?shard={shard}"
        request = f"GET /{query} HTTP/1.1\r\nHost: queue\r\nConnection: close\r\n\r\n".encode()
        while True:
            with suppress(OSError, trio.BrokenResourceError):
                async with await dial(self.url) as stream:
                    await stream.send_all(request)
                    if answer := b"".join([part async for part in stream]):
                        self._hear(shard, answer, stream.at)
                        return
            await trio.sleep(RETRY_INTERVAL)

    def _hear(self, shard: int | None, answer: bytes, at: float) -> None:
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), answer
        assert json.loads(body) == GRANT
        self.grants.append(Grant(shard, at))
        self._granted.set()
        self._granted = trio.Event()


@asynccontextmanager
async def shards(url: str) -> AsyncIterator[Shards]:
    """Shards of a bot whose queue is at ``url``; they stop asking at the end of the block."""
    async with (
        httpx.AsyncClient(base_url=url, timeout=PATIENCE) as client,
        background() as nursery,
    ):
        yield Shards(url, client, nursery)


def gaps(grants: list[Grant], key: Callable[[int], int] = lambda _: 0) -> list[float]:
    """The seconds between one grant and the next of its rate limit key."""
    times = defaultdict(list)
    for grant in sorted(grants, key=lambda grant: grant.at):
        assert grant.shard is not None
        times[key(grant.shard)].append(grant.at)
    return [later - earlier for same in times.values() for earlier, later in pairwise(same)]
