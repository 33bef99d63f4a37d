"""One client's connection, from its first byte to its last.

The short way: a plain request for a turn is held here, in the connection's own task, and
answered with a single write, if possible by the bucket itself. Everything else (pages, HTTP/2,
bodies, unusual heads, errors) goes to Hypercorn together with the bytes read so far, and the
connection stays there.
"""

import socket
from contextlib import suppress
from typing import Any

import hypercorn.protocol
import hypercorn.trio.run
import structlog
import trio
from hypercorn.config import Config
from hypercorn.typing import AppWrapper, LifespanState

from gateway_queue.http.answers import Answer, granted
from gateway_queue.http.app import App
from gateway_queue.http.asking import Ask, Problem, ask_of, path_of, split
from gateway_queue.http.head import Head, plain_head
from gateway_queue.http.holding import hold
from gateway_queue.http.http2 import Http2
from gateway_queue.http.stack import IDLE_SECONDS, Context, HypercornConnection, PeerLeftError
from gateway_queue.http.wire import Due, PlainWire, Stream, TLSStream, TLSWire, Wire

log = structlog.get_logger()

# False sends every request to Hypercorn, for the tests that check both ways.
SHORT_WAY = True

# A host that vanishes without a FIN is noticed after 30 + 3 * 10 seconds.
KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}

# A client that has not completed the TLS handshake after this long is cut off.
HANDSHAKE_SECONDS = 5.0


def install() -> None:
    """Make Hypercorn's trio worker serve connections with this module.

    These are our only monkeypatches. Each class that they install names the faults of
    Hypercorn that it repairs.
    """
    hypercorn.trio.run.TCPServer = serve  # type: ignore[attr-defined, assignment]
    hypercorn.trio.run.WorkerContext = Context  # type: ignore[attr-defined]
    hypercorn.protocol.H2Protocol = Http2  # type: ignore[assignment, attr-defined]


async def serve(
    app: AppWrapper, config: Config, context: Context, state: LifespanState, stream: Stream
) -> None:
    """Serve one connection; an error ends that connection and nothing else.

    Fault of Hypercorn 0.17 and 0.18 (https://github.com/pgjones/hypercorn/issues/225): any
    error in a connection ends the server, and malformed HTTP/2 can cause one.
    """
    wire: Wire
    if isinstance(stream, trio.SSLStream):
        _keep_alive(stream.transport_stream)
        if not await _has_shaken_hands(stream, context):
            return
        wire = TLSWire(stream)
        is_http1 = stream.selected_alpn_protocol() != "h2"
    else:
        _keep_alive(stream)
        wire = PlainWire(stream)
        is_http1 = True
    street = _street_of(app, config, context) if is_http1 else None
    try:
        if street is None or not await Connection(street, config, context, wire).run():
            await HypercornConnection(app, config, context, state, stream, wire).run()
    except* PeerLeftError:
        pass
    except* Exception as group:
        error = group.exceptions[0]
        log.warning("connection_failed", error=f"{type(error).__name__}: {error}")
        log.debug("connection_failed_at", exc_info=group)


def _street_of(app: AppWrapper, config: Config, context: Context) -> App | None:
    """The app whose turns may be held here; None if the configuration needs Hypercorn."""
    street = getattr(app, "app", None)
    wants_hypercorn = config.accesslog or config.server_names or context.max_requests is not None
    return street if SHORT_WAY and isinstance(street, App) and not wants_hypercorn else None


class Connection:
    """One connection on the short way."""

    # Thousands of these wait at once.
    __slots__ = ("_config", "_context", "_head", "_name", "_path", "_rest", "_street", "_wire")

    _head: Head
    _name: str | None  # of the bot
    _path: str

    def __init__(self, street: App, config: Config, context: Context, wire: Wire) -> None:
        self._street = street
        self._config = config
        self._context = context
        self._wire = wire
        self._rest = b""  # what the socket did not take of the answer at once
        wire.read_with(street.reader)

    async def run(self) -> bool:
        """Answer plain requests one by one; False if Hypercorn must take over."""
        ahead = b""
        try:
            while data := await self._next():
                ask = self._plain_ask(data)
                if ask is None:
                    ahead = data
                    return False
                answered = await hold(
                    ask, self._street.bots, self, self._has_key, self._head.authorization
                )
                if not (answered and self._head.keep_alive) or self._context.is_ending:
                    break
            return True
        finally:
            self._wire.read_alone(ahead)

    @property
    def peer(self) -> str:
        return self._wire.peer

    def has_left(self) -> bool:
        return self._wire.has_left()

    def hand_over(self, grant: int) -> bool:
        data = self._bytes(granted(grant))
        taken = self._wire.send_now(data)
        self._rest = data[taken:] if taken else b""
        return taken == len(data)

    async def leaving(self) -> None:
        await self._wire.leaving()

    async def answer(self, answer: Answer, due: Due | None = None) -> None:
        """Send an answer, or the rest of the one already begun."""
        due = due or Due()
        due.has_begun = bool(self._rest)
        await self._wire.send(self._rest or self._bytes(answer), due)
        self._rest = b""

    def cut(self) -> None:
        self._wire.cut()

    async def _next(self) -> bytes:
        """What the client sends next; empty if it is idle for too long or has left."""
        if data := self._wire.take():
            return data
        with self._context.idling(IDLE_SECONDS):
            return await self._wire.receive()
        return b""

    def _plain_ask(self, data: bytes) -> Ask | None:
        """The turn that a plain request asks for; None if Hypercorn must take the request."""
        head = plain_head(data)
        if head is None:
            return None
        self._head = head
        target, query = split(head.target)
        try:
            self._name, self._path = self._street.locate(path_of(target))
            return ask_of(self._path, query, self._name) if self._has_key() else None
        except Problem:
            return None

    def _has_key(self) -> bool:
        return self._street.lets_in(self._name, self._path, self._head.authorization)

    def _bytes(self, answer: Answer) -> bytes:
        headers = self._config.response_headers("h11")
        if not self._head.keep_alive:
            headers.append((b"Connection", b"close"))  # as h11 writes it
        return answer.in_http1(headers, has_body=self._head.method != b"HEAD")


async def _has_shaken_hands(stream: TLSStream, context: Context) -> bool:
    """Whether the client completed the TLS handshake in time.

    Fault of Hypercorn 0.18: it waits a minute for the handshake, even while the server ends.
    """
    with context.idling(HANDSHAKE_SECONDS), suppress(trio.BrokenResourceError):
        await stream.do_handshake()
        return True
    return False


def _keep_alive(stream: trio.SocketStream) -> None:
    """Enable keep-alive; connections inherit it from our listener, but not from `hypercorn`'s."""
    with suppress(OSError):  # macOS, if the client has already left
        if stream.socket.family == socket.AF_UNIX:
            return
        if not stream.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE):
            keep_alive(stream)


def keep_alive(sock: trio.SocketStream | socket.socket) -> None:
    """Enable TCP keep-alive, so that the system notices if the other side vanishes."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        option: Any = getattr(socket, name, None)  # not every system has all three
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
