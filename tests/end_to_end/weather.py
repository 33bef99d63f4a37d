"""What can go wrong in a storm, drawn from a seed.

Two times of three a fault comes alone, and it is seen how long the buckets need to go on.
Otherwise several come, each of them before those before it are over.
"""

import signal
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from random import Random

import httpx
import trio
from clocks import LIBRARY, Clock
from coredis import PureToken
from coredis.exceptions import RedisError
from engines import Server
from harness import free_port
from house import OPERATOR_KEY, House, Replica
from links import Link
from witness import Fault

# So many seconds a bucket may take to go on before the next fault comes.
GOES_ON_WITHIN = 10.0

# Seconds by which clocks are wrong: within a second, a minute, an hour, a day and more.
STEPS = (-90_000.0, -3_600.0, -70.0, -5.0, -0.7, 0.7, 5.0, 70.0, 3_600.0, 90_000.0)

# Discord's answers; each divides those before it.
MAX_CONCURRENCIES = (16, 8, 4)

# For how many seconds an order is given again that is not taken.
ORDER_WITHIN = 6.0


@dataclass
class Engines:
    """The engine that is used, and how another one is had, with its clock."""

    engine: Server
    clock: Clock
    another: Callable[[], tuple[Server, Clock]]

    async def replace(self, links: list[Link], rng: Random) -> None:
        """Promote a replica of it that has missed something.

        The links lead there one after the other. Until the last of them does, the old one may go
        on, and has to refuse by itself to be written to.
        """
        old = self.engine
        new, clock = self.another()
        await new.start()
        bridge = Link(free_port(), old.socket)
        async with trio.open_nursery() as nursery:
            await nursery.start(bridge.run)
            await new.follow(bridge.port)
            await old.insist_on_a_replica(lag=2)
            bridge.cut()
            await trio.sleep(rng.uniform(0, 1.5))
            await new.promote()
            nursery.cancel_scope.cancel()
        if rng.random() < 0.5:
            old.kill()
        rng.shuffle(links)
        for link in links:
            link.lead_to(new.socket)
            await trio.sleep(rng.uniform(0, 1))
        old.kill()
        self.engine, self.clock = new, clock


