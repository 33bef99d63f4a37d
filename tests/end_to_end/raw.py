"""Raw clients: what goes over the wire is what the test says.

The tests start a server with ``running_server`` of the harness, or with ``tampered_server``.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded, StreamReset
from h2.settings import SettingCodes, Settings
from harness import Program, listening, server_with
from instants import StampedStream, dial, logged_at
from patience import PATIENCE

GRANT = b'{"message": "You\'re free to connect now! :)"}'
AT_ONCE = 1.0  # seconds; for what takes a millisecond where nobody else is busy


def tampered_server(tampering: str, **settings: object) -> AbstractAsyncContextManager[Program]:
    """As ``running_server``, with a change that ``programs/tampered_server.py`` has."""
    return listening(*server_with(tampering), **settings)


@dataclass
class Answer:
    """``at``: when the kernel received its end."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    at: float = 0.0
    head: bytes = b""  # as it came over HTTP/1

    @property
    def is_grant(self) -> bool:
        return (
            self.status == 200
            and self.headers["content-type"] == "application/json"
            and self.body == GRANT
        )


class Client:
    """One HTTP/1 connection; with TLS, ``stream`` is what is encrypted into its transport."""

    def __init__(self, transport: StampedStream, stream: trio.abc.Stream | None = None) -> None:
        self.transport = transport
        self.stream = stream or transport
        self._received = b""

    async def send(self, *lines: str, body: bytes = b"") -> None:
        """Send a request whose head has these lines."""
        await self.stream.send_all("\r\n".join([*lines, "", ""]).encode() + body)

    async def ask(self, shard: int, *headers: str, body: bytes = b"") -> None:
        await self.send(f"GET /?shard={shard} HTTP/1.1", "Host: queue", *headers, body=body)

    async def answer(self, *, has_body: bool = True) -> Answer:
        head = await self._take(await self._find(b"\r\n\r\n"))
        status, *lines = head.decode().split("\r\n")[:-2]
        headers = dict(line.lower().split(": ", 1) for line in lines)
        length = int(headers["content-length"]) if has_body else 0
        body = await self._take(length)
        return Answer(int(status.split()[1]), headers, body, self.transport.at, head)

    async def rest(self) -> bytes:
        """All that comes until the server closes the connection."""
        while await self._receive():
            pass
        return self._received

    def read_too_far(self) -> bytes:
        """What came behind the last answer."""
        taken, self._received = self._received, b""
        return taken

    async def _find(self, end: bytes) -> int:
        while end not in self._received:
            assert await self._receive(), f"closed after {self._received!r}"
        return self._received.index(end) + len(end)

    async def _take(self, length: int) -> bytes:
        while len(self._received) < length:
            assert await self._receive(), f"closed after {self._received!r}"
        taken, self._received = self._received[:length], self._received[length:]
        return taken

    async def _receive(self) -> int:
        with trio.fail_after(PATIENCE):
            data = await self.stream.receive_some()
        self._received += data
        return len(data)


