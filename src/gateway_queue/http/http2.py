"""HTTP/2 for many waiting requests on one connection: repairs of Hypercorn 0.18's protocol.

Knows Hypercorn and h2, and nothing of the queue. Each repair names the fault, which was found in
Hypercorn 0.17 and 0.18 with h2 4.3 and 4.4.
"""

from contextlib import suppress
from typing import Any

import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import Event as H2Event
from h2.events import RequestReceived, StreamEnded, StreamReset
from h2.exceptions import InvalidBodyLengthError, ProtocolError
from h2.settings import SettingCodes, Settings
from hpack import HPACKError
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import Response
from hypercorn.protocol.h2 import H2Protocol, StreamBuffer
from hyperframe.frame import DataFrame, Frame, HeadersFrame
from priority.priority import DeadlockError

# With Hypercorn's default of 100, a client that asks for many shards on one connection is
# granted into nothing. One process seldom runs more shards than this, and a stream costs
# memory: a client that needs more opens a second connection.
STREAMS_PER_CONNECTION = 2_000

# All of a connection's requests may be cancelled twice in this time. More is a flood
# (CVE-2023-44487).
RESETS_AT_MOST = 2 * STREAMS_PER_CONNECTION
RESETS_WITHIN = 10.0

# What is parsed before others have their turn. A request or a reset can be as short as 13
# bytes and costs up to half a millisecond.
BYTES_AT_ONCE = 512

# One connection parses between two turns of all tasks, so that many that flood delay the others
# no more than one does.
_turns = trio.Lock()


class _Answered:
    """A stream whose answer is given: what still comes for it is dropped."""

    idle = True

    async def handle(self, event: StreamEvent) -> None:
        """Drop it."""


class _Streams(dict[int, Any]):
    def __missing__(self, stream_id: int) -> _Answered:
        return _Answered()


class _InTurn:
    """The streams that have something to send, in turn. In place of the tree of priorities.

    The tree walks all idle streams for each answer, and RFC 9113 (5.3.2) deprecates
    priorities.
    """

    def __init__(self, known: dict[int, StreamBuffer]) -> None:
        self._known = known
        self._ready: dict[int, None] = {}

    def __next__(self) -> int:
        for stream_id in self._ready:
            del self._ready[stream_id]
            self._ready[stream_id] = None
            return stream_id
        raise DeadlockError

    def unblock(self, stream_id: int) -> None:
        if stream_id in self._known:
            self._ready[stream_id] = None

    def block(self, stream_id: int) -> None:
        self._ready.pop(stream_id, None)

    remove_stream = block

    def insert_stream(self, stream_id: int, **priority: object) -> None:
        """Nothing: it has nothing to send yet."""

    def reprioritize(self, stream_id: int, **priority: object) -> None:
        """Nothing: all are equal."""


