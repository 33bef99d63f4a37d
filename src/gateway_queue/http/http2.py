"""HTTP/2 for many waiting requests on one connection, none of which affects the others.

This module knows Hypercorn and h2, and about the queue only which requests have a body. Each
repair names the project and its fault, so that it can be reported, and dropped once fixed. All
faults were found in Hypercorn 0.17 and 0.18 with h2 4.3 and 4.4 and priority 2.0, and looked
up again in the sources of Hypercorn 0.18.0 and h2 4.4.1.
"""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import trio
from h2.config import H2Configuration
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    PriorityUpdated,
    RequestReceived,
    StreamEnded,
    StreamReset,
)
from h2.events import Event as H2Event
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Body, EndBody, Request, Response
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h2 import H2Protocol, StreamBuffer
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.typing import ConnectionState
from hypercorn.utils import filter_pseudo_headers
from hyperframe.exceptions import HyperframeError

from gateway_queue.http.asking import has_body
from gateway_queue.http.bodies import LONGEST_BODY
from gateway_queue.http.stack import Timed
from gateway_queue.http.streams import STREAMS_PER_CONNECTION, Connection, InTurn
from gateway_queue.http.wire import Due

# All requests of a connection may be cancelled twice within RESETS_SECONDS; more is a flood
# (CVE-2023-44487).
MOST_RESETS = 2 * STREAMS_PER_CONNECTION
RESETS_SECONDS = 10.0

Headers = list[tuple[bytes, bytes]]

# Bytes parsed before other tasks get to run. A request or a reset can be as short as 13 bytes,
# and costs up to half a millisecond.
PORTION = 512

# Only one connection parses per scheduler tick, so that many floods delay the others no more
# than one does.
_parsing = trio.Lock()


