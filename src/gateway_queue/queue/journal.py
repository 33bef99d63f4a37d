"""The durable record of grants, as the queue needs it; ``keeper/`` has the implementations."""

import math
from dataclasses import dataclass
from typing import Literal, Protocol


class JournalError(Exception):
    """The journal cannot be opened or written; the message says why and what to do."""


class JournalLostError(JournalError):
    """The journal is damaged or not ours any more: nothing can be recorded until a restart."""


@dataclass(frozen=True, slots=True)
class Past:
    """A grant of an earlier time, ``age`` seconds ago."""

    number: int
    age: float
    shard: int | None
    confirm: bool


OrderKind = Literal["pause", "slower"]


@dataclass(frozen=True, slots=True)
class Order:
    """What an operator ordered ``age`` seconds ago, for ``left`` seconds more.

    ``value`` is the reason of a pause, or the interval in seconds of a slower pace.
    """

    value: str
    age: float = 0.0
    left: float = math.inf


class Journal(Protocol):
    """Records each grant before it is handed over. Every method may raise JournalError."""

    name: str

    # What it knows outlives the process.
    survives_restart: bool

    # A turn with `confirm` may have been granted right before it was opened.
    may_hold: bool

    def record(self, shard: int | None, bucket: int, *, confirm: bool = False) -> int:
        """Write one grant durably and return its number; if that fails, nothing is written."""
        ...

    def check(self) -> None:
        """Raise JournalError unless the journal is ours and was just written to."""
        ...

    def check_owner(self) -> None:
        """Raise JournalLostError if the journal is not ours any more; takes microseconds."""
        ...

    def last_day(self) -> list[Past]:
        """The grants of the last 24 hours, the oldest first."""
        ...

    def order(self, kind: OrderKind, order: Order | None) -> None:
        """Keep an order in place of the last one of this kind; None: keep none."""
        ...

    def orders(self) -> dict[OrderKind, Order]:
        """The orders that are kept and whose time is not over."""
        ...

    def forgive(self, shard: int) -> None:
        """Keep in mind that all grants of a shard so far are forgiven."""
        ...

    def forgiven(self) -> dict[int, int]:
        """Of each shard that was forgiven, the number up to which its grants are."""
        ...
