"""HTTP/2 for many requests that wait on one connection, none of which harms another.

Knows Hypercorn and h2, and of the queue only which requests have a body. Each repair names
the fault; all were found in Hypercorn 0.17 and 0.18 with h2 4.3 and 4.4.
"""

from contextlib import suppress
from typing import Any

import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    PriorityUpdated,
    RequestReceived,
    StreamEnded,
    StreamReset,
)
from h2.events import Event as H2Event
from h2.exceptions import InvalidBodyLengthError, ProtocolError
from h2.settings import SettingCodes, Settings
from hpack import HPACKError
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Body, EndBody, Request, Response
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h2 import H2Protocol, StreamBuffer
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.typing import ConnectionState
from hypercorn.utils import filter_pseudo_headers
from hyperframe.exceptions import HyperframeError
from hyperframe.frame import DataFrame, Frame, HeadersFrame
from priority.priority import DeadlockError

from gateway_queue.http.asking import has_body
from gateway_queue.http.bodies import LONGEST_BODY

# With Hypercorn's default of 100, a client that asks for many shards on one connection is
# granted into nothing. One process seldom runs more shards than this, and a stream costs
# memory: a client that needs more opens a second connection.
STREAMS_PER_CONNECTION = 2_000

# All of a connection's requests may be cancelled twice in this time. More is a flood
# (CVE-2023-44487).
MOST_RESETS = 2 * STREAMS_PER_CONNECTION
RESETS_SECONDS = 10.0

Headers = list[tuple[bytes, bytes]]

# Bytes that are parsed before others get their turn. A request or a reset can be as short as
# 13 of them, and costs up to half a millisecond.
PORTION = 512

# One connection parses between two turns of all tasks, so that many that flood delay the
# others no more than one does.
_parsing = trio.Lock()


class Http2(H2Protocol):
    """One HTTP/2 connection."""

    connection: "_Connection"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.connection = _Connection(H2Configuration(client_side=False, header_encoding=None))
        self.connection.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: STREAMS_PER_CONNECTION,
                SettingCodes.MAX_HEADER_LIST_SIZE: self.config.h2_max_header_list_size,
            },
        )
        self.priority = _InTurn()  # type: ignore[assignment]
        self._resets = 0
        self._resets_since = 0.0
        self._bodies: dict[int, bytes] = {}  # of the requests that may have one, as far as it came

    async def initiate(self, headers: Headers | None = None, settings: bytes | None = None) -> None:
        """Begin, with the request that asked for it if it came by HTTP/1.

        Hypercorn fails where its settings cannot be read.
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
        """End a request at once, whatever has been answered or not."""
        self._reset(stream_id, ErrorCodes.INTERNAL_ERROR)
        self.task_group.spawn(self._close_cut_stream, stream_id)

    async def handle(self, event: Event) -> None:
        """Parse in small portions, and let others have their turn before each."""
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
        """Send, but keep the head of an answer until the first of its body leaves."""
        if not isinstance(event, Response):
            await super().stream_send(event)
            return
        status = (b":status", b"%d" % event.status_code)
        with suppress(ProtocolError):  # the stream has ended
            self.connection.send_headers(
                event.stream_id, [status, *event.headers, *self.config.response_headers("h2")]
            )

    async def _send_data(self, stream_id: int) -> None:
        """Send what the client takes, and the end with the last of it.

        Hypercorn writes the head, the body and the end one by one, and lets the sender go on
        before they have left.
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
            if data or ends:
                self.connection.send_data(stream_id, data, end_stream=ends)
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

    async def _handle_events(self, events: list[H2Event]) -> None:
        """React to what the client sent.

        Bodies are dropped, but for the few that matter, which the handler gets as a whole.
        Hypercorn would have the handler take each part, and read nothing of any stream while
        that is busy; or fail, where the answer has been given.
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
        # Hypercorn begins the idle time only after an answer: a connection whose last request
        # was cancelled or refused would be kept for ever, and hold up the server's end.
        concern_requests = any(isinstance(e, RequestReceived | StreamReset) for e in events)
        if concern_requests and self.idle and not self.closed:
            await self.send(Updated(idle=True))

    def _expect_body(self, request: RequestReceived) -> None:
        if has_body(dict(request.headers).get(b":path", b"")):
            self._bodies[request.stream_id] = b""

    def take_body(self, stream_id: int) -> bytes:
        """The body of a request that has come as a whole; it is cut where it is too long."""
        return self._bodies.pop(stream_id, b"")

    async def _create_stream(self, request: RequestReceived) -> None:
        """Begin a request, or refuse it alone.

        Hypercorn fails at a method or path beyond ASCII and at CONNECT, and the connection
        with it.
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
        """Let go whoever waits for the client to take more, and close the stream.

        Hypercorn leaves them waiting for ever, and with them a bucket.
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
        """Go on with what waits for it; Hypercorn wakes all streams of the connection."""
        numbers = [stream_id] if stream_id else list(self.stream_buffers)
        for number in numbers:
            buffer = self.stream_buffers.get(number)
            if buffer is not None and buffer.buffer:
                self.priority.unblock(number)
        await self.has_data.set()

    async def _priority_updated(self, event: PriorityUpdated) -> None:
        """Do nothing: all streams are equal."""

    def _reset(self, stream_id: int, code: ErrorCodes) -> None:
        with suppress(ProtocolError):  # it has ended already
            self.connection.reset_stream(stream_id, code)
        self.connection.forget(stream_id)

    def _count_resets(self, number: int) -> None:
        now = self.context.time()
        if now - self._resets_since > RESETS_SECONDS:
            self._resets, self._resets_since = 0, now
        self._resets += number


class Line:
    """What a request takes for its connection: its stream, and to cut that ends no other."""

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
        """What the connections of the server share."""
        return self._connection.context

    def has_left(self) -> bool:
        """Whether the client has hung up, though Hypercorn may not have noticed yet."""
        return bool(self._connection.has_left())

    def cut(self) -> None:
        """End the stream at once, whatever has been answered or not."""
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
        """Reset the stream: Hypercorn's 500 would be read as permission to identify."""
        self._protocol.cut(self.stream_id)


