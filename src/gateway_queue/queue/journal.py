"""The durable record of grants, as the queue needs it; ``keeper/`` has the implementations."""

from dataclasses import dataclass
from typing import Protocol


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


class Journal(Protocol):
    """Records each grant before it is handed over. Every method may raise JournalError."""

    name: str

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