class Http2(H2Protocol):
    """One HTTP/2 connection."""

    connection: Connection

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.connection = Connection(H2Configuration(client_side=False, header_encoding=None))
        self.connection.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: STREAMS_PER_CONNECTION,
                SettingCodes.MAX_HEADER_LIST_SIZE: self.config.h2_max_header_list_size,
            },
        )
        self.priority = InTurn()  # type: ignore[assignment]
        self._resets = 0
        self._resets_since = 0.0
        self._bodies: dict[int, bytes] = {}  # received so far, by stream
        self._dues: dict[int, Due] = {}  # of the answers that are being sent, by stream
        self._by = math.inf  # when the bytes that are not yet flushed must have gone out

    async def initiate(self, headers: Headers | None = None, settings: bytes | None = None) -> None:
        """Begin, if it was an upgrade from HTTP/1.1 with the request that asked for it.

        Fault of Hypercorn: an ``HTTP2-Settings`` header that cannot be read raises an error.
        """
        if headers is None:
            await super().initiate()
            return
        try:
            self.connection.initiate_upgrade_connection(settings)
        except (ValueError, HyperframeError, ProtocolError):
            await self.send(Closed())
            return
        request = RequestReceived(stream_id=1, headers=headers)
        await self._handle_events([request, StreamEnded(stream_id=1)])
        self.task_group.spawn(self.send_task)

    def cut(self, stream_id: int) -> None:
        """End a request at once, answered or not."""
        self._reset(stream_id, ErrorCodes.INTERNAL_ERROR)
        self.task_group.spawn(self._close_cut_stream, stream_id)

    async def handle(self, event: Event) -> None:
        """Parse in small portions, and let other tasks run before each of them."""
        if not isinstance(event, RawData):
            await super().handle(event)
            self.connection.forget_all()
            return
        for start in range(0, len(event.data), PORTION):
            async with _parsing:
                pass
            if self.closed:
                return
            await super().handle(RawData(event.data[start : start + PORTION]))
            if self._resets > MOST_RESETS:
                self.connection.close_connection(ErrorCodes.ENHANCE_YOUR_CALM)
                await self._flush()
                await self.send(Closed())

    async def stream_send(self, event: StreamEvent) -> None:
        """Send, but hold an answer's head back until the first part of its body is sent."""
        if not isinstance(event, Response):
            await super().stream_send(event)
            return
        if not self._is_in_time(event.stream_id):
            return
        status = (b":status", b"%d" % event.status_code)
        with suppress(ProtocolError):  # the stream has ended
            self.connection.send_headers(
                event.stream_id, [status, *event.headers, *self.config.response_headers("h2")]
            )
            self._has_begun(event.stream_id)

    async def _send_data(self, stream_id: int) -> None:
        """Send as much as the client takes, and the end together with the last part.

        Fault of Hypercorn: it writes the head, the body and the end separately, and lets the
        sender continue before they are sent.
        """
        buffer = self.stream_buffers.get(stream_id)
        if buffer is None:  # it was closed meanwhile
            self.priority.block(stream_id)
            return
        try:
            room = self.connection.local_flow_control_window(stream_id)
            room = max(0, min(room, self.connection.max_outbound_frame_size))
            data = bytes(buffer.buffer[:room])
            ends = buffer._complete and len(data) == len(buffer.buffer)  # noqa: SLF001
            if (data or ends) and not self._is_in_time(stream_id):
                self.priority.block(stream_id)
                return
            if data or ends:
                self.connection.send_data(stream_id, data, end_stream=ends)
                self._has_begun(stream_id)
        except ProtocolError:  # the stream or the connection has ended
            data, ends = b"", True
        if ends:
            del self.stream_buffers[stream_id]
            self.connection.forget(stream_id)
        if ends or not data:
            self.priority.block(stream_id)
        await self._flush()
        if ends:
            await buffer.close()
        elif data:
            await buffer.pop(len(data))

    @contextmanager
    def answering(self, stream_id: int, due: Due) -> Iterator[None]:
        """Send the answer to a request within this context, as long as it is in time."""
        self._dues[stream_id] = due
        try:
            yield
        finally:
            del self._dues[stream_id]

    def _is_in_time(self, stream_id: int) -> bool:
        """Whether the stream may send; it is ended if its answer would be late."""
        due = self._dues.get(stream_id)
        if due is None or not due.is_over:
            return True
        due.was_missed = True
        self.cut(stream_id)
        return False

    def _has_begun(self, stream_id: int) -> None:
        """Note that the next flush sends something of an answer."""
        if due := self._dues.get(stream_id):
            due.has_begun = True
            self._by = min(self._by, due.by)

    async def _flush(self) -> None:
        """Send what there is to send, or end the connection if some of that would be late."""
        due, self._by = Due(self._by), math.inf
        if data := self.connection.data_to_send():
            await self.send(Timed(data, due=due))

    async def _handle_events(self, events: list[H2Event]) -> None:
        """React to what the client sent.

        Bodies are dropped, except the few that are used, which the handler gets as a whole.
        Fault of Hypercorn: it passes each part on to the handler, and reads nothing from any
        stream while that is busy; if the answer has already been sent, it raises KeyError.
        """
        ended = {event.stream_id for event in events if isinstance(event, StreamReset)}
        self._count_resets(len(ended))
        wanted = []
        for event in events:
            if isinstance(event, DataReceived):
                if (body := self._bodies.get(event.stream_id)) is not None:
                    body += event.data[: LONGEST_BODY + 1 - len(body)]
                    self._bodies[event.stream_id] = body
                self.connection.acknowledge_received_data(
                    event.flow_controlled_length, event.stream_id
                )
            elif not isinstance(event, RequestReceived) or event.stream_id not in ended:
                wanted.append(event)
                if isinstance(event, RequestReceived):
                    self._expect_body(event)
        await super()._handle_events(wanted)
        # Fault of Hypercorn: it only restarts the idle time-out after an answer. A connection
        # whose last request was cancelled or refused would stay open for ever, and delay the
        # server's shutdown.
        concern_requests = any(isinstance(e, RequestReceived | StreamReset) for e in events)
        if concern_requests and self.idle and not self.closed:
            await self.send(Updated(idle=True))

    def _expect_body(self, request: RequestReceived) -> None:
        if has_body(dict(request.headers).get(b":path", b"")):
            self._bodies[request.stream_id] = b""

    def take_body(self, stream_id: int) -> bytes:
        """The complete body of a request, truncated if it is too long."""
        return self._bodies.pop(stream_id, b"")

    async def _create_stream(self, request: RequestReceived) -> None:
        """Begin a request, or refuse it without affecting the others.

        Fault of Hypercorn: a method or path with non-ASCII bytes, or CONNECT, raises an error
        that ends the connection.
        """
        number = request.stream_id
        fields = dict(request.headers)
        method, path = fields[b":method"].upper(), fields.get(b":path", b"")
        if method == b"CONNECT" or not (method + path).isascii():
            self._reset(number, ErrorCodes.PROTOCOL_ERROR)
            self._count_resets(1)
            self.take_body(number)
            return
        stream = self.streams[number] = _Stream(self, number)
        line = Line(self, number)
        self.stream_buffers[number] = StreamBuffer(self.context.event_class)
        await stream.handle(
            Request(
                stream_id=number,
                headers=filter_pseudo_headers(request.headers),
                http_version="2",
                method=method.decode(),
                raw_path=path,
                state=ConnectionState({**self.connection_state, "connection": line}),
            )
        )
        await self.context.mark_request()

    async def _close_stream(self, stream_id: int) -> None:
        """Close the stream, and wake the handler that waits for the client to take more.

        Fault of Hypercorn: it leaves the handler, and with it a bucket, waiting for ever.
        """
        self.take_body(stream_id)
        buffer = self.stream_buffers.pop(stream_id, None)
        if buffer is not None:
            await buffer.close()
        await super()._close_stream(stream_id)

    async def _close_cut_stream(self, stream_id: int) -> None:
        await self._close_stream(stream_id)
        await self._flush()
        await self.send(Updated(idle=self.idle))

    async def _window_updated(self, stream_id: int | None) -> None:
        """Resume the streams that have something to send.

        Fault of Hypercorn: it wakes all streams of the connection.
        """
        numbers = [stream_id] if stream_id else list(self.stream_buffers)
        for number in numbers:
            buffer = self.stream_buffers.get(number)
            if buffer is not None and buffer.buffer:
                self.priority.unblock(number)
        await self.has_data.set()

    async def _priority_updated(self, event: PriorityUpdated) -> None:
        """Do nothing: all streams have the same priority."""

    def _reset(self, stream_id: int, code: ErrorCodes) -> None:
        with suppress(ProtocolError):  # it has already ended
            self.connection.reset_stream(stream_id, code)
        self.connection.forget(stream_id)

    def _count_resets(self, number: int) -> None:
        now = self.context.time()
        if now - self._resets_since > RESETS_SECONDS:
            self._resets, self._resets_since = 0, now
        self._resets += number


