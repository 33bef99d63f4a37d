"""Drives the app as Hypercorn does, without a socket, so that it runs on a mock clock."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import unquote

import trio

from gateway_queue.bot import Bot
from gateway_queue.http.app import App
from gateway_queue.http.stack import Context
from gateway_queue.http.wire import Channel, Due
from gateway_queue.queue.queue import Queue


@dataclass
class Connection:
    """What the app may do to the connection."""

    was_cut: bool = False
    peer: str = "127.0.0.1:1"
    context: Context = field(default_factory=lambda: Context(None))

    def has_left(self) -> bool:
        return False

    @contextmanager
    def answering(self, _: Due) -> Iterator[None]:
        yield

    def cut(self) -> None:
        self.was_cut = True

    async def request_left(self) -> None:
        await trio.lowlevel.checkpoint()


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    at: float


@dataclass
class Call:
    """One request under way."""

    answer: Answer | None = None
    ended: trio.Event = field(default_factory=trio.Event)
    connection: Connection = field(default_factory=Connection)
    slow: float = 0.0  # seconds that the socket takes for each part of the answer
    head: dict[str, Any] = field(default_factory=dict)
    body: bytes = b""  # as much of it as has come
    _leave: trio.Event = field(default_factory=trio.Event)

    def leave(self) -> None:
        """The client hangs up."""
        self._leave.set()

    async def answered(self) -> Answer:
        await self.ended.wait()
        assert self.answer is not None, "ended without an answer"
        return self.answer

    async def run(
        self, app: App, method: str, target: str, headers: dict[str, str], body: bytes = b""
    ) -> None:
        given = body
        path, _, query = target.partition("?")
        channel: Channel = self.connection
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000),
            "state": {"connection": channel},
            "extensions": {},
        }
        body_sent = False

        async def receive() -> dict[str, Any]:
            nonlocal body_sent
            if not body_sent:
                body_sent = True
                return {"type": "http.request", "body": given, "more_body": False}
            await self._leave.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            await trio.sleep(self.slow)
            if message["type"] == "http.response.start":
                self.head = message
                return
            self.body += message.get("body", b"")
            if not message.get("more_body", False):
                self.answer = Answer(
                    status=self.head["status"],
                    headers={n.decode(): v.decode() for n, v in self.head["headers"]},
                    body=self.body,
                    at=trio.current_time(),
                )

        try:
            await app(cast("Any", scope), cast("Any", receive), cast("Any", send))
        finally:
            self.ended.set()


@dataclass
class Client:
    app: App
    nursery: trio.Nursery

    @property
    def bot(self) -> Bot:
        """The default bot."""
        bot = self.app.bots.find(None)
        assert bot is not None
        return bot

    @property
    def queue(self) -> Queue:
        """The queue of the default bot."""
        return self.bot.queue

    def ask(
        self,
        target: str,
        method: str = "GET",
        headers: dict[str, str] | None = None,
        *,
        body: bytes = b"",
        slow: float = 0.0,
    ) -> Call:
        """Send a request and do not wait for its answer."""
        call = Call(slow=slow)
        self.nursery.start_soon(call.run, self.app, method, target, headers or {}, body)
        return call

    async def get(self, target: str, method: str = "GET") -> Answer:
        return await self.ask(target, method).answered()