@dataclass
class Weather:
    house: House
    engines: Engines
    rng: Random
    _engine_is_struck: trio.Lock = field(default_factory=trio.Lock)
    _links_are_struck: trio.Lock = field(default_factory=trio.Lock)

    async def rage(self, until: float, kinds: Mapping[str, "Deed"]) -> None:
        """Have faults happen for so long."""
        single, several = deck(self.rng, kinds), deck(self.rng, kinds)
        while trio.current_time() < until:
            if self.rng.random() < 2 / 3:
                names = [next(single)]
            else:
                names = [next(several) for _ in range(self.rng.randint(2, 4))]
            async with trio.open_nursery() as nursery:
                for name in names:
                    nursery.start_soon(self._happen, name, kinds[name], self.rng.random())
                    await trio.sleep(self.rng.uniform(0.1, 1.5))
            await self.house.witness.all_went_on(GOES_ON_WITHIN)

    async def _happen(self, name: str, deed: "Deed", seed: float) -> None:
        fault = self.house.witness.begin(name)
        await deed(self, fault, Random(seed))  # noqa: S311 - so that it can be had again
        fault.end()

    # Replicas -------------------------------------------------------------------------

    async def kill(self, fault: Fault, rng: Random, *, leader: bool = False) -> None:
        with self._one(fault, rng, leader=leader) as one:
            await self.house.kill(one)
            await trio.sleep(rng.uniform(0, 1))
            await self.house.start(one)

    async def roll(self, fault: Fault, rng: Random, *, leader: bool = False) -> None:
        with self._one(fault, rng, leader=leader) as one:
            await self.house.end(one)
            await self.house.start(one)

    async def stop(self, fault: Fault, rng: Random, *, leader: bool = False) -> None:
        with self._one(fault, rng, leader=leader) as one:
            await _stop(one, rng.uniform(0.3, 3))

    async def flicker(self, fault: Fault, rng: Random, *, leader: bool = False) -> None:
        with self._one(fault, rng, leader=leader) as one:
            for _ in range(8):
                await _stop(one, rng.uniform(0.1, 0.6))
                await trio.sleep(rng.uniform(0.05, 0.3))

    async def set_clock(self, fault: Fault, rng: Random, *, leader: bool = False) -> None:
        with self._one(fault, rng, leader=leader) as one:
            one.clock.set(rng.choice(STEPS))

    @contextmanager
    def _one(self, fault: Fault, rng: Random, *, leader: bool) -> Iterator[Replica]:
        """A replica to which nothing happens yet. The others go on meanwhile."""
        whole = [one for one in self.house.replicas if one.program and not one.is_struck]
        wanted = self.house.leader
        one = wanted if leader and wanted in whole else rng.choice(whole)
        fault.goes_on_at = fault.at
        one.is_struck = True
        try:
            yield one
        finally:
            one.is_struck = False

    # The engine -----------------------------------------------------------------------

    async def kill_engine(self, _: Fault, rng: Random) -> None:
        async with self._engine_is_struck:
            self.engines.engine.kill()
            await trio.sleep(rng.uniform(0, 1))
            await self.engines.engine.start()

    async def stop_engine(self, _: Fault, rng: Random) -> None:
        async with self._engine_is_struck:
            self.engines.engine.signal(signal.SIGSTOP)
            await trio.sleep(rng.uniform(0.3, 4))
            self.engines.engine.signal(signal.SIGCONT)

    async def flush(self, _: Fault, __: Random) -> None:
        async with self._engine_is_struck:
            await self.engines.engine.flush()

    async def evict(self, _: Fault, rng: Random) -> None:
        async with self._engine_is_struck, self.engines.engine.client() as client:
            keys = sorted(await client.keys("gateway-queue:*"))
            if keys:
                await client.delete(rng.sample(keys, rng.randint(1, len(keys))))

    async def end_scripts(self, _: Fault, rng: Random) -> None:
        async with self._engine_is_struck, self.engines.engine.client() as client:
            for _number in range(20):
                with suppress(RedisError):  # none runs
                    await client.script_kill()
                await client.script_flush()
                await trio.sleep(rng.uniform(0, 0.05))

    async def pause_clients(self, _: Fault, rng: Random) -> None:
        async with self._engine_is_struck, self.engines.engine.client() as client:
            seconds = rng.uniform(0.3, 3)
            milliseconds = round(seconds * 1000)
            if rng.random() < 0.5:
                await client.client_pause(milliseconds, PureToken.WRITE)
            else:
                await client.client_pause(milliseconds, PureToken.ALL)
            await trio.sleep(seconds)

    async def kill_clients(self, _: Fault, rng: Random) -> None:
        async with self._engine_is_struck, self.engines.engine.client() as client:
            for _number in range(rng.randint(1, 5)):
                await client.client_kill(type_=PureToken.NORMAL, skipme=True)
                await trio.sleep(rng.uniform(0, 0.5))

    async def replace_engine(self, _: Fault, rng: Random) -> None:
        async with self._engine_is_struck, self._links_are_struck:
            await self.engines.replace([one.link for one in self.house.replicas], rng)

    async def set_engines_clock(self, _: Fault, rng: Random) -> None:
        async with self._engine_is_struck:
            self.engines.clock.set(rng.choice(STEPS))

    # The links to it ------------------------------------------------------------------

    async def lose_replies(self, _: Fault, rng: Random) -> None:
        async with self._links_are_struck:
            links = self._some_links(rng)
            for link in links:
                link.loses_replies = True
            await _mend_later(links, rng.uniform(0.3, 3))

    async def delay_requests(self, _: Fault, rng: Random) -> None:
        async with self._links_are_struck:
            links = self._some_links(rng)
            for link in links:
                link.delay = rng.uniform(0.2, 3)
            await _mend_later(links, rng.uniform(1, 4))

    async def cut_links(self, _: Fault, rng: Random) -> None:
        async with self._links_are_struck:
            links = self._some_links(rng)
            for link in links:
                link.cut()
            await _mend_later(links, rng.uniform(0.3, 4))

    async def reset_links(self, _: Fault, rng: Random) -> None:
        async with self._links_are_struck:
            for _number in range(rng.randint(1, 8)):
                for link in self._some_links(rng):
                    link.reset()
                await trio.sleep(rng.uniform(0, 0.3))

    def _some_links(self, rng: Random) -> list[Link]:
        replicas = rng.sample(self.house.replicas, rng.randint(1, len(self.house.replicas)))
        return [one.link for one in replicas]

    # Discord --------------------------------------------------------------------------

    async def change_buckets(self, fault: Fault, rng: Random) -> None:
        fault.goes_on_at = fault.at
        discord = self.house.discord
        others = [n for n in MAX_CONCURRENCIES if n != discord.max_concurrency]
        self.house.witness.replicas_heard(None)
        discord.max_concurrency = rng.choice(others)
        key = {"Authorization": f"Bearer {OPERATOR_KEY}"}
        async with httpx.AsyncClient(headers=key, timeout=1.0) as client:
            with trio.move_on_after(ORDER_WITHIN):
                while not await _is_ordered(client, rng.choice(self.house.replicas)):  # noqa: ASYNC110
                    await trio.sleep(0.2)


