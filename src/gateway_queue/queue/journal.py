"""The interface of the durable record of grants; ``keeper/`` has the implementations."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from gateway_queue.queue.ledger import Ledger


class JournalError(Exception):
    """The journal cannot be opened or written; the message says why, and what to do."""


class JournalLostError(JournalError):
    """The journal is damaged or no longer ours: nothing can be recorded until a restart."""


@dataclass(frozen=True, slots=True)
class Past:
    """A grant given ``age`` seconds ago."""

    number: int
    age: float
    shard: int | None
    confirm: bool


OrderKind = Literal["pause", "slower"]


@dataclass(frozen=True, slots=True)
class Order:
    """What an operator ordered ``age`` seconds ago; it has ``left`` seconds to run.

    ``value`` is the reason of a pause, or the interval in seconds of a slower pace.
    """

    value: str
    age: float = 0.0
    left: float = math.inf


class Start(NamedTuple):
    """A session start that is granted."""

    shard: int | None
    bucket: int
    confirm: bool = False


class Journal(Protocol):
    """Records each grant before it is handed over. Every method may raise JournalError."""

    name: str

    # Whether its contents outlive the process.
    survives_restart: bool

    # Whether a turn with `confirm` may have been granted just before it was opened.
    may_hold: bool

    @property
    def ledger(self) -> "Ledger | None":
        """What records the grants where several replicas give them; None: `record` does."""
        ...

    def record(self, starts: Sequence[Start]) -> Sequence[int]:
        """Write grants durably and return their numbers; if that fails, nothing is written."""
        ...

    def check(self) -> None:
        """Raise JournalError unless the journal is ours and a test write succeeds."""
        ...

    def check_owner(self) -> None:
        """Raise JournalLostError if the journal is no longer ours; takes microseconds."""
        ...

    def last_day(self) -> list[Past]:
        """The grants of the last 24 hours, oldest first."""
        ...

    def order(self, kind: OrderKind, order: Order | None) -> None:
        """Store an order in place of the last one of its kind; None removes that."""
        ...

    def orders(self) -> dict[OrderKind, Order]:
        """The stored orders that have not expired."""
        ...

    def forgive(self, shard: int) -> None:
        """Record that all grants of a shard so far are forgiven."""
        ...

    def forgiven(self) -> dict[int, int]:
        """For each forgiven shard, the number of its latest forgiven grant."""
        ...