class HTTP2Client:
    """One HTTP/2 connection, which lets itself send what is not allowed."""

    def __init__(
        self,
        transport: StampedStream,
        stream: trio.abc.Stream | None = None,
        *,
        window: int | None = None,
    ) -> None:
        self.transport = transport
        self.stream = stream or transport
        self.protocol = H2Connection(
            H2Configuration(
                header_encoding=None,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        if window is not None:
            initial = {SettingCodes.INITIAL_WINDOW_SIZE: window}
            self.protocol.local_settings = Settings(client=True, initial_values=initial)
        self._answers: dict[int, Answer] = defaultdict(Answer)
        self.resets: dict[int, int] = {}  # by stream, what the server gave as the reason

    async def flush(self) -> None:
        await self.stream.send_all(self.protocol.data_to_send())

    async def ask(
        self, path: str | bytes, method: str | bytes = "GET", *, whole: bool = True
    ) -> int:
        """The number of the stream; ``whole`` if no body follows."""
        number = self.request(path, method, whole=whole)
        await self.flush()
        return number

    def request(self, path: str | bytes, method: str | bytes = "GET", *, whole: bool = True) -> int:
        """As ``ask``, but to be flushed yet."""
        number = self.protocol.get_next_available_stream_id()
        pseudo_headers = [
            (b":method", method),
            (b":scheme", b"http"),
            (b":authority", b"queue"),
            (b":path", path),
        ]
        self.protocol.send_headers(number, pseudo_headers, end_stream=whole)
        return number

    async def answers(self, streams: Iterable[int]) -> list[Answer]:
        """Wait for all of these."""
        streams = list(streams)
        while not all(self._answers[stream].at for stream in streams):
            assert await self.hear(), f"closed after {dict(self._answers)}"
        return [self._answers[stream] for stream in streams]

    async def reset_of(self, stream: int) -> int:
        """Wait for the server to reset this stream; the error code."""
        while stream not in self.resets:
            assert await self.hear(), "closed"
        return self.resets[stream]

    async def answer_begun(self, stream: int) -> None:
        """Wait for the first of it."""
        while not self.has_begun(stream):
            assert await self.hear(), "closed"

    def has_begun(self, stream: int) -> bool:
        """Whether the first of its answer has come."""
        return stream in self._answers

    async def rest(self) -> list[Answer]:
        """The answers that come, whole or not, until the server closes the connection."""
        while await self.hear():
            pass
        return list(self._answers.values())

    async def hear(self) -> bool:
        """Take in what comes next; False at the end."""
        with trio.fail_after(PATIENCE):
            data = await self.stream.receive_some()
        self.take(data)
        return bool(data)

    def take(self, data: bytes | bytearray) -> None:
        for event in self.protocol.receive_data(bytes(data)) if data else ():
            if isinstance(event, ResponseReceived):
                headers = dict(event.headers)
                answer = self._answers[event.stream_id]
                answer.status = int(headers[b":status"])
                answer.headers = {n.decode(): value.decode() for n, value in headers.items()}
            elif isinstance(event, DataReceived):
                self._answers[event.stream_id].body += event.data
            elif isinstance(event, StreamEnded):
                self._answers[event.stream_id].at = self.transport.at
            elif isinstance(event, StreamReset):
                self.resets[event.stream_id] = int(event.error_code)


@asynccontextmanager
async def connect(server: Program) -> AsyncIterator[Client]:
    async with await dial(server.url) as transport:
        yield Client(transport)


@asynccontextmanager
async def connect_http2(
    server: Program, *, window: int | None = None
) -> AsyncIterator[HTTP2Client]:
    """With prior knowledge; ``window`` is for flow control, in bytes."""
    async with await dial(server.url) as transport:
        client = HTTP2Client(transport, window=window)
        client.protocol.initiate_connection()
        await client.flush()
        yield client


@asynccontextmanager
async def waiting(server: Program, shard: int) -> AsyncIterator[Client]:
    """A client that the server knows to wait for its turn."""
    async with connect(server) as client:
        await client.ask(shard)
        await server.logged("identify_queued", shard=shard)
        yield client


async def answer_of(server: Program, *lines: str, body: bytes = b"") -> Answer:
    """Ask for this on a connection of its own."""
    async with connect(server) as client:
        await client.send(*lines, body=body)
        return await client.answer(has_body=not lines[0].startswith("HEAD"))


async def grant_of(server: Program, shard: int) -> None:
    """Wait for a turn; fail unless that is what comes."""
    answer = await answer_of(server, f"GET /?shard={shard} HTTP/1.1", "Host: queue")
    assert answer.is_grant, answer


async def left_at_once(server: Program, shard: int, *, since: float) -> None:
    """Wait until the server has seen that the client of this shard left; fail if that was late."""
    line = await server.logged("identify_left", shard=shard)
    assert logged_at(line) - since < AT_ONCE, (shard, logged_at(line) - since)
