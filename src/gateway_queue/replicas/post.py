"""Messages from one replica to another, through the engine: in order, and each only once.

A message is a list of items, which are lists whose first element says what they are. Items that
are added while a message is on its way go into the next one. The engine may lose messages that
were not read yet; the reader notices from the number of the next one (`follows`).
"""

import json
from collections import deque
from dataclasses import dataclass
from hashlib import sha256
from itertools import count, islice
from typing import Any, Literal

import trio

from gateway_queue.replicas.engine import Engine, EngineError

# The most items in one message.
AT_MOST = 200

# Seconds until a message is sent again, if it is unknown whether it was sent.
AGAIN = 0.1

# After this many seconds without items an empty message is sent, so that a loss is noticed.
QUIET = 10.0

Item = list[Any]

# When the post began by its sender's clock, and which of its messages it is, from 1.
Number = tuple[float, int]

# Comes before all others.
NONE: Number = 0.0, 0


def digest(key: bytes) -> str:
    """What a message has in place of an API key."""
    return sha256(key).hexdigest()


def follows(number: Number, last: Number) -> bool:
    """Whether no message is missing between these two of one sender."""
    return number[1] == (last[1] + 1 if number[0] == last[0] else 1)


@dataclass(frozen=True, slots=True)
class Head:
    """What all messages of a sender have in common; ``to`` says who reads them."""

    sender: str
    term: int
    to: Literal["desk", "doorman"]

    def message(self, items: list[Item], number: Number = NONE) -> str:
        """A message as it is sent; numbered messages come in order."""
        head = {"from": self.sender, "term": self.term, "to": self.to}
        return json.dumps({**head, "number": number, "items": items})


class Post:
    """What one replica says to another during one term."""

    def __init__(self, engine: Engine, era: str, to: str, head: Head) -> None:
        self._engine = engine
        self._era = era
        self._to = to
        self._head = head
        self._began_at = trio.current_time()
        self._items: deque[Item] = deque()
        self._more = trio.Event()
        self._running = trio.CancelScope()

    def put(self, item: Item) -> None:
        self._items.append(item)
        self._more.set()

    def close(self) -> None:
        """Send nothing more: nobody would read it."""
        self._running.cancel()

    async def run(self) -> None:
        """Send what is added, until it is closed. Raises EraOverError."""
        with self._running:
            for number in count(1):
                if not self._items:
                    self._more = trio.Event()
                    with trio.move_on_after(QUIET):
                        await self._more.wait()
                items = list(islice(self._items, AT_MOST))
                await self._send(number, items)
                for _ in items:
                    self._items.popleft()

    async def _send(self, number: int, items: list[Item]) -> None:
        entry = self._head.message(items, (self._began_at, number))
        while True:
            try:
                await self._engine.step("say", self._era, to=self._to, entry=entry)
            except EngineError:
                await trio.sleep(AGAIN)
            else:
                return
