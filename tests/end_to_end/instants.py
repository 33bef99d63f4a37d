"""When something happened, and not when a test got round to looking at it.

On a busy machine these are far apart. The kernel stamps what a socket receives, and our server
stamps each line of its log: by those tests judge what comes too early, too late or at once. All
instants are seconds of the wall clock, as ``time.time`` tells them.
"""

import socket
import struct
import sys
import time
from datetime import datetime
from typing import Any

import trio
from harness import Program

# Our server spaces its grants on another clock, and sleeps to the next tick of the system's.
EXACT = 0.005

# A line is written a moment after what it tells of, if the system lets nobody else run between.
LOGGED_WITHIN = 0.1

# The kernel counts the time since the end of a connection in ticks of its timer.
ENDED_WITHIN = 0.02

SO_TIMESTAMPNS = 35  # asm-generic/socket.h; Python does not name it
TIMESPEC = struct.Struct("@ll")
LAST_ACK_RECV = 56  # where struct tcp_info has it (linux/tcp.h)


def logged_at(line: dict[str, Any]) -> float:
    """When the server wrote this line."""
    return datetime.fromisoformat(line["timestamp"]).timestamp()


def opened_at(line: dict[str, Any]) -> float:
    """When the grant that this line tells of could have been given."""
    return logged_at(line) - float(line["late"])


def seconds_to_end(server: Program) -> float:
    """What it took a server, which has ended, from the signal until all was done."""
    [ending], [ended] = server.logged_so_far("ending"), server.logged_so_far("ended")
    return logged_at(ended) - logged_at(ending)


def have_stamped(sock: socket.socket | trio.socket.SocketType) -> None:
    """Let the kernel stamp what this socket receives."""
    if sys.platform == "linux":
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)


# It begins with that a moment after a first socket wanted it, so one wants it all the time.
with socket.socket() as _first:
    have_stamped(_first)
    _first.detach()


class StampedStream(trio.abc.HalfCloseableStream):
    """A connection that knows when the kernel received what was read.

    ``at`` is that instant: of the last byte that was read, where a read takes up more than one
    segment. So an answer has to be read before the next is sent. ``ended_at`` is when the other
    side closed the connection; if it did so with an RST, when that was noticed.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.socket = stream.socket
        self.at = self.ended_at = 0.0
        have_stamped(stream.socket)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        try:
            data, ancillary, _, _ = await self.socket.recvmsg(
                max_bytes or 2**16, socket.CMSG_SPACE(TIMESPEC.size)
            )
        except OSError as error:
            self.ended_at = time.time()
            raise trio.BrokenResourceError from error
        if data:
            self.at = time.time()
            for _, kind, stamp in ancillary:
                if kind == SO_TIMESTAMPNS:
                    seconds, nanoseconds = TIMESPEC.unpack(stamp)
                    self.at = seconds + nanoseconds / 1e9
        else:
            self.ended_at = time.time() - self._seconds_since_the_last_packet()
        return data

    def _seconds_since_the_last_packet(self) -> float:
        if sys.platform != "linux":
            return 0.0
        info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, LAST_ACK_RECV + 4)
        (milliseconds,) = struct.unpack_from("=I", info, LAST_ACK_RECV)
        return float(milliseconds / 1000)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self.stream.send_eof()

    async def aclose(self) -> None:
        await self.stream.aclose()

    def reset(self) -> None:
        """Leave with an RST."""
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


async def dial(url: str) -> StampedStream:
    """Connect to the server at this address."""
    host, _, port = url.partition("://")[2].rpartition(":")
    return StampedStream(await trio.open_tcp_stream(host, int(port)))
