"""Repairs for Hypercorn's trio worker.

Each repair names the fault, so that it can be reported, and dropped once fixed; each has a
test that fails without it. The faults are in Hypercorn 0.17 and 0.18.0, the newest release.
This module knows Hypercorn and nothing about the queue.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import EventWrapper, WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState, LifespanState

from gateway_queue.http.streams import STREAMS_PER_CONNECTION
from gateway_queue.http.wire import MOST_BYTES_BEHIND, Due, Stream, Wire

# With Hypercorn's default of 1000, a client that asks for many shards on one connection is
# cut off.
REQUESTS_PER_CONNECTION = 2**62

# Longer than the 5 s between identifies, so that a client that asks again in that rhythm does
# not use a connection that is just being closed (Hypercorn's default is 5).
IDLE_SECONDS = 15.0


class Context(WorkerContext):
    """The state that all connections of a server share."""

    def __init__(self, max_requests: int | None) -> None:
        super().__init__(max_requests)
        self._idle: set[trio.CancelScope] = set()
        self.terminated = _Ending(self._idle)

    @property
    def is_ending(self) -> bool:
        return self.terminated.is_set()

    @contextmanager
    def idling(self, seconds: float) -> Iterator[None]:
        """Cancel the body after this many seconds, or when the server ends.

        This takes one cancel scope, where Hypercorn runs a task for each idle connection.
        """
        with trio.move_on_after(0 if self.is_ending else seconds) as idle:
            self._idle.add(idle)
            try:
                yield
            finally:
                self._idle.discard(idle)


class _Ending(EventWrapper):
    def __init__(self, idle: set[trio.CancelScope]) -> None:
        super().__init__()
        self._idle = idle

    async def set(self) -> None:
        await super().set()
        for scope in self._idle:
            scope.cancel()


@dataclass(frozen=True)
class Timed(RawData):
    """Bytes that must have gone out by a time of their own."""

    due: Due = field(default_factory=Due)


class PeerLeftError(Exception):
    """The client hung up while its request waited."""


class HypercornConnection(TCPServer):
    """A connection that Hypercorn serves.

    HTTP/1.1 requests find it as ``scope["state"]["connection"]``; HTTP/2 requests find a `Line`
    there.
    """

    def __init__(
        self,
        app: AppWrapper,
        config: Config,
        context: WorkerContext,
        state: LifespanState,
        stream: Stream,
        wire: Wire,
    ) -> None:
        config.keep_alive_max_requests = REQUESTS_PER_CONNECTION
        config.h2_max_concurrent_streams = STREAMS_PER_CONNECTION
        config.keep_alive_timeout = IDLE_SECONDS
        own_state = ConnectionState({**state, "connection": self})
        super().__init__(app, config, context, own_state, stream)  # type: ignore[arg-type]
        self._wire = wire
        self._due = Due()
        self._has_left = False

    @property
    def peer(self) -> str:
        """The client's address, for people to read."""
        return self._wire.peer

    def has_left(self) -> bool:
        """Whether the client has hung up, even if Hypercorn has not noticed yet."""
        return self._wire.has_left()

    @contextmanager
    def answering(self, due: Due) -> Iterator[None]:
        """Send an answer within this context, as long as it is in time."""
        self._due = due
        try:
            yield
        finally:
            self._due = Due()

    def cut(self) -> None:
        """Close the connection at once, answered or not.

        Hypercorn would answer 500 for a failed handler, which old clients take for permission
        to identify.
        """
        self._wire.cut()

    async def receive(self) -> bytes:
        """More bytes from the client; empty if it has hung up."""
        await trio.lowlevel.checkpoint()
        return await self._wire.receive()

    async def _read_data(self) -> None:
        """Read until the client hangs up.

        Fault of Hypercorn: its loop has a time-out around each read. If that is set, it ends
        held requests; if not, it still costs 1 KiB per waiting client.
        """
        if isinstance(self.protocol.protocol, H11Protocol):
            self.protocol.protocol.can_read = _Paused(self, self.protocol.protocol)
        try:
            data = None
            while data != b"":
                data = await self.receive()
                await self.protocol.handle(RawData(data))
            await self.protocol.handle(Closed())
            # Fault of Hypercorn: it waits for the idle time-out, and keeps the socket open.
            self._has_left = True
            await self.idle_task.stop()
        finally:
            await self._let_senders_go()

    async def _let_senders_go(self) -> None:
        """Wake the handlers whose answers the client will never take.

        Fault of Hypercorn: when an HTTP/2 connection closes, a handler that waits for a
        stream's buffer to drain, and with it a bucket, waits for ever. This has no checkpoint,
        because it also runs in a cancelled task.
        """
        if isinstance(self.protocol.protocol, H2Protocol):
            for buffer in self.protocol.protocol.stream_buffers.values():
                await buffer.close()

    async def protocol_send(self, event: Event) -> None:
        """Send, but not for ever.

        Fault of Hypercorn: it shields sending from cancellation without a time-out, so a client
        that reads nothing keeps the server from ending.
        """
        if isinstance(event, Updated) and self._has_left:
            return  # otherwise the idle time-out would start again
        if not isinstance(event, RawData):
            await super().protocol_send(event)
            return
        due = event.due if isinstance(event, Timed) else self._due
        async with self.send_lock:
            try:
                await self._wire.send(event.data, due)
            except trio.TooSlowError:
                self.cut()
                await self.protocol.handle(Closed())


class _Paused(EventWrapper):
    """Hypercorn's pause of reading, during which we still notice if the client leaves.

    Fault of Hypercorn: if bytes follow a request, or it has an unknown ``Upgrade`` header,
    Hypercorn stops reading until the answer is sent, and does not notice that the client hangs
    up.
    """

    def __init__(self, connection: HypercornConnection, protocol: H11Protocol) -> None:
        super().__init__()
        self._connection = connection
        self._protocol = protocol

    async def wait(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            await super().wait()
            nursery.cancel_scope.cancel()

    async def _watch(self) -> None:
        behind = 0
        while data := await self._connection.receive():
            self._protocol.connection.receive_data(data)
            behind += len(data)
            if behind > MOST_BYTES_BEHIND:
                self._connection.cut()
        raise PeerLeftError
