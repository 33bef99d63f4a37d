"""The bytes of one connection, plain or encrypted, as the short way needs them.

A plain wire is read for by the `Reader`, and written to without waiting where the socket
takes it at once, so that a bucket can hand over its grant itself.
"""

import os
import select
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import trio

from gateway_queue.http.reader import Reader

# What is read at once: little, for a client's thousand requests must not hold up the others.
BYTES_AT_ONCE = 2**13

# What a client may send behind a request that still waits. Nobody does so on purpose.
MOST_BYTES_BEHIND = 2**16

# A client that takes no byte for so long never will.
SEND_SECONDS = 5.0

# Where a system does not have it, POLLHUP says the same.
POLLRDHUP: int = getattr(select, "POLLRDHUP", 0)

# Parts into which such a time is cut, for a stopped process is to miss only one of them.
PARTS = 5

TLSStream = trio.SSLStream[trio.SocketStream]
Stream = trio.SocketStream | TLSStream


@asynccontextmanager
async def patience(seconds: float, give_up: Callable[[], None]) -> AsyncIterator[trio.Nursery]:
    """Call ``give_up`` if the body still runs after so many seconds.

    Only seconds in which this process runs count: a stop, or a slow disk, is not the client's
    fault, and must not cost it an answer.
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
    """A plain socket's bytes.

    With a `Reader` they are read as they come, so that the client's leaving is seen whatever
    it sent before; without, only as they are asked for.
    """

    # Thousands of these wait at once.
    __slots__ = ("_ended", "_is_watched", "_reader", "_received", "_socket", "_task")

    def __init__(self, stream: trio.SocketStream) -> None:
        self._socket = stream.socket
        self._reader: Reader | None = None
        self._is_watched = False
        self._received = b""
        self._task: trio.lowlevel.Task | None = None  # the one that waits for bytes
        self._ended = False

    @property
    def peer(self) -> str:
        """The client's address, for people to read."""
        return _peer_of(self._socket)

    def take(self) -> bytes:
        """What has come so far."""
        self._look()
        data, self._received = self._received, b""
        return data

    async def receive(self) -> bytes:
        """The bytes that come next; none at the end."""
        while not (data := self.take()) and not self._ended:
            await self._wait()
        return data

    async def leaving(self) -> None:
        """Return when the client has hung up, or has sent too much meanwhile."""
        while not self._ended:
            await self._wait()

    def has_left(self) -> bool:
        return self._ended or _has_hung_up(self._socket)

    def send_now(self, data: bytes) -> int:
        """How many of these bytes the socket took at once: all if the client has hung up."""
        try:
            return os.write(self._socket.fileno(), data)
        except BlockingIOError:
            return 0
        except OSError:
            return len(data)

    async def send(self, data: bytes) -> None:
        """Send all of it, as far as the client is still there.

        Raises TooSlowError for a client that takes nothing for SEND_SECONDS.
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
        """Have this Reader read for it from now on."""
        self._reader = reader

    def read_alone(self, ahead: bytes = b"") -> None:
        """Do without the Reader from now on. ``ahead`` was read too far, and comes again."""
        self._stop_watching()
        self._reader = None
        self._received = ahead + self._received

    def cut(self) -> None:
        self._end()
        self._socket.close()

    def _look(self) -> None:
        """Read what there is, without waiting, and wake who waits for it."""
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
        self._stop_watching()  # the end can be read for ever

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

    def send_now(self, data: bytes) -> int:  # noqa: ARG002 - to encrypt may have to wait
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
        """The bytes have to be decrypted in a task of their own."""

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
    """Whether the other side will send no more, though we may not have read all that it sent."""
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
