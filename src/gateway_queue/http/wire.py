"""The bytes of one connection, plain or encrypted, for the short way.

The `Reader` reads for plain wires. Writing to them does not block if the socket takes the
bytes at once, so that a bucket can send its grant itself.
"""

import os
import select
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

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

    async def send(self, data: bytes) -> None:
        """Send everything, unless the client has hung up.

        Raises TooSlowError if the client takes nothing for SEND_SECONDS.
        """
        while data := data[self.send_now(data) :]:
            await self._until_it_takes_more()

    async def _until_it_takes_more(self) -> None:
        for _ in range(PARTS):
            deadline = trio.current_time() + SEND_SECONDS / PARTS
            with trio.CancelScope(shield=True, deadline=deadline):
                with suppress(trio.ClosedResourceError):
                    await trio.lowlevel.wait_writable(self._socket.fileno())
                return
        raise trio.TooSlowError

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

    __slots__ = ("_received", "_stream")

    def __init__(self, stream: TLSStream) -> None:
        self._stream = stream
        self._received = b""

    def take(self) -> bytes:
        data, self._received = self._received, b""
        return data

    async def receive(self) -> bytes:
        return self.take() or await self._receive()

    async def leaving(self) -> None:
        while (data := await self._receive()) and len(self._received) <= MOST_BYTES_BEHIND:
            self._received += data

    def has_left(self) -> bool:
        return _has_hung_up(self._stream.transport_stream.socket)

    def send_now(self, data: bytes) -> int:  # noqa: ARG002 - encrypting may have to wait
        return 0

    async def send(self, data: bytes) -> None:
        too_slow = False

        def give_up() -> None:
            nonlocal too_slow
            too_slow = True
            self.cut()

        async with patience(SEND_SECONDS, give_up) as nursery:
            nursery.cancel_scope.shield = True
            with suppress(
                trio.BrokenResourceError,
                trio.ClosedResourceError,
                trio.BusyResourceError,  # it is being closed
            ):
                await self._stream.send_all(data)
        if too_slow:
            raise trio.TooSlowError

    def read_with(self, reader: Reader) -> None:
        """Do nothing: the connection's own task has to decrypt the bytes."""

    def read_alone(self, ahead: bytes = b"") -> None:
        self._received = ahead + self._received

    def cut(self) -> None:
        self._stream.transport_stream.socket.close()

    async def _receive(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some(BYTES_AT_ONCE))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return b""

    @property
    def peer(self) -> str:
        return _peer_of(self._stream.transport_stream.socket)


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
