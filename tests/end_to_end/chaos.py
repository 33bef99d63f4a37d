"""Several replicas in a storm: a crowd asks them, while they and all they need are struck.

Clients ask again and again through a real HAProxy, where one is installed; some leave and come
back, and some confirm. `weather.py` has what goes wrong, `witness.py` what must hold.
"""

import random
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from itertools import count
from math import inf
from pathlib import Path

import trio
from background import background
from clocks import Clock
from engines import Server, servers
from fake_discord import fake_discord
from house import House, Replica
from instants import EXACT, StampedStream, dial
from proxies import HAPROXY, balancer
from weather import MAX_CONCURRENCIES, Deed, Engines, Weather
from witness import Grant, Rules, Witness

INTERVAL = 0.5
BUCKETS = max(MAX_CONCURRENCIES)
REPLICAS = 5

# On a busy machine HAProxy may pass on one answer by so much later than another.
PASSED_ON = 0.05

# Seconds after the last fault in which clients still come.
CALM = 10.0

# Seconds in which everybody is to be granted after that.
ALL_IN = 90.0


class Crowd:
    """Clients that ask for their shards, again and again, until the storm is over."""

    def __init__(self, witness: Witness, queues: list[str], rng: random.Random) -> None:
        self.witness = witness
        self.is_over = False
        self._queues = queues
        self._rng = rng

    async def ask(self, shard: int) -> None:
        while True:
            await trio.sleep(self._rng.uniform(0, 8))
            if self.is_over:
                return
            grant = Grant(shard, time.time(), confirms=self._rng.random() < 0.2)
            self.witness.waiting[shard] = grant.asked_at
            while not grant.at:
                await self._ask_once(grant)
            del self.witness.waiting[shard]
            self.witness.grants.append(grant)
            if grant.confirms and self._rng.random() < 0.8:
                await self._confirm(grant)

    async def _ask_once(self, grant: Grant) -> None:
        leaves = not self.is_over and self._rng.random() < 0.25
        confirm = "&confirm=true" if grant.confirms else ""
        with (
            trio.move_on_after(self._rng.uniform(0.2, 3) if leaves else inf),
            suppress(OSError, trio.BrokenResourceError),
        ):
            async with await self._request(f"GET /?shard={grant.shard}{confirm}") as stream:
                grant.sent_at = min(grant.sent_at, time.time())
                answer = await stream.receive_some()
                if answer.startswith(b"HTTP/1.1 200"):
                    grant.at = stream.at
                    grant.number = number_of(answer)
                    return
        grant.has_stayed = False
        await trio.sleep(self._rng.uniform(0.05, 0.5))

    async def _confirm(self, grant: Grant) -> None:
        """Confirm a grant, by way of whichever replica."""
        await trio.sleep(self._rng.uniform(0, 0.3))
        what = f"POST /confirm?shard={grant.shard}&grant={grant.number}"
        grant.confirmed_at = time.time()
        with trio.move_on_after(1), suppress(OSError, trio.BrokenResourceError):
            async with await self._request(what) as stream:
                await stream.receive_some()

    async def _request(self, what: str) -> StampedStream:
        stream = await dial(self._rng.choice(self._queues))
        # With this header, a request goes through Hypercorn.
        more = self._rng.choice(["", "Content-Length: 0\r\n"])
        await stream.send_all(f"{what} HTTP/1.1\r\nHost: q\r\n{more}\r\n".encode())
        return stream


def number_of(answer: bytes) -> int:
    """The number of the grant, which a head says that came in one piece."""
    _, _, after = answer.lower().partition(b"x-gateway-queue-grant: ")
    return int(after.partition(b"\r")[0])


async def storm(
    kind: str,
    folder: Path,
    seed: str,
    seconds: float,
    *options: str,
    kinds: Mapping[str, Deed],
    shards: int = 300,
    proxied: bool = True,
    changes: tuple[str, ...] = (),
) -> Witness:
    """Let it rage for so many seconds, and then see whether everybody gets in.

    ``proxied``: clients come through HAProxy, where it is installed.
    """
    proxied = proxied and HAPROXY.path is not None
    exact = EXACT + PASSED_ON if proxied else EXACT
    witness = Witness(Rules(INTERVAL, 2 * INTERVAL, 1.06 * INTERVAL, exact), BUCKETS)
    async with AsyncExitStack() as stack:
        make, numbers = stack.enter_context(servers(folder)), count()

        def another() -> tuple[Server, Clock]:
            clock = Clock(folder / f"engine-{next(numbers)}.clock")
            return make(kind, *options, environment=clock.environment), clock

        engines = Engines(*another(), another)
        await engines.engine.start()
        discord = await stack.enter_async_context(
            fake_discord(max_concurrency=BUCKETS, total=10**6, remaining=10**6)
        )
        nursery = await stack.enter_async_context(background())
        replicas = [Replica(f"r{n}", engines.engine, folder) for n in range(REPLICAS)]
        house = House(replicas, discord, witness, nursery, changes)
        await house.open()
        queues = [f"http://127.0.0.1:{one.port}" for one in replicas]
        if proxied:
            ports = [one.port for one in replicas]
            queues = [await stack.enter_async_context(balancer(ports, folder))]
        crowd = Crowd(witness, queues, _random(f"{seed} crowd"))
        asking = await stack.enter_async_context(background())
        for shard in range(shards):
            asking.start_soon(crowd.ask, shard)
        weather = Weather(house, engines, _random(f"{seed} weather"))
        await weather.rage(trio.current_time() + seconds, kinds)
        await trio.sleep(CALM)
        crowd.is_over = True
        with trio.move_on_after(ALL_IN):
            while witness.waiting:  # noqa: ASYNC110 - it tells nobody
                await trio.sleep(0.1)
        witness.lost = sorted(witness.waiting)
    return witness


def _random(seed: str) -> random.Random:
    return random.Random(seed)  # noqa: S311 - so that it can be had again
