"""Where requests wait whose bot is not here: not yet, not any more, or never.

Any answer would be taken for permission, so they are held until the bot is added. They have
no seat. This module knows tasks and the trio clock, and of bots nothing but their names.
"""

import math
from collections.abc import Awaitable, Callable
from enum import Enum, auto

import structlog
import trio

from gateway_queue.queue.standing import Standing

log = structlog.get_logger()

# More than these are not held: anybody can ask for a bot that does not exist.
MOST_GUESTS = 1_000

# So many names are warned of, for the same reason.
MOST_WARNINGS = 1_000

# Guests called at once, before others get their turn.
PORTION = 100


class Outcome(Enum):
    """How waiting in the lobby ended."""

    CALLED = auto()  # the bot is here
    PUT_OFF = auto()  # the client is to be told to ask again, as it wanted
    LEFT = auto()  # the client has hung up
    FULL = auto()  # there was no room


class Lobby:
    """Everybody who waits for a bot that is not here."""

    def __init__(self) -> None:
        self.ending = False
        self.guests = 0
        # Whether they are patient, by name and in the order of their coming.
        self._guests: dict[str, dict[trio.CancelScope, bool]] = {}
        self._warned: set[str] = set()

    def standing(self, name: str) -> Standing:
        """How somebody stands who is to ask again: behind all others, as nobody has a seat."""
        position = len(self._guests.get(name, ())) + 1
        return Standing(position, None, "ending" if self.ending else "unknown_bot")

    async def wait(
        self, name: str, leaving: Callable[[], Awaitable[object]], at_most: float | None
    ) -> Outcome:
        """Wait for the bot of this name, until the client is leaving or has waited long enough."""
        self._warn(name)
        if self.guests >= MOST_GUESTS:
            return Outcome.FULL
        patient = at_most is not None
        waiting = trio.CancelScope()
        if at_most is not None:
            waiting.deadline = -math.inf if self.ending else trio.current_time() + at_most
        guests = self._guests.setdefault(name, {})
        guests[waiting] = patient
        self.guests += 1
        try:
            with waiting:
                await leaving()
                return Outcome.LEFT
            return Outcome.PUT_OFF if waiting in guests else Outcome.CALLED
        finally:
            self.guests -= 1
            guests.pop(waiting, None)
            if not guests and self._guests.get(name) is guests:
                del self._guests[name]

    async def call(self, name: str) -> None:
        """The bot of this name is here: let those who wait for it go there."""
        guests = self._guests.pop(name, {})
        self._warned.discard(name)
        for number, waiting in enumerate(list(guests), start=1):
            if guests.pop(waiting, None) is not None:
                waiting.cancel()
            if number % PORTION == 0:
                await trio.lowlevel.checkpoint()

    def end(self) -> None:
        """From now on tell the patient to ask again; the others go on waiting."""
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
                hint="its requests are held until there is such a bot; see GATEWAY_QUEUE_BOTS",
            )