class _H2Connection(H2Connection):
    """h2's connection, in which one stream's mistakes and number cost the others nothing."""

    # By default h2 remembers 65,536 streams, which takes 10 MiB.
    MAX_CLOSED_STREAMS = 2 * STREAMS_PER_CONNECTION

    @property
    def open_inbound_streams(self) -> int:
        """None: `Http2` counts them.

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

    def _receive_frame(self, frame: Frame) -> list[H2Event]:
        """Reset the stream of a malformed message, and no more.

        h2 ends the connection, where RFC 9113 (8.1.1) asks for a stream error. What a
        message does to the connection's own state remains a connection error: compression,
        flow control, and frames that are out of place.
        """
        try:
            return super()._receive_frame(frame)
        except ProtocolError as error:
            if (
                not isinstance(frame, HeadersFrame | DataFrame)
                or type(error) not in {ProtocolError, InvalidBodyLengthError}
                or isinstance(error.__cause__, HPACKError)
                or frame.stream_id not in self.streams
            ):
                raise
            # Raises again if the connection's state was the trouble.
            self.reset_stream(frame.stream_id, ErrorCodes.PROTOCOL_ERROR)
            if isinstance(frame, DataFrame):
                self.acknowledge_received_data(frame.flow_controlled_length, frame.stream_id)
            return [StreamReset(stream_id=frame.stream_id, remote_reset=False)]


class _StreamAsConnection:
    """What a request takes for its connection: its stream."""

    def __init__(self, protocol: "Http2", stream_id: int, connection: Any) -> None:
        self._protocol = protocol
        self._stream_id = stream_id
        self._connection = connection

    @property
    def peer(self) -> str:
        return str(self._connection.peer)

    def cut(self) -> None:
        """End the stream at once; with the last one ends the connection."""
        if len(self._protocol.streams) > 1:
            self._protocol.cut(self._stream_id)
        else:
            self._connection.cut()


class Http2(H2Protocol):
    """HTTP/2 for many waiting requests on one connection."""

    connection: _H2Connection

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.connection = _H2Connection(H2Configuration(client_side=False, header_encoding=None))
        self.connection.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: STREAMS_PER_CONNECTION,
                SettingCodes.MAX_HEADER_LIST_SIZE: self.config.h2_max_header_list_size,
            },
        )
        self.streams = _Streams()
        self.priority = _InTurn(self.stream_buffers)  # type: ignore[assignment]
        self._resets = 0
        self._resets_since = 0.0

    async def handle(self, event: Event) -> None:
        """Parse in small portions, and let others have their turn before each."""
        if not isinstance(event, RawData):
            await super().handle(event)
            return
        for start in range(0, len(event.data), BYTES_AT_ONCE):
            async with _turns:
                pass
            if self.closed:
                return
            await super().handle(RawData(event.data[start : start + BYTES_AT_ONCE]))
            if self._resets > RESETS_AT_MOST:
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

    def cut(self, stream_id: int) -> None:
        """End a stream that has failed. There is no checkpoint in this."""
        self._reset(stream_id, ErrorCodes.INTERNAL_ERROR)
        self.task_group.spawn(self._flush)

    async def _send_data(self, stream_id: int) -> None:
        """Send what the client takes, and the end with the last of it.

        Hypercorn writes the head, the body and the end one by one, and lets the sender go on
        before they have left.
        """
        buffer = self.stream_buffers[stream_id]
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
        left = {event.stream_id for event in events if isinstance(event, StreamReset)}
        self._count_resets(len(left))
        await super()._handle_events(
            [
                event
                for event in events
                if not isinstance(event, RequestReceived) or event.stream_id not in left
            ]
        )
        for event in events:
            if isinstance(event, StreamReset | StreamEnded):
                self.connection.forget(event.stream_id)
        # Hypercorn knows only of requests that were answered that they are over.
        if self.idle and not self.closed:
            await self.send(Updated(idle=True))

    async def _create_stream(self, request: RequestReceived) -> None:
        """Begin a request, or refuse it alone.

        Hypercorn fails at a method or path beyond ASCII and at CONNECT, and the connection
        with it.
        """
        fields = dict(request.headers)
        method, path = fields[b":method"], fields.get(b":path", b"")
        if len(self.connection.streams) > STREAMS_PER_CONNECTION:
            self._refuse(request.stream_id, ErrorCodes.REFUSED_STREAM)
        elif method.upper() == b"CONNECT" or not (method + path).isascii():
            self._refuse(request.stream_id, ErrorCodes.PROTOCOL_ERROR)
        else:
            await super()._create_stream(request)
            state = self.streams[request.stream_id].scope["state"]
            state["connection"] = _StreamAsConnection(self, request.stream_id, state["connection"])

    async def _close_stream(self, stream_id: int) -> None:
        """Close it, and let go whoever waits for a client to take more of it."""
        await super()._close_stream(stream_id)
        buffer = self.stream_buffers.pop(stream_id, None)
        if buffer is not None:
            self.priority.block(stream_id)
            await buffer.close()

    async def _window_updated(self, stream_id: int | None) -> None:
        """Go on with those that wait for it; Hypercorn wakes all streams of the connection."""
        if stream_id:
            await super()._window_updated(stream_id)
            return
        for number, buffer in self.stream_buffers.items():
            if buffer.buffer:
                self.priority.unblock(number)
        await self.has_data.set()

    def _refuse(self, stream_id: int, code: ErrorCodes) -> None:
        self._reset(stream_id, code)
        self._count_resets(1)

    def _reset(self, stream_id: int, code: ErrorCodes) -> None:
        with suppress(ProtocolError):  # it is over already
            self.connection.reset_stream(stream_id, code)
        self.connection.forget(stream_id)

    def _count_resets(self, number: int) -> None:
        now = self.context.time()
        if now - self._resets_since > RESETS_WITHIN:
            self._resets, self._resets_since = 0, now
        self._resets += number
