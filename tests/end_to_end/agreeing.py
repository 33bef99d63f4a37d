"""A queue that grants at once whatever is asked, and tells what it was sent."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

import trio
from background import background
from raw import GRANT


@dataclass(eq=False)
class AgreeingQueue:
    """``targets`` are the requests', in order; grants are numbered from 1."""

    url: str = ""
    targets: list[str] = field(default_factory=list)
    _granted: int = 0
    _asked: trio.Event = field(default_factory=trio.Event)

    def of(self, shard: int) -> list[str]:
        """What was sent for this shard: ``ask``, or what the confirmation says."""
        return [
            rest.removeprefix(f"/confirm?shard={shard}&") if "/confirm" in rest else "ask"
            for rest in self.targets
            if f"shard={shard}&" in f"{rest}&"
        ]

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until this holds; looks again at each request."""
        while not holds():
            await self._asked.wait()

    async def answer(self, stream: trio.SocketStream) -> None:
        async with stream:
            with suppress(trio.BrokenResourceError):  # of a client that left
                request = (await stream.receive_some()).decode()
                if request:
                    await stream.send_all(self._answer(*request.split(" ", 2)[:2]))

    def _answer(self, method: str, target: str) -> bytes:
        self.targets.append(target)
        self._asked.set()
        self._asked = trio.Event()
        if method == "POST":
            return b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"
        self._granted += 1
        head = (
            "HTTP/1.1 200 OK",
            f"content-length: {len(GRANT)}",
            f"x-gateway-queue-grant: {self._granted}",
            "connection: close",
        )
        return "\r\n".join([*head, "", ""]).encode() + GRANT


@asynccontextmanager
async def agreeing_queue() -> AsyncIterator[AgreeingQueue]:
    queue = AgreeingQueue()
    async with background() as nursery:
        serve = partial(trio.serve_tcp, queue.answer, 0, host="127.0.0.1")
        listener, *_ = await nursery.start(serve)
        queue.url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        yield queue
