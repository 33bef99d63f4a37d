"""Shards that ask our server for their turn, patiently, and again where they were cut off."""

from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import httpx
import trio
from background import background

GRANT = {"message": "You're free to connect now! :)"}
RETRY_INTERVAL = 0.02  # after a lost connection: a shard that comes back at once

# How much two answers may differ in their way to us, on a busy machine. Far less than the
# intervals that the tests use; the last microsecond is the matter of the tests of the rules.
LAG = 0.06


@dataclass(frozen=True, slots=True)
class Grant:
    """An answer, as its client saw it."""

    shard: int | None
    at: float


@dataclass(eq=False)
class Shards:
    client: httpx.AsyncClient
    nursery: trio.Nursery
    grants: list[Grant] = field(default_factory=list)
    _granted: trio.Event = field(default_factory=trio.Event)

    def ask(self, *shards: int | None) -> None:
        """Have each of them ask until it is granted; None names no shard."""
        for shard in shards:
            self.nursery.start_soon(self._ask, shard)

    async def granted(self, number: int, *, within: float = 20.0) -> list[Grant]:
        """All grants so far, once there are so many."""
        with trio.move_on_after(within):
            while len(self.grants) < number:
                await self._granted.wait()
            return self.grants
        raise AssertionError(f"{len(self.grants)} grants, not {number}, within {within} s")

    async def ready(self) -> tuple[int, str]:
        """What ``/readyz`` says."""
        response = await self.client.get("/readyz")
        return response.status_code, response.text

    async def _ask(self, shard: int | None) -> None:
        while True:
            try:
                answer = await self.client.get(
                    "/", params={} if shard is None else {"shard": shard}
                )
            except httpx.TransportError:
                await trio.sleep(RETRY_INTERVAL)
                continue
            self.grants.append(Grant(shard, trio.current_time()))
            assert (answer.status_code, answer.json()) == (200, GRANT)
            self._granted.set()
            self._granted = trio.Event()
            return


@asynccontextmanager
async def shards(url: str) -> AsyncIterator[Shards]:
    """Shards of a bot whose queue is at ``url``; they stop asking at the end of the block."""
    boundless = httpx.Limits(max_connections=None)
    async with (
        httpx.AsyncClient(base_url=url, timeout=None, limits=boundless) as client,  # noqa: S113
        background() as nursery,
    ):
        yield Shards(client, nursery)


def gaps(grants: list[Grant], key: Callable[[int], int] = lambda _: 0) -> list[float]:
    """The seconds between one grant and the next of its rate limit key."""
    times = defaultdict(list)
    for grant in sorted(grants, key=lambda grant: grant.at):
        assert grant.shard is not None
        times[key(grant.shard)].append(grant.at)
    return [later - earlier for same in times.values() for earlier, later in pairwise(same)]
