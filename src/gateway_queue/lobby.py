"""Where requests wait for bots that do not exist (yet, or any more).

Old clients would take any answer for permission, so these requests are held until the bot is
added. They have no seats. This module knows tasks and the trio clock, and only the names of
bots.
"""

import math
from collections.abc import Awaitable, Callable, Collection
from enum import Enum, auto

import structlog
import trio

from gateway_queue.queue.standing import Standing

log = structlog.get_logger()

# At most this many requests are held: anybody can ask for a bot that does not exist.
MOST_GUESTS = 1_000

# At most this many names get a warning, for the same reason.
MOST_WARNINGS = 1_000

# Guests called in one go, before other tasks get to run.
PORTION = 100


class Outcome(Enum):
    """How waiting in the lobby ended."""

    CALLED = auto()  # the bot was added
    PUT_OFF = auto()  # the client set `wait`, and must now be told to ask again
    LEFT = auto()  # the client hung up
    FULL = auto()  # there was no room


class Lobby:
    """All requests that wait for a bot that does not exist."""

    def __init__(self) -> None:
        self.ending = False
        self._here = 0
        self._elsewhere = 0
        # By the bot's name, in order of arrival: whether the guest set `wait`.
        self._guests: dict[str, dict[trio.CancelScope, bool]] = {}
        self._warned: set[str] = set()

    @property
    def guests(self) -> int:
        """How many requests wait for bots that do not exist."""
        return self._here + self._elsewhere

    def see_elsewhere(self, names: Collection[str]) -> None:
        """Take note of all requests that other replicas hold, by the bots that they name."""
        self._elsewhere = len(names)
        for name in names:
            self._warn(name)

    def standing(self, name: str) -> Standing:
        """The standing of a guest that must ask again: last, because guests have no seats."""
        position = len(self._guests.get(name, ())) + 1
        return Standing(position, None, "ending" if self.ending else "unknown_bot")

    async def wait(
        self, name: str, leaving: Callable[[], Awaitable[object]], at_most: float | None
    ) -> Outcome:
        """Wait for the bot with this name, until ``leaving`` returns or ``at_most`` s are over."""
        self._warn(name)
        if self._here >= MOST_GUESTS:
            return Outcome.FULL
        patient = at_most is not None
        waiting = trio.CancelScope()
        if at_most is not None:
            waiting.deadline = -math.inf if self.ending else trio.current_time() + at_most
        guests = self._guests.setdefault(name, {})
        guests[waiting] = patient
        self._here += 1
        try:
            with waiting:
                await leaving()
                return Outcome.LEFT
            return Outcome.PUT_OFF if waiting in guests else Outcome.CALLED
        finally:
            self._here -= 1
            guests.pop(waiting, None)
            if not guests and self._guests.get(name) is guests:
                del self._guests[name]

    async def call(self, name: str) -> None:
        """Send the guests that wait for the bot with this name to it, now that it exists."""
        guests = self._guests.pop(name, {})
        self._warned.discard(name)
        for number, waiting in enumerate(list(guests), start=1):
            if guests.pop(waiting, None) is not None:
                waiting.cancel()
            if number % PORTION == 0:
                await trio.lowlevel.checkpoint()

    def end(self) -> None:
        """From now on, tell clients that set ``wait`` to ask again; the others keep waiting."""
        self.ending = True
        for guests in self._guests.values():
            for waiting, patient in guests.items():
                if patient:
                    waiting.cancel()

    def _warn(self, name: str) -> None:
        if name not in self._warned and len(self._warned) < MOST_WARNINGS:
            self._warned.add(name)
            log.warning(
                "unknown_bot",
                bot=name[:80],
                hint="requests for it are held until the bot is added; see GATEWAY_QUEUE_BOTS",
            )