class Line:
    """Stands for the connection towards a request: cutting it only ends the request's stream."""

    def __init__(self, protocol: Http2, stream_id: int) -> None:
        self._protocol = protocol
        self._stream_id = stream_id
        self._connection: Any = protocol.connection_state["connection"]

    @property
    def peer(self) -> str:
        """The client's address, for people to read."""
        return str(self._connection.peer)

    @property
    def context(self) -> Any:
        """The state that all connections of the server share."""
        return self._connection.context

    def has_left(self) -> bool:
        """Whether the client has hung up, even if Hypercorn has not noticed yet."""
        return bool(self._connection.has_left())

    def answering(self, due: Due) -> AbstractContextManager[None]:
        """Send the answer within this context, as long as it is in time."""
        return self._protocol.answering(self._stream_id, due)

    def cut(self) -> None:
        """End the stream at once, answered or not."""
        self._protocol.cut(self._stream_id)


class _Stream(HTTPStream):
    """Hypercorn's side of one request."""

    def __init__(self, protocol: Http2, stream_id: int) -> None:
        super().__init__(
            protocol.app,
            protocol.config,
            protocol.context,
            protocol.task_group,
            protocol.ssl,
            protocol.client,
            protocol.server,
            protocol.stream_send,
            stream_id,
        )
        self._protocol = protocol

    async def handle(self, event: StreamEvent) -> None:
        if isinstance(event, EndBody) and (body := self._protocol.take_body(self.stream_id)):
            await super().handle(Body(self.stream_id, body))
        await super().handle(event)

    async def _send_error_response(self, status_code: int) -> None:  # noqa: ARG002
        """Reset the stream, because old clients take Hypercorn's 500 for permission."""
        self._protocol.cut(self.stream_id)