class _InTurn:
    """The streams that have something to send, one after the other.

    In place of the tree of priorities, which walks all idle streams for each answer, and
    fails at the 1,000th stream. RFC 9113 (5.3.2) deprecates priorities.
    """

    def __init__(self) -> None:
        self._ready: dict[int, None] = {}

    def __next__(self) -> int:
        for stream_id in self._ready:
            del self._ready[stream_id]
            self._ready[stream_id] = None
            return stream_id
        raise DeadlockError

    def unblock(self, stream_id: int) -> None:
        self._ready[stream_id] = None

    def block(self, stream_id: int) -> None:
        self._ready.pop(stream_id, None)


class _Connection(H2Connection):
    """h2's connection, in which one stream's mistakes and number cost the others nothing."""

    # By default h2 remembers 65,536 streams, which takes 10 MiB.
    MAX_CLOSED_STREAMS = 2 * STREAMS_PER_CONNECTION

    @property
    def open_inbound_streams(self) -> int:
        """None, as far as h2 is told: `_receive_frame` looks at their number.

        h2 walks all streams for each new one, and ends the connection if they are too many,
        where RFC 9113 (5.1.2) has only the new one refused.
        """
        return 0

    def forget(self, stream_id: int) -> None:
        """Forget a stream that has ended on both sides, as h2 does in its walk."""
        stream = self.streams.get(stream_id)
        if stream is not None and stream.closed:
            del self.streams[stream_id]
            self._closed_streams[stream_id] = stream.closed_by

    def forget_all(self) -> None:
        """Forget all streams.

        h2's connection refers to itself, so it goes only when Python's collector looks at the
        oldest objects; until then it would hold hundreds of KiB.
        """
        self.streams.clear()
        self._closed_streams.clear()

    def _receive_frame(self, frame: Frame) -> list[H2Event]:
        """Take in a frame, and reset its stream where that is all there is to do.

        So it is if the stream is one too many, or the message malformed, for which h2 ends
        the connection, where RFC 9113 (8.1.1) asks for a stream error. What a message does to
        the connection's own state remains a connection error: compression, flow control, and
        frames that are out of place.
        """
        number = frame.stream_id
        try:
            events = super()._receive_frame(frame)
            code = ErrorCodes.REFUSED_STREAM
            is_refused = len(self.streams) > STREAMS_PER_CONNECTION
        except ProtocolError as error:
            if (
                not isinstance(frame, HeadersFrame | DataFrame)
                or type(error) not in {ProtocolError, InvalidBodyLengthError}
                or isinstance(error.__cause__, HPACKError)
                or number not in self.streams
            ):
                raise
            code = ErrorCodes.PROTOCOL_ERROR
            is_refused = True
        if is_refused:
            self.reset_stream(number, code)  # raises again if the connection was the trouble
            if isinstance(frame, DataFrame):
                self.acknowledge_received_data(frame.flow_controlled_length, number)
            events = [StreamReset(stream_id=number, remote_reset=False)]
        self.forget(number)
        return events
