"""Tasks that last as long as a block of a test, whose own failure comes out ungrouped."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def background() -> AsyncIterator[trio.Nursery]:
    """A nursery that is cancelled at the end of its body.

    What the body raises is handed on as it is: wrapped into an ExceptionGroup by each block it
    passes, a failed assertion is hard to read and ``pytest.raises`` does not see it.
    """
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield nursery
        except Exception as error:  # noqa: BLE001 (raised again below)
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
