"""The bytes of one connection, plain or encrypted, for the short way.

The `Reader` reads for plain wires. Writing to them does not block if the socket takes the
bytes at once, so that a bucket can send its grant itself. All bytes of an answer are written by
`PlainWire`, so this is where an answer that is too late is kept back.
"""

import math
import os
import select
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import trio

from gateway_queue.http.reader import Reader

# Read in small pieces, so that one client's thousand requests do not delay the others.
BYTES_AT_ONCE = 2**13

# How many bytes a client may send behind a waiting request. Nobody does so on purpose.
MOST_BYTES_BEHIND = 2**16

# A client that takes no byte for this many seconds is cut off.
SEND_SECONDS = 5.0

# Systems without it report POLLHUP instead.
POLLRDHUP: int = getattr(select, "POLLRDHUP", 0)

# Such a time is waited for in this many parts; a process that was stopped loses only one.
PARTS = 5

TLSStream = trio.SSLStream[trio.SocketStream]
Stream = trio.SocketStream | TLSStream


@dataclass(slots=True)
class Due:
    """By when an answer must have gone out, and what became of it.

    Whatever has not gone out by then never will. That is checked right before each write, because
    a process that was stopped has not noticed its deadlines pass.
    """

    by: float = math.inf
    has_begun: bool = False  # the client may have received some of it
    was_missed: bool = False

    @property
    def is_over(self) -> bool:
        return trio.current_time() >= self.by


class Channel(Protocol):
    """The connection of a request, as far as that may look at it and act on it."""

    @property
    def peer(self) -> str: ...

    def has_left(self) -> bool:
        """Whether the client has hung up."""
        ...

    def answering(self, due: Due) -> AbstractContextManager[None]:
        """Send the answer within this context, as long as it is in time."""
        ...

    def cut(self) -> None:
        """End it at once, answered or not."""
        ...


@asynccontextmanager
async def patience(seconds: float, give_up: Callable[[], None]) -> AsyncIterator[trio.Nursery]:
    """Call ``give_up`` if the body still runs after this many seconds.

    Only time in which this process runs counts: if it is stopped, or its disk is slow, that is
    not the client's fault, and must not cost it its answer.
    """

    async def lose_patience() -> None:
        for _ in range(PARTS):
            await trio.sleep(seconds / PARTS)
        give_up()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lose_patience)
        yield nursery
        nursery.cancel_scope.cancel()


class PlainWire:
    """The bytes of a plain socket.

    With a `Reader`, they are read as they arrive, so that it is noticed when the client leaves,
    whatever it sent before. Without one, they are read on demand.
    """

    # Thousands of these wait at once.
    __slots__ = ("_ended", "_is_watched", "_reader", "_received", "_socket", "_task")

    def __init__(self, stream: trio.SocketStream) -> None:
        self._socket = stream.socket
        self._reader: Reader | None = None
        self._is_watched = False
        self._received = b""
        self._task: trio.lowlevel.Task | None = None  # waits for bytes
        self._ended = False

    @property
    def peer(self) -> str:
        """The client's address, for people to read."""
        return _peer_of(self._socket)

    def take(self) -> bytes:
        """The bytes received so far."""
        self._look()
        data, self._received = self._received, b""
        return data

    async def receive(self) -> bytes:
        """The next bytes; empty at the end."""
        while not (data := self.take()) and not self._ended:
            await self._wait()
        return data

    async def leaving(self) -> None:
        """Return when the client has hung up, or has sent too much while it waits."""
        while not self._ended:
            await self._wait()

    def has_left(self) -> bool:
        return self._ended or _has_hung_up(self._socket)

    def send_now(self, data: bytes) -> int:
        """Send without blocking; returns how many bytes were taken, all if the client left."""
        try:
            return os.write(self._socket.fileno(), data)
        except BlockingIOError:
            return 0
        except OSError:
            return len(data)

    async def send(self, data: bytes, due: Due) -> None:
        """Send everything, unless the client has hung up.

        Raises TooSlowError if it is too late, or if the client takes nothing for SEND_SECONDS.
        """
        while not due.is_over:
            taken = self.send_now(data)
            due.has_begun = due.has_begun or taken > 0
            data = data[taken:]
            if not data:
                return
            if not await self._takes_more(due.by):
                break
        due.was_missed = True
        raise trio.TooSlowError

    async def _takes_more(self, by: float) -> bool:
        """Wait until the client takes more; False if it does not, or not in time."""
        for _ in range(PARTS):
            deadline = min(by, trio.current_time() + SEND_SECONDS / PARTS)
            with trio.CancelScope(shield=True, deadline=deadline):
                with suppress(trio.ClosedResourceError):
                    await trio.lowlevel.wait_writable(self._socket.fileno())
                return True
        return False

    def read_with(self, reader: Reader) -> None:
        """From now on, let this Reader read."""
        self._reader = reader

    def read_alone(self, ahead: bytes = b"") -> None:
        """From now on, read without the Reader. ``ahead``: bytes to be received again."""
        self._stop_watching()
        self._reader = None
        self._received = ahead + self._received

    def cut(self) -> None:
        self._end()
        self._socket.close()

    def _look(self) -> None:
        """Read what there is, without blocking, and wake the task that waits for it."""
        if self._ended:
            return
        try:
            data = os.read(self._socket.fileno(), BYTES_AT_ONCE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._received += data
        if not data or len(self._received) > MOST_BYTES_BEHIND:
            self._end()
        self._wake()

    def _end(self) -> None:
        self._ended = True
        self._stop_watching()  # at its end, a stream is always readable

    async def _wait(self) -> None:
        if self._reader is None:
            with suppress(trio.ClosedResourceError):
                await trio.lowlevel.wait_readable(self._socket.fileno())
            return
        if not self._is_watched:
            self._reader.watch(self._socket.fileno(), self._look)
            self._is_watched = True
        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._stop_waiting)

    def _stop_watching(self) -> None:
        if self._is_watched and self._reader is not None:
            self._is_watched = False
            self._reader.forget(self._socket.fileno())

    def _stop_waiting(self, _: Any) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _wake(self) -> None:
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)
            self._task = None


