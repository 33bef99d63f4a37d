"""A fake Discord for tests: the few REST answers and the gateway that bots and the queue need.

It knows the rules an identify queue exists for, holds its clients to them and records who broke
them: one IDENTIFY per window and rate limit key (``shard_id % max_concurrency``), ``remaining``
session starts, one session per socket. It does not know guilds, events, intents, compression or
REST rate limits, it never demands a heartbeat, and a session lives until it is invalidated.

Instants are trio's clock, lengths are seconds; only Discord's JSON counts in milliseconds.
"""

import json
import logging
import math
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import count
from random import Random
from typing import Any, Literal

import trio
from background import background
from hypercorn.config import Config
from hypercorn.trio import serve
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, Scope
from quart import Response, request
from quart_trio import QuartTrio

APPLICATION_ID = "123456789012345678"
TOKEN = "MTIzNDU2Nzg5MDEyMzQ1Njc4.fake.token"  # begins with the application id in base64
USER = {"id": APPLICATION_ID, "username": "fake", "discriminator": "0", "avatar": None, "bot": True}
APPLICATION = {  # as much as discord.py's AppInfo insists on
    "id": APPLICATION_ID,
    "name": "fake",
    "description": "",
    "icon": None,
    "bot_public": False,
    "bot_require_code_grant": False,
    "owner": USER,
    "verify_key": "",
}


class Op(IntEnum):
    DISPATCH = 0
    HEARTBEAT = 1
    IDENTIFY = 2
    RESUME = 6
    RECONNECT = 7
    INVALID_SESSION = 9
    HELLO = 10
    HEARTBEAT_ACK = 11


Message = dict[str, Any]
Answer = tuple[int, dict[str, str], bytes]  # status, headers, body
Parcel = tuple[float, Message | int]  # due at; an int is the code to close with
Breach = Literal["too_early", "token_reset", "already_identified"]


@dataclass(frozen=True, slots=True)
class Identify:
    shard: int
    at: float
    breach: Breach | None

    @property
    def accepted(self) -> bool:
        return self.breach is None


@dataclass(frozen=True, slots=True)
class Request:
    path: str
    at: float
    authorization: str | None


@dataclass(eq=False, slots=True)
class _Socket:
    """One gateway connection. What is sent arrives in order, each message after its lag."""

    outbox: trio.MemorySendChannel[Parcel]
    lag: Callable[[], float]
    open: bool = True

    def send(self, op: Op, data: Any = None, **more: Any) -> None:
        self._post({"t": None, "s": None, "op": op, "d": data, **more})

    def close(self, code: int) -> None:
        self._post(code)
        self.open = False

    def _post(self, parcel: Message | int) -> None:
        assert self.open, "nobody is connected here"
        self.outbox.send_nowait((trio.current_time() + self.lag(), parcel))


