"""The streams of an HTTP/2 connection, none of which costs another anything.

Knows h2, and neither Hypercorn nor the queue. Works around faults in h2 4.3 and 4.4, each named
where it is.
"""

from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import Event, StreamReset
from h2.exceptions import InvalidBodyLengthError, ProtocolError
from hpack import HPACKError
from hyperframe.frame import DataFrame, Frame, HeadersFrame
from priority.priority import DeadlockError

# Beyond Hypercorn's default of 100, grants for a client with many shards on one connection
# are lost. A process seldom runs more shards than this, and a stream costs memory; a client
# that needs more can open a second connection.
STREAMS_PER_CONNECTION = 2_000


class InTurn:
    """The streams that have something to send, in turn.

    Replaces the priority tree that Hypercorn uses. Fault of priority 2.0: it visits all idle
    streams for each answer, and raises TooManyStreamsError at the 1,001st stream. RFC 9113
    (5.3.2) deprecates priorities.
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


class Connection(H2Connection):
    """An h2 connection on which a bad stream, or one too many, does not affect the others."""

    # h2 remembers 65,536 closed streams by default, which takes 10 MiB.
    MAX_CLOSED_STREAMS = 2 * STREAMS_PER_CONNECTION

    @property
    def open_inbound_streams(self) -> int:
        """Always 0 for h2; `_receive_frame` checks the number of streams instead.

        Faults of h2: it visits all streams for each new one, and ends the connection if there
        are too many, although RFC 9113 (5.1.2) only asks to refuse the new one.
        """
        return 0

    def forget(self, stream_id: int) -> None:
        """Forget a stream that has ended on both sides, as h2 does when it visits all streams."""
        stream = self.streams.get(stream_id)
        if stream is not None and stream.closed:
            del self.streams[stream_id]
            self._closed_streams[stream_id] = stream.closed_by

    def forget_all(self) -> None:
        """Forget all streams.

        h2's connection is part of a reference cycle, so it is only freed once the garbage
        collector visits the oldest generation; until then it would hold hundreds of KiB.
        """
        self.streams.clear()
        self._closed_streams.clear()

    def _receive_frame(self, frame: Frame) -> list[Event]:
        """Process a frame; on an error that concerns only its stream, reset the stream.

        This is the case if there are too many streams, or if the message is malformed. Fault
        of h2: it ends the connection for these, although RFC 9113 (8.1.1) asks for a stream
        error. Whatever damages the connection's own state remains a connection error: header
        compression, flow control, frames out of place.
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
            self.reset_stream(number, code)  # raises if the connection itself has failed
            if isinstance(frame, DataFrame):
                self.acknowledge_received_data(frame.flow_controlled_length, number)
            events = [StreamReset(stream_id=number, remote_reset=False)]
        self.forget(number)
        return events
