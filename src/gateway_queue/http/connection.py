"""Repairs of the HTTP stack: Hypercorn 0.18's trio worker.

Each names the fault it repairs, and has a test that fails without it. This module knows
Hypercorn and nothing of the queue.
"""

import socket
from contextlib import suppress
from typing import Any

import hypercorn.protocol
import hypercorn.trio.run
import structlog
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import EventWrapper, WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState, LifespanState

from gateway_queue.http.http2 import STREAMS_PER_CONNECTION, Http2

log = structlog.get_logger()

# A host that vanished without a FIN is noticed after 30 + 3 * 10 seconds.
KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}

# What is read at once: little, for a client's thousand requests must not hold up the others.
BYTES_AT_ONCE = 2**13

# What a client may send behind a request that still waits. Nobody does so on purpose.
MOST_BYTES_BEHIND = 2**16

# With Hypercorn's default of 1000 a client that asks for many shards on one connection is
# cut off.
REQUESTS_PER_CONNECTION = 2**62

# Longer than the 5 s rhythm of identifies, so that a client that asks again in that
# rhythm does not meet a connection that is just being closed (Hypercorn's default: 5).
IDLE_SECONDS = 15.0

# A client that takes no byte for so long never will.
SEND_SECONDS = 5.0

# A client that has not shaken hands after so long never will.
HANDSHAKE_SECONDS = 5.0

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]


class PeerLeftError(Exception):
    """The client hung up while its request waited."""


class Connection(TCPServer):
    """One client's connection: its failure ends it and nothing else.

    It is to be found in ``scope["state"]["connection"]`` of its requests.
    """

    def __init__(
        self,
        app: AppWrapper,
        config: Config,
        context: WorkerContext,
        state: LifespanState,
        stream: Stream,
    ) -> None:
        config.keep_alive_max_requests = REQUESTS_PER_CONNECTION
        config.h2_max_concurrent_streams = STREAMS_PER_CONNECTION
        config.keep_alive_timeout = IDLE_SECONDS
        own_state = ConnectionState({**state, "connection": self})
        super().__init__(app, config, context, own_state, stream)  # type: ignore[arg-type]
        self._transport = (
            stream if isinstance(stream, trio.SocketStream) else stream.transport_stream
        )
        with suppress(OSError):  # macOS: the client has left already
            _keep_alive(self._transport)

    async def run(self) -> None:
        """Serve the connection.

        Hypercorn's trio worker lets any error of a connection end the server: five kinds
        of malformed HTTP/2 requests do (hypercorn issue #225, found in 0.17 and 0.18).
        """
        try:
            if await self._has_shaken_hands():
                await super().run()
        except* PeerLeftError:
            pass
        except* Exception as group:
            error = group.exceptions[0]
            log.warning("connection_failed", error=f"{type(error).__name__}: {error}")
            log.debug("connection_failed_at", exc_info=group)

    async def _has_shaken_hands(self) -> bool:
        """Whether the client did so in time, where it has to.

        Hypercorn waits a minute for it, and does not end meanwhile (0.18).
        """
        if isinstance(self.stream, trio.SocketStream):
            return True
        try:
            async with trio.open_nursery() as nursery:
                nursery.cancel_scope.deadline = trio.current_time() + HANDSHAKE_SECONDS
                nursery.start_soon(self._cancel_at_the_end, nursery.cancel_scope)
                await self.stream.do_handshake()
                nursery.cancel_scope.cancel()
                return True
        except* trio.BrokenResourceError:
            pass
        return False

    async def _cancel_at_the_end(self, scope: trio.CancelScope) -> None:
        await self.context.terminated.wait()
        scope.cancel()

    def cut(self) -> None:
        """Close the connection at once, whatever has been answered or not.

        Hypercorn answers 500 for a handler that failed, which old clients read as
        permission to identify.
        """
        self._transport.socket.close()

    async def receive(self) -> bytes:
        """More bytes of the client's; none when it has hung up."""
        try:
            return bytes(await self.stream.receive_some(BYTES_AT_ONCE))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return b""

    async def _read_data(self) -> None:
        """Read until the client hangs up.

        Hypercorn's own loop has a time-out around each read, which would end held requests
        if it were set, and costs 1 KiB per waiting client if it is not.
        """
        if isinstance(self.protocol.protocol, H11Protocol):
            self.protocol.protocol.can_read = _Paused(self, self.protocol.protocol)
        try:
            data = None
            while data != b"":
                data = await self.receive()
                await self.protocol.handle(RawData(data))
            await self.protocol.handle(Closed())
        finally:
            await self._let_senders_go()

    async def _let_senders_go(self) -> None:
        """Wake the handlers whose answers the client will never take.

        When an HTTP/2 connection closes, Hypercorn leaves whoever waits for a stream's
        buffer to drain waiting for ever, and with it a bucket (0.17, 0.18). There is no
        checkpoint in this, as it also runs in a cancelled task.
        """
        if isinstance(self.protocol.protocol, H2Protocol):
            for buffer in self.protocol.protocol.stream_buffers.values():
                await buffer.close()

    async def protocol_send(self, event: Event) -> None:
        """Send, but not for ever.

        Hypercorn shields sending from cancellation, so that a client which reads nothing
        keeps the server from ending (0.17, 0.18).
        """
        if not isinstance(event, RawData):
            await super().protocol_send(event)
            return
        async with self.send_lock:
            deadline = trio.current_time() + SEND_SECONDS
            with (
                suppress(trio.BrokenResourceError, trio.ClosedResourceError),
                trio.CancelScope(shield=True, deadline=deadline),
            ):
                await self.stream.send_all(event.data)
                return
            self.cut()
            await self.protocol.handle(Closed())

    async def request_left(self) -> None:
        """Start the idle time if nothing else is asked for.

        Hypercorn forgets to when an HTTP/2 request is cancelled (0.17, 0.18), and such a
        connection holds up the server's end.
        """
        protocol = self.protocol.protocol
        if isinstance(protocol, H2Protocol) and protocol.idle and not protocol.closed:
            await self.protocol_send(Updated(idle=True))


class _Paused(EventWrapper):
    """Hypercorn's pause of the reader, which goes on watching for the client to leave.

    When bytes follow a request, or it has an unknown ``Upgrade`` header, Hypercorn stops
    to read until the answer is sent, and never sees the client hang up (0.17, 0.18).
    """

    def __init__(self, connection: Connection, protocol: H11Protocol) -> None:
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


def _keep_alive(stream: trio.SocketStream) -> None:
    if stream.socket.family == socket.AF_UNIX:
        return
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        option: Any = getattr(socket, name, None)  # not every system has all three
        if option is not None:
            stream.setsockopt(socket.IPPROTO_TCP, option, value)


def repair() -> None:
    """Make Hypercorn's trio worker use our connections. The only monkeypatches."""
    hypercorn.trio.run.TCPServer = Connection  # type: ignore[attr-defined]
    hypercorn.protocol.H2Protocol = Http2  # type: ignore[assignment, attr-defined]