class TLSWire:
    """The bytes in a TLS connection."""

    __slots__ = ("_encrypted", "_plain", "_received", "_stream")

    def __init__(self, stream: TLSStream) -> None:
        self._plain = PlainWire(stream.transport_stream)
        self._encrypted = _Encrypted(stream.transport_stream, self._plain)
        self._stream = stream
        self._stream.transport_stream = self._encrypted  # type: ignore[assignment]
        self._received = b""

    @property
    def peer(self) -> str:
        return self._plain.peer

    def take(self) -> bytes:
        data, self._received = self._received, b""
        return data

    async def receive(self) -> bytes:
        return self.take() or await self._receive()

    async def leaving(self) -> None:
        while (data := await self._receive()) and len(self._received) <= MOST_BYTES_BEHIND:
            self._received += data

    def has_left(self) -> bool:
        return self._plain.has_left()

    def send_now(self, data: bytes) -> int:  # noqa: ARG002 - encrypting may have to wait
        return 0

    async def send(self, data: bytes, due: Due) -> None:
        self._encrypted.due = due
        with (
            trio.CancelScope(shield=True),
            suppress(
                trio.BrokenResourceError,
                trio.ClosedResourceError,
                trio.BusyResourceError,  # it is being closed
            ),
        ):
            await self._stream.send_all(data)
        self._encrypted.due = Due()
        if due.was_missed:
            raise trio.TooSlowError

    def read_with(self, reader: Reader) -> None:
        """Do nothing: the connection's own task has to decrypt the bytes."""

    def read_alone(self, ahead: bytes = b"") -> None:
        self._received = ahead + self._received

    def cut(self) -> None:
        self._plain.cut()

    async def _receive(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some(BYTES_AT_ONCE))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return b""


class _Encrypted(trio.abc.Stream):
    """The encrypted bytes of a TLS connection, which are written by a `PlainWire`."""

    __slots__ = ("_plain", "_stream", "due", "socket")

    def __init__(self, stream: trio.SocketStream, plain: PlainWire) -> None:
        self.socket = stream.socket
        self.due = Due()  # of the answer that is being sent
        self._stream = stream
        self._plain = plain

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await self._plain.send(bytes(data), self.due)
        except trio.TooSlowError:
            raise trio.BrokenResourceError from None
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._stream.aclose()


Wire = PlainWire | TLSWire


def _has_hung_up(sock: trio.socket.SocketType) -> bool:
    """Whether the other side will send no more, even if there are bytes left to read."""
    descriptor = sock.fileno()
    if descriptor < 0:
        return True
    poll = select.poll()
    poll.register(descriptor, POLLRDHUP)
    return bool(poll.poll(0))


def _peer_of(sock: trio.socket.SocketType) -> str:
    try:
        address: Any = sock.getpeername()
    except OSError:
        return "somebody who has left"
    match address:
        case (str(host), int(port), *_):
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return "a local socket"
