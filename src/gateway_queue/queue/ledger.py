"""The interface of the record of grants that is shared by several replicas.

The replica that holds the client gives the grant: it is offered it, takes it, which records it,
and reports when it has given it to the client. ``replicas/`` has the implementation.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from gateway_queue.queue.events import Event
    from gateway_queue.queue.queue import Gateway, Queue
    from gateway_queue.queue.rules.allowance import SessionStartLimit
    from gateway_queue.queue.rules.pace import Spacing
    from gateway_queue.queue.turn import Turn

# The outcome of a grant that was taken: its client has it, or that is unknown, or it was given back
# and no client will ever have it.
Fate = Literal["given", "unknown", "given_back"]


@dataclass(frozen=True, slots=True)
class Member:
    """One of the replicas: how many clients wait there, and for how long it was silent."""

    name: str
    waiting: int
    silent_for: float
    leads: bool


class Ledger(Protocol):
    """Records the grants of a bot where all replicas see them."""

    @property
    def first_seat(self) -> int:
        """A number higher than those of all earlier seats."""
        ...

    @property
    def is_away(self) -> bool:
        """Whether no grant can be recorded at the moment."""
        ...

    def members(self) -> list[Member]:
        """The replicas, by their names."""
        ...

    def next_number(self) -> int:
        """The number of the next grant."""
        ...

    async def offer(self, turn: "Turn", number: int, bucket: int, seconds: float) -> bool:
        """Have a turn granted by its client's replica; False if it was not and never will be.

        ``seconds``: until the next grant of the bucket.
        """
        ...

    async def fate(self, number: int) -> Fate:
        """Wait for the outcome of a grant that was taken, but not for long."""
        ...

    def opens_at(self, bucket: int, buckets: int, spacing: "Spacing") -> float:
        """When one of ``buckets`` buckets may grant, after everything granted before now."""
        ...

    @property
    def max_concurrency(self) -> int | None:
        """What Discord said last, if that is known."""
        ...

    def keep_limit(self, limit: "SessionStartLimit", gateway: "Gateway") -> None:
        """Keep what Discord has said for whoever leads next."""
        ...

    def moved(self, bucket: int, buckets: int, number: int, seconds: float) -> None:
        """Tell all replicas that a bucket opens in ``seconds``, because a grant was confirmed."""
        ...

    def watch(self, event: "Event") -> None:
        """Take an event of the queue."""
        ...

    def restore(self, queue: "Queue") -> None:
        """Give a new queue what an earlier one, here or elsewhere, left behind."""
        ...
