"""Where grants are recorded that several replicas give, as the queue needs it.

A replica that is not this one gives them: it is offered the grant, takes it, which records it,
and tells when it has given it to its client. ``replicas/`` has the implementation.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from gateway_queue.queue.events import Event
    from gateway_queue.queue.queue import Gateway, Queue
    from gateway_queue.queue.rules.allowance import SessionStartLimit
    from gateway_queue.queue.rules.pace import Spacing
    from gateway_queue.queue.turn import Turn

# What became of a grant that was taken: its client has it, or nobody can tell, or it was given
# back and nobody ever has it.
Fate = Literal["given", "unknown", "given_back"]


@dataclass(frozen=True, slots=True)
class Member:
    """One of the replicas: how many clients wait there, and how long nothing was heard of it."""

    name: str
    waiting: int
    silent_for: float
    leads: bool


class Ledger(Protocol):
    """Records the grants of a bot where all replicas see them."""

    @property
    def first_seat(self) -> int:
        """A number beyond those of all seats that were taken before."""
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
        """Have a turn granted where its client is; False if it was not, and never will be.

        ``seconds``: until the next grant of the bucket.
        """
        ...

    async def fate(self, number: int) -> Fate:
        """Wait for what becomes of a grant that was taken, but not for long."""
        ...

    def opens_at(self, bucket: int, buckets: int, spacing: "Spacing") -> float:
        """When one of so many buckets may grant, after all that was granted before now."""
        ...

    @property
    def max_concurrency(self) -> int | None:
        """What Discord said last, if that is known."""
        ...

    def keep_limit(self, limit: "SessionStartLimit", gateway: "Gateway") -> None:
        """Keep what Discord has said for whoever leads next."""
        ...

    def moved(self, bucket: int, buckets: int, number: int, seconds: float) -> None:
        """As a grant was confirmed, its bucket opens in so many seconds."""
        ...

    def watch(self, event: "Event") -> None:
        """Take what happened in the queue."""
        ...

    def restore(self, queue: "Queue") -> None:
        """Give a new queue what an earlier one, here or elsewhere, left behind."""
        ...
