"""Runs a replica: its membership, its doorman and, while it leads, its desk."""

from collections.abc import Awaitable, Callable

import trio

from gateway_queue.replicas.desk import Bots, Desk
from gateway_queue.replicas.doorman import Doorman
from gateway_queue.replicas.engine import Engine, Led
from gateway_queue.replicas.journal import Journals
from gateway_queue.replicas.membership import Replica


async def be_a_replica(
    bots: Bots,
    *,
    url: str,
    base: str,
    name: str,
    about: str,
    serve: Callable[[Journals], Awaitable[None]],
    started: Callable[[Doorman], None],
) -> None:
    """Be one of several replicas, forever.

    ``serve`` creates the bots and runs their tasks for as long as this replica leads.
    """
    async with Engine.at(url, base) as engine:
        replica = Replica(name, engine, about)
        doorman = replica.doorman = Doorman(replica)
        started(doorman)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(doorman.run)
            await replica.run(_Office(replica, bots, serve))


class _Office:
    """What this replica does while it leads."""

    def __init__(
        self, replica: Replica, bots: Bots, serve: Callable[[Journals], Awaitable[None]]
    ) -> None:
        self._replica = replica
        self._bots = bots
        self._serve = serve

    def open(self, term: int) -> Desk:
        """Get ready for the messages of this term, in case it begins."""
        return Desk(self._replica, term, self._bots)

    async def lead(self, led: Led) -> None:
        """Lead for a term."""
        desk = self._replica.desk
        assert isinstance(desk, Desk)  # noqa: S101 - it was opened here
        try:
            await self._replica.heard_all()
            journals = await Journals.open(desk, led)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(journals.run)
                nursery.start_soon(self._serve, journals)
                try:
                    await desk.run()
                finally:
                    desk.close()  # before the buckets end: they wait for their offers
        finally:
            desk.close()