@dataclass(eq=False)
class FakeDiscord:
    """Everything with a default may be given at the start and changed while it runs."""

    url: str = field(init=False)
    token: str = TOKEN
    shards: int = 1
    max_concurrency: int = 1
    total: int = 1000
    remaining: int = 1000
    reset_after: float = 86_400.0  # told as it stands: neither counts down nor refills
    window: float = 5.0
    latency: float = 0.0  # of each message to a client, and of each IDENTIFY
    jitter: float = 0.0  # up to this much more
    seed: int = 0

    answers: deque[Answer] = field(default_factory=deque)  # to GET /gateway/bot, served first
    requests: list[Request] = field(default_factory=list)
    identifies: list[Identify] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = Random(self.seed)  # noqa: S311 (jitter is no secret)
        self._sessions: dict[int, str] = {}  # the newest session id of each shard
        self._sockets: dict[int, _Socket] = {}  # the newest of each shard that got READY
        self._connected: set[_Socket] = set()
        self._numbers = count(1)
        self._changed = trio.Event()
        self._rest = QuartTrio(__name__)
        self._rest.add_url_rule("/api/v10/<path:path>", view_func=self._answer)

    @property
    def api(self) -> str:
        return f"{self.url}/api/v10"

    @property
    def gateway(self) -> str:
        return self.url.replace("http", "ws", 1)

    # What a test sees

    @property
    def violations(self) -> list[Identify]:
        return [identify for identify in self.identifies if identify.breach]

    def ready_shards(self) -> set[int]:
        """The shards that have a session and are connected."""
        return {shard for shard, socket in self._sockets.items() if socket.open}

    async def wait_ready(self, number: int) -> None:
        await self.until(lambda: len(self.ready_shards()) >= number)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until this holds; looks again at each request, IDENTIFY, RESUME and goodbye."""
        while not holds():
            await self._changed.wait()

    # What a test does to a shard

    def ask_to_reconnect(self, shard: int) -> None:
        """Send op 7: the client is expected to come back and RESUME."""
        self._sockets[shard].send(Op.RECONNECT)

    def drop(self, shard: int, code: int = 4000) -> None:
        """Close its connection; its session can be resumed."""
        self._sockets[shard].close(code)
        self._notify()

    def drop_the_unidentified(self) -> int:
        """Close the connections that have no session; how many there were."""
        connected = {socket for socket in self._connected if socket.open}
        unidentified = connected.difference(self._sockets.values())
        for socket in unidentified:
            socket.close(4000)
        return len(unidentified)

    def invalidate(self, shard: int) -> None:
        """Forget its session: a connected client hears of it at once, any other as it RESUMEs."""
        del self._sessions[shard]
        socket = self._sockets.pop(shard)
        if socket.open:
            socket.send(Op.INVALID_SESSION, data=False)
        self._notify()

    # The service

    async def app(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] == "websocket":
            await self._serve_socket(receive, send)
        else:
            await self._rest(scope, receive, send)

    async def _answer(self, path: str) -> Response | Message | tuple[Message, int]:
        authorization = request.headers.get("Authorization")
        self.requests.append(Request(request.path, trio.current_time(), authorization))
        self._notify()
        if path == "gateway/bot" and self.answers:
            status, headers, body = self.answers.popleft()
            return Response(body, status, headers)
        if authorization != f"Bot {self.token}":
            return {"message": "401: Unauthorized", "code": 0}, 401
        limit = {
            "total": self.total,
            "remaining": self.remaining,
            "reset_after": round(self.reset_after * 1000),
            "max_concurrency": self.max_concurrency,
        }
        answers: dict[str, Message] = {
            "gateway/bot": {
                "url": self.gateway,
                "shards": self.shards,
                "session_start_limit": limit,
            },
            "users/@me": USER,
            "oauth2/applications/@me": APPLICATION,
        }
        return answers.get(path) or ({"message": "404: Not Found", "code": 0}, 404)

    async def _serve_socket(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await receive()
        await send({"type": "websocket.accept", "subprotocol": None, "headers": []})
        outbox, parcels = trio.open_memory_channel[Parcel](math.inf)
        socket = _Socket(outbox, self._lag)
        socket.send(Op.HELLO, {"heartbeat_interval": 41_250})
        self._connected.add(socket)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._deliver, parcels, send)
            try:
                while (event := await receive())["type"] == "websocket.receive":
                    await self._hear(socket, json.loads(event["bytes"] or event["text"] or ""))
            finally:
                socket.open = False
                self._connected.discard(socket)
                self._notify()
            nursery.cancel_scope.cancel()

    async def _deliver(self, parcels: AsyncIterable[Parcel], send: ASGISendCallable) -> None:
        async for due_at, parcel in parcels:
            await trio.sleep_until(due_at)
            if isinstance(parcel, int):
                await send({"type": "websocket.close", "code": parcel, "reason": None})
                return
            await send({"type": "websocket.send", "bytes": None, "text": json.dumps(parcel)})

    async def _hear(self, socket: _Socket, message: Message) -> None:
        if message["op"] == Op.IDENTIFY:
            await trio.sleep(self._lag())
        if not socket.open:
            return
        if message["op"] == Op.HEARTBEAT:
            socket.send(Op.HEARTBEAT_ACK)
        elif message["op"] == Op.IDENTIFY:
            self._identify(socket, **message["d"])
        elif message["op"] == Op.RESUME:
            self._resume(socket, **message["d"])

    def _identify(
        self, socket: _Socket, token: str, shard: Sequence[int] = (0, 1), **_: Any
    ) -> None:
        shard_id, shard_count = shard
        if not self._is_ours(token):
            return socket.close(4004)
        if not 0 <= shard_id < shard_count:
            return socket.close(4010)
        now = trio.current_time()
        breach = self._breach(socket, shard_id, now)
        self.identifies.append(Identify(shard_id, now, breach))
        match breach:
            case None:
                self._welcome(socket, shard_id, shard_count)
            case "too_early":
                socket.send(Op.INVALID_SESSION, data=False)
            case "token_reset":
                socket.close(4004)
            case "already_identified":
                socket.close(4005)
        return self._notify()

    def _breach(self, socket: _Socket, shard: int, now: float) -> Breach | None:
        """Which rule an IDENTIFY breaks that arrives now, if any."""
        if socket in self._sockets.values():
            return "already_identified"
        if self.remaining <= 0:
            return "token_reset"
        key = shard % self.max_concurrency
        for earlier in self.identifies:
            same_key = earlier.shard % self.max_concurrency == key
            if earlier.accepted and same_key and now - earlier.at < self.window:
                return "too_early"
        return None

    def _welcome(self, socket: _Socket, shard: int, shard_count: int) -> None:
        self.remaining -= 1
        self._sockets[shard] = socket
        self._sessions[shard] = f"session-{next(self._numbers)}"
        ready = {
            "v": 10,
            "user": USER,
            "guilds": [],
            "session_id": self._sessions[shard],
            "resume_gateway_url": self.gateway,
            "shard": [shard, shard_count],
            "application": {"id": APPLICATION_ID, "flags": 0},
        }
        socket.send(Op.DISPATCH, ready, t="READY", s=next(self._numbers))

    def _resume(self, socket: _Socket, token: str, session_id: str, **_: Any) -> None:
        for shard, known_id in self._sessions.items():
            if session_id == known_id and self._is_ours(token):
                self._sockets[shard] = socket
                socket.send(Op.DISPATCH, {}, t="RESUMED", s=next(self._numbers))
                return self._notify()
        return socket.send(Op.INVALID_SESSION, data=False)

    def _is_ours(self, token: str) -> bool:
        """As Discord's gateway: twilight sends its token with the prefix."""
        return token.removeprefix("Bot ") == self.token

    def _lag(self) -> float:
        return self.latency + self._random.uniform(0, self.jitter)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


