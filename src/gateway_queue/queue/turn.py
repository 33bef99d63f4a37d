"""One request that waits for its shard's turn: what it asked for, and how it ended."""

import math
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import trio

if TYPE_CHECKING:
    from gateway_queue.queue.events import Granted


class Client(Protocol):
    """A waiting client, as far as the queue needs to know it."""

    @property
    def peer(self) -> str:
        """The client's address, for people to read."""
        ...

    def has_left(self) -> bool:
        """Whether its connection shows that it has hung up; does not block."""
        ...

    def hand_over(self, grant: int) -> bool:
        """Send it the grant with this number without blocking; False if that is not possible.

        Also True if it has hung up, because then there is nothing left to do.
        """
        ...


class Turn:
    """A place in line, for as long as its context lasts.

    The body of the context waits, and then sends the grant to the client unless the bucket
    has done so. The interval before the bucket's next grant counts from the end of the
    context. ``grant`` is the grant's number in the journal, None until there is one. If the
    bucket has sent the grant, ``handed_over`` is the event to report when the context ends.
    After ``answer_by`` the grant must not be sent any more. ``confirm``: the client will say
    when it has sent its identify. ``wait``: seconds after which the client wants to be told
    to ask again.
    """

    # Thousands of these wait at once.
    __slots__ = (
        "_done",
        "_dropped",
        "_left",
        "answer_by",
        "arrived_at",
        "client",
        "confirm",
        "grant",
        "handed_over",
        "is_in_line",
        "patient",
        "shard",
        "waiting",
    )

    def __init__(
        self,
        shard: int | None,
        client: Client,
        *,
        confirm: bool,
        wait: float | None,
        done: Callable[["Turn"], None],
    ) -> None:
        self.shard = shard
        self.client = client
        self.confirm = confirm
        self.patient = wait is not None
        self.arrived_at = trio.current_time()
        self.waiting = trio.CancelScope()  # the grant cancels it
        if wait is not None:
            self.waiting.deadline = self.arrived_at + wait
        self.is_in_line: bool | None = None  # None: not yet seated
        self.grant: int | None = None
        self.handed_over: Granted | None = None
        self.answer_by = math.inf
        self._left = False
        self._dropped = False
        self._done = done

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()

    def end(self) -> None:
        """It is over, whatever became of it."""
        self._done(self)

    @property
    def has_left(self) -> bool:
        """Whether the client hung up before it was granted."""
        return self._left and self.grant is None

    @property
    def was_put_off(self) -> bool:
        """Whether the client waited for as long as it wanted to, and should ask again."""
        ended_early = self._left or self._dropped
        return self.grant is None and not ended_early and self.waiting.cancelled_caught

    @property
    def was_dropped(self) -> bool:
        """Whether it ended without a grant, and its client must not be answered."""
        return self.grant is None and self._dropped

    async def wait(self, leaving: Callable[[], Awaitable[object]]) -> None:
        """Wait for the grant, until the client's ``wait`` is over or ``leaving`` returns."""
        with self.waiting:
            await leaving()
            self._left = True

    def leave(self) -> None:
        """End it because the bucket saw that the client hung up, before the connection did."""
        self._left = True
        self.waiting.cancel()

    def drop(self) -> None:
        """End it; the client is not answered unless it has already been granted."""
        self._dropped = True
        self.waiting.cancel()
