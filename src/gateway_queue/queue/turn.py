"""One request that waits for its shard's turn: what it asked for and what became of it."""

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import trio

if TYPE_CHECKING:
    from gateway_queue.queue.events import Granted


class Client(Protocol):
    """Whoever waits, as far as the queue needs to know."""

    @property
    def peer(self) -> str:
        """Its address, for people to read."""
        ...

    def has_left(self) -> bool:
        """Whether a look at its connection shows, without waiting, that it has hung up."""
        ...

    def hand_over(self, grant: int) -> bool:
        """Give it the grant with this number without waiting; False where that cannot be done.

        True where it has hung up meanwhile, too: then nothing is left to be done.
        """
        ...


class Turn:
    """A place in line, for as long as its context lasts.

    The body of the context waits, and hands the grant over to the client unless the bucket
    has: the interval to the bucket's next grant counts from its end. ``grant`` is the grant's
    number in the journal, None until there is one; ``handed_over`` is what to report of it
    at the end of the context, where the bucket has handed it over. ``confirm``: the client
    will say when it has sent its identify. ``wait``: after so many seconds it wants to be
    told to ask again.
    """

    # Thousands of these wait at once.
    __slots__ = (
        "_done",
        "_dropped",
        "_left",
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
        self._done(self)

    @property
    def has_left(self) -> bool:
        """The client hung up before it was granted."""
        return self._left and self.grant is None

    @property
    def was_put_off(self) -> bool:
        """The client waited for as long as it wanted to, and is to ask again."""
        ended_early = self._left or self._dropped
        return self.grant is None and not ended_early and self.waiting.cancelled_caught

    @property
    def was_dropped(self) -> bool:
        """It ended without a grant, and its client is not to be answered."""
        return self.grant is None and self._dropped

    async def wait(self, leaving: Callable[[], Awaitable[object]]) -> None:
        """Wait for the grant, for as long as the client wants to, or until it is leaving."""
        with self.waiting:
            await leaving()
            self._left = True

    def leave(self) -> None:
        """The bucket saw that the client has hung up, before its connection did."""
        self._left = True
        self.waiting.cancel()

    def drop(self) -> None:
        """End it: the client is not to be answered, unless it has been granted already."""
        self._dropped = True
        self.waiting.cancel()
