"""The grants of a term that were offered to replicas, until it is known what became of them."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import trio

from gateway_queue.queue.ledger import Fate
from gateway_queue.queue.rules.heard import WINDOW
from gateway_queue.replicas.post import AGAIN

# How long a replica has to take an offer, in seconds, before the next client is considered.
OFFER = 0.75

Step = Callable[..., Awaitable[Any]]


@dataclass(slots=True)
class _Offer:
    taken_at: float | None = None
    is_refused: bool = False
    fate: Fate = "unknown"
    news: trio.Event = field(default_factory=trio.Event)

    def change(self) -> None:
        self.news.set()
        self.news = trio.Event()


class Offers:
    """Makes offers, and waits for their outcome.

    ``step`` executes a step of the engine in this term; its answer is None if it is unknown
    whether that was done. After `close`, the answers of its methods do not matter.
    """

    def __init__(self, step: Step) -> None:
        self.is_closed = False
        self._step = step
        self._offers: dict[str, _Offer] = {}
        self._settled: list[str] = []

    def close(self) -> None:
        """Wait for nothing any more."""
        self.is_closed = True
        for offer in self._offers.values():
            offer.change()

    def pop_settled(self) -> list[str]:
        """The offers that the engine may forget, each once."""
        settled, self._settled = self._settled, []
        return settled

    def has(self, name: str) -> bool:
        """Whether the outcome of an offer is still waited for."""
        return name in self._offers

    def hear(self, event: dict[str, Any], now: float) -> bool:
        """Handle an event; False if it is about an offer that is not waited for."""
        offer = self._offers.get(event.get("offer", ""))
        if offer is None:
            return False
        match event["what"]:
            case "taken":
                offer.taken_at = now
            case "written":
                offer.fate = "given"
            case "given_back":
                offer.fate = "given_back"
        offer.change()
        return True

    def refuse(self, name: str) -> None:
        """The replica says that it will not take it."""
        if offer := self._offers.get(name):
            offer.is_refused = True
            offer.change()

    async def make(self, name: str, to: str, entry: str) -> Literal["taken", "refused", "ignored"]:
        """Offer a grant to a replica, and wait until it is taken or never will be."""
        offer = self._offers[name] = _Offer()
        was_made = await self._step("offer", offer=name, to=to, entry=entry) is not None
        with trio.move_on_after(OFFER):
            while offer.taken_at is None and not offer.is_refused and not self.is_closed:
                await offer.news.wait()
        if offer.taken_at is None and await self._withdraw(name):
            with trio.move_on_after(WINDOW):
                while offer.taken_at is None and not self.is_closed:
                    await offer.news.wait()
            offer.taken_at = offer.taken_at or trio.current_time()
        if offer.taken_at is not None:
            return "taken"
        if was_made:
            self._settled.append(name)
        del self._offers[name]
        return "refused" if offer.is_refused else "ignored"

    async def fate(self, name: str) -> Fate:
        """The outcome of an offer that was taken."""
        offer = self._offers[name]
        assert offer.taken_at is not None  # noqa: S101 - the caller knows
        with trio.CancelScope(deadline=offer.taken_at + WINDOW):
            while offer.fate == "unknown" and not self.is_closed:
                await offer.news.wait()
        del self._offers[name]
        self._settled.append(name)
        return offer.fate

    async def _withdraw(self, name: str) -> bool:
        """Make sure that an offer is not taken any more; True if it was."""
        while not self.is_closed:
            answer = await self._step("withdraw", offer=name)
            if answer is not None:
                return bool(answer["taken"])
            await trio.sleep(AGAIN)
        return False
