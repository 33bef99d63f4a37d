"""The way from a replica to the engine: a relay that can lose, delay and break what it passes on.

A TCP connection cannot lose bytes and go on, so one that has lost some is reset in the end.
"""

import math
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import trio

AWAY = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)
RESET = struct.pack("ii", 1, 0)


@dataclass(eq=False)
class Way:
    """One connection."""

    replica: trio.SocketStream
    engine: trio.SocketStream
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    has_lost_requests: bool = False
    has_lost_replies: bool = False

    def reset(self) -> None:
        with suppress(*AWAY):
            self.replica.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.scope.cancel()


@dataclass(eq=False)
class Link:
    """Listens at this port, and connects to the engine at this socket; both can be changed."""

    port: int
    engine: Path
    delay: float = 0.0  # of requests: those are executed even if nobody waits for them any more
    loses_requests: bool = False
    loses_replies: bool = False
    _ways: set[Way] = field(default_factory=set)

    async def run(self, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED) -> None:
        await trio.serve_tcp(self._relay, self.port, host="127.0.0.1", task_status=task_status)

    def cut(self) -> None:
        """Pass nothing on from now on; nobody is told."""
        self.loses_requests = self.loses_replies = True

    def mend(self) -> None:
        """Be good again; connections that have lost something are reset."""
        self.delay, self.loses_requests, self.loses_replies = 0.0, False, False
        for way in self._ways:
            if way.has_lost_requests or way.has_lost_replies:
                way.reset()

    def reset(self) -> None:
        """Reset all connections; what was delayed is lost."""
        for way in self._ways:
            way.reset()

    def lead_to(self, engine: Path) -> None:
        """Lead to another engine from now on."""
        self.engine = engine
        self.reset()

    async def _relay(self, replica: trio.SocketStream) -> None:
        with suppress(*AWAY):
            async with replica, await trio.open_unix_socket(str(self.engine)) as engine:
                way = Way(replica, engine)
                self._ways.add(way)
                try:
                    with way.scope:
                        await self._pass_on(way)
                finally:
                    self._ways.remove(way)

    async def _pass_on(self, way: Way) -> None:
        put, get = trio.open_memory_channel[tuple[float, bytes]](math.inf)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._take_requests, way, put)
            nursery.start_soon(self._send_requests, way, get, nursery.cancel_scope)
            await self._return_replies(way)
            nursery.cancel_scope.cancel()

    async def _take_requests(
        self, way: Way, put: trio.MemorySendChannel[tuple[float, bytes]]
    ) -> None:
        with put, suppress(*AWAY):
            async for data in way.replica:
                way.has_lost_requests |= self.loses_requests
                if not way.has_lost_requests:
                    put.send_nowait((trio.current_time() + self.delay, bytes(data)))

    async def _send_requests(
        self,
        way: Way,
        get: trio.MemoryReceiveChannel[tuple[float, bytes]],
        whole: trio.CancelScope,
    ) -> None:
        with suppress(*AWAY):
            async for due_at, data in get:
                await trio.sleep_until(due_at)
                await way.engine.send_all(data)
        whole.cancel()

    async def _return_replies(self, way: Way) -> None:
        is_wanted = True
        with suppress(*AWAY):
            async for data in way.engine:
                way.has_lost_replies |= self.loses_replies
                if is_wanted and not way.has_lost_replies:
                    try:
                        await way.replica.send_all(data)
                    except AWAY:
                        is_wanted = False
