"""One request that waits for its shard's turn: what it asked for and what became of it."""

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

import trio


class Turn:
    """A place in line, for as long as its context lasts.

    The body of the context waits, and hands the grant over to the client: the interval to
    the bucket's next grant counts from its end. ``grant`` is the grant's number in the
    journal, None until there is one. ``confirm``: the client will say when it has sent its
    identify. ``patient``: it may be told to ask again later.
    """

    # Thousands of these wait at once.
    __slots__ = (
        "_done",
        "arrived_at",
        "confirm",
        "grant",
        "patient",
        "seated",
        "shard",
        "waiting",
    )

    def __init__(
        self, shard: int | None, *, confirm: bool, patient: bool, done: Callable[["Turn"], None]
    ) -> None:
        self.shard = shard
        self.confirm = confirm
        self.patient = patient
        self.arrived_at = trio.current_time()
        self.waiting = trio.CancelScope()  # the grant cancels it
        self.seated = False
        self.grant: int | None = None
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
    def was_put_off(self) -> bool:
        """The client waited for as long as it wanted to, and is to ask again."""
        return self.grant is None and self.waiting.cancelled_caught

    async def wait(self, gone: Callable[[], Awaitable[object]] = trio.sleep_forever) -> bool:
        """Wait for the grant, or for ``gone`` to return because the client left: then False."""
        with self.waiting:
            await gone()
        return self.waiting.cancelled_caught