@asynccontextmanager
async def fake_discord(*, port: int = 0, **settings: Any) -> AsyncIterator[FakeDiscord]:
    """Serve a FakeDiscord with these settings while the block lasts; port 0 is any free one."""
    discord = FakeDiscord(**settings)
    async with _serving(discord.app, port) as discord.url:
        yield discord


@dataclass
class FakeDiscords:
    """Several bots at one Discord.

    Each has a gateway and an API of its own, and that at ``api`` is for all of them: who asks
    there is known by the token.
    """

    bots: list[FakeDiscord]
    url: str = field(init=False)

    @property
    def api(self) -> str:
        return f"{self.url}/api/v10"

    async def app(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] == "lifespan":
            await self.bots[0].app(scope, receive, send)
            return
        first, _, path = scope["path"].lstrip("/").partition("/")
        if first.isdecimal():
            bot = self.bots[int(first)]
            await bot.app({**scope, "path": f"/{path}"}, receive, send)  # type: ignore[arg-type]
            return
        given = dict(scope["headers"]).get(b"authorization", b"").decode()
        known = (bot for bot in self.bots if given == f"Bot {bot.token}")
        await next(known, self.bots[0]).app(scope, receive, send)


@asynccontextmanager
async def fake_discords(*bots: FakeDiscord) -> AsyncIterator[FakeDiscords]:
    """Serve several bots while the block lasts."""
    discords = FakeDiscords(list(bots))
    async with _serving(discords.app, 0) as discords.url:
        for number, bot in enumerate(bots):
            bot.url = f"{discords.url}/{number}"
        yield discords


@asynccontextmanager
async def _serving(app: Any, port: int) -> AsyncIterator[str]:
    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.errorlog = logging.getLogger(__name__)  # so that pytest shows what went wrong here
    config.graceful_timeout = 0
    async with background() as nursery:
        [url] = await nursery.start(serve, app, config)
        yield url
