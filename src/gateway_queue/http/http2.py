"""HTTP/2 for many waiting requests on one connection: repairs of Hypercorn 0.18's protocol.

Knows Hypercorn and nothing of the queue.
"""

from typing import Any

from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h2 import H2Protocol
from priority.priority import PriorityTree

# With Hypercorn's default of 100, a client that asks for many shards on one connection is
# granted into nothing.
STREAMS_PER_CONNECTION = 10_000


class _AnsweredStream:
    """An HTTP/2 stream whose answer is given: what still comes for it is dropped."""

    idle = True

    async def handle(self, event: StreamEvent) -> None:
        """Drop it."""


class _Streams(dict[int, Any]):
    def __missing__(self, stream_id: int) -> _AnsweredStream:
        return _AnsweredStream()


class Http2(H2Protocol):
    """HTTP/2 for many waiting requests on one connection.

    Hypercorn fails, and the connection with it, when a body arrives after its answer, and
    at the 1,000th stream whatever the settings say (0.17, 0.18).
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.streams = _Streams()
        self.priority = PriorityTree(maximum_streams=2 * STREAMS_PER_CONNECTION)