async def _stop(one: Replica, seconds: float) -> None:
    assert one.program is not None
    one.program.process.send_signal(signal.SIGSTOP)
    await trio.sleep(seconds)
    one.program.process.send_signal(signal.SIGCONT)


async def _mend_later(links: list[Link], seconds: float) -> None:
    await trio.sleep(seconds)
    for link in links:
        link.mend()


async def _is_ordered(client: httpx.AsyncClient, one: Replica) -> bool:
    """Have the limits be read at once, by way of one of the replicas."""
    with suppress(httpx.HTTPError):
        answer = await client.post(f"http://127.0.0.1:{one.port}/operator/limits/read")
        return answer.is_success
    return False


def deck(rng: Random, kinds: Mapping[str, object]) -> Iterator[str]:
    """All of them in a random order, then all of them again, and so on."""
    names = sorted(kinds)
    while True:
        yield from rng.sample(names, len(names))


Deed = Callable[[Weather, Fault, Random], Awaitable[None]]

DEEDS: dict[str, Deed] = {
    "replica killed": Weather.kill,
    "leader killed": partial(Weather.kill, leader=True),
    "replica stopped": Weather.stop,
    "leader stopped": partial(Weather.stop, leader=True),
    "replica flickers": Weather.flicker,
    "leader flickers": partial(Weather.flicker, leader=True),
    "replica rolled": Weather.roll,
    "leader rolled": partial(Weather.roll, leader=True),
    "engine killed": Weather.kill_engine,
    "engine stopped": Weather.stop_engine,
    "engine flushed": Weather.flush,
    "engine evicts keys": Weather.evict,
    "engine drops scripts": Weather.end_scripts,
    "engine pauses": Weather.pause_clients,
    "engine drops clients": Weather.kill_clients,
    "engine replaced": Weather.replace_engine,
    "replies lost": Weather.lose_replies,
    "requests delayed": Weather.delay_requests,
    "links cut": Weather.cut_links,
    "links reset": Weather.reset_links,
    "max_concurrency changed": Weather.change_buckets,
}
CLOCKS: dict[str, Deed] = {
    "replica's clock set": Weather.set_clock,
    "engine's clock set": Weather.set_engines_clock,
}


def kinds_at(engine: str) -> dict[str, Deed]:
    """What can happen with an engine of this kind."""
    # Redis as Debian has it does not start with libfaketime: jemalloc asks for the time too early.
    set_clocks = {
        name: deed
        for name, deed in CLOCKS.items()
        if LIBRARY is not None and (engine == "valkey" or name != "engine's clock set")
    }
    return DEEDS | set_clocks
