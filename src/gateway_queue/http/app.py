"""The HTTP edge: answers each request.

Requests for a turn are answered in the app's ASGI connection class, before Quart's
routing: any method, held until granted, in one task. Everything else is a Quart route.
For old clients any response means "go", so a request for a turn is answered with the
grant or not at all; the exceptions are the problems of `asking`, a missing API key, and
what a request opted in to with ``wait``.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from hmac import compare_digest
from importlib.resources import files
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import structlog
import trio
from quart import Response, request
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection, TrioASGIWebsocketConnection
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from gateway_queue.http.asking import (
    Ask,
    Problem,
    ask_of,
    confirmation_of,
    path_of,
    shard_of,
    wants_seats,
)
from gateway_queue.queue.standing import Standing, standing_of
from gateway_queue.watch import scrape, status

if TYPE_CHECKING:
    from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable

    from gateway_queue.bot import Bot
    from gateway_queue.http.connection import Connection

log = structlog.get_logger()

# The original's answer, to the letter.
GRANTED = b'{"message": "You\'re free to connect now! :)"}'

# What all of this looks like from outside.
OPENAPI = files("gateway_queue.http").joinpath("openapi.json").read_bytes()

JSON = "application/json"
PROBLEM = "application/problem+json"
METRICS = "text/plain; version=0.0.4; charset=utf-8"

# Whatever the position: the place is kept, so the best is to ask again at once.
ASK_AGAIN = {"Retry-After": "1", "X-Retry-After-Ms": "1"}

# Probes have no key.
OPEN_TO_ALL = frozenset({"/healthz", "/readyz"})

# A client that has not taken its answer after so many seconds never will.
ANSWER_SECONDS = 5.0


class HTTPConnection(TrioASGIHTTPConnection):
    """One request."""

    app: "App"

    async def __call__(self, receive: "ASGIReceiveCallable", send: "ASGISendCallable") -> None:
        try:
            self.scope["path"] = path_of(self.scope["path"])
            self._check_key()
            ask = ask_of(self.scope["path"], self.scope["query_string"])
        except Problem as problem:
            headers = {"WWW-Authenticate": "Bearer"} if problem.status == 401 else {}
            await self._answer(send, problem.status, problem.body, PROBLEM, headers)
            return
        if ask is None:
            await super().__call__(receive, send)
            return
        try:
            await self._hold(ask, receive, send)
        except Exception:
            # Unanswered: Hypercorn would send a 500, and old clients would identify.
            log.exception("request_failed", shard=ask.shard)
            self._connection.cut()

    async def _hold(
        self, ask: Ask, receive: "ASGIReceiveCallable", send: "ASGISendCallable"
    ) -> None:
        queue = self.app.bot.queue
        with queue.turn(ask.shard, confirm=ask.confirm, patient=ask.wait is not None) as turn:
            if ask.wait is not None:
                turn.waiting.deadline = turn.arrived_at + ask.wait
            left = not await turn.wait(partial(_gone, receive))
            standing = standing_of(turn, queue) if turn.was_put_off else None
            if turn.grant is not None:
                await self._answer(send, 200, GRANTED, JSON)
        # Out of the line, or it might be granted while it is being told to ask again.
        if standing is not None:
            await self._answer(send, 202, _put_off(standing), JSON, ASK_AGAIN)
        elif left:
            await self._connection.request_left()

    @property
    def _connection(self) -> "Connection":
        return cast("Connection", self.scope["state"]["connection"])

    def _check_key(self) -> None:
        key = self.app.api_key
        if key is None or self.scope["path"] in OPEN_TO_ALL:
            return
        for name, value in self.scope["headers"]:
            scheme, _, given = value.partition(b" ")
            if name.lower() == b"authorization" and scheme.lower() == b"bearer":
                if compare_digest(given.strip(), key.encode()):
                    return
                raise Problem(401, "the API key is not the one this server expects")
        raise Problem(401, "this server wants an API key: Authorization: Bearer <key>")

    async def _answer(
        self,
        send: "ASGISendCallable",
        code: int,
        body: bytes,
        content_type: str,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        headers = {"Content-Type": content_type, "Content-Length": str(len(body)), **headers}
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        with self._in_time():
            await send({"type": "http.response.start", "status": code, "headers": raw})
            await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _send_response(self, send: "ASGISendCallable", response: Any) -> None:
        """Send a page.

        Hypercorn tells the app that the client is gone before it closes the connection,
        and Quart-Trio then cancels the task that is doing so: without the shield a
        connection never closes after an answer (hypercorn 0.18, quart-trio 0.12, 0.13).
        """

        async def finish(message: Any) -> None:
            with self._in_time() as patience:
                patience.shield = True
                await send(message)

        await super()._send_response(cast("ASGISendCallable", finish), response)

    @contextmanager
    def _in_time(self) -> Iterator[trio.CancelScope]:
        """Cut the connection of a client that does not take its answer."""
        with trio.move_on_after(ANSWER_SECONDS) as patience:
            yield patience
        if patience.cancelled_caught:
            log.warning("answer_not_taken", after=ANSWER_SECONDS)
            self._connection.cut()


class WebSocketConnection(TrioASGIWebsocketConnection):
    """No WebSocket is served here, and any answer may be read as permission."""

    async def __call__(self, receive: Any, send: Any) -> None:  # noqa: ARG002
        connection: Connection = self.scope["state"]["connection"]
        connection.cut()


class App(QuartTrio):
    """The app. ``bot`` is to be set before it serves; ``api_key`` None lets all in."""

    asgi_http_class = HTTPConnection
    asgi_websocket_class = WebSocketConnection
    bot: "Bot"
    api_key: str | None = None


def create_app() -> App:
    app = App("gateway_queue", static_folder=None)
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False  # a wrong method is told so
    app.register_error_handler(Problem, _problem_page)
    app.register_error_handler(HTTPException, _error_page)
    app.register_error_handler(Exception, _failure_page)
    app.add_url_rule("/openapi.json", view_func=_openapi)
    _add_status(app)

    @app.get("/healthz")
    async def healthz() -> Response:
        return Response("alive\n", content_type="text/plain")

    @app.get("/readyz")
    async def readyz() -> Response:
        if reason := app.bot.queue.starts.why_not_ready():
            raise Problem(503, reason)
        return Response("ready\n", content_type="text/plain")

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(await scrape.page(app.bot.queue, app.bot.metrics), content_type=METRICS)

    @app.get("/gateway/bot")
    async def gateway_bot() -> Response:
        answer = status.gateway_bot(app.bot.queue)
        if answer is None:
            raise Problem(503, "Discord's answer has not been read; is DISCORD_TOKEN set?")
        return Response(json.dumps(answer), content_type=JSON)

    @app.post("/confirm")
    async def confirm() -> Response:
        said = confirmation_of(request.query_string)
        if not app.bot.queue.confirm(said.shard, invalid_session=said.invalid_session):
            raise Problem(404, f"shard {said.shard} has no grant of the last 15 minutes")
        return Response(b"", status=204)

    return app


def _add_status(app: App) -> None:
    @app.get("/status")
    async def status_page() -> Response:
        pages = app.bot.status
        page = pages.with_seats if wants_seats(request.query_string) else pages.summary
        return Response(await page.body(), content_type=JSON)

    @app.get("/status/shards/<shard>")
    async def status_of_shard(shard: str) -> Response:
        found = app.bot.status.of_shard(shard_of(shard))
        if found is None:
            raise Problem(404, f"shard {shard} neither waits nor was granted in the last 24 hours")
        return Response(json.dumps(found), content_type=JSON)


async def _openapi() -> Response:
    return Response(OPENAPI, content_type=JSON)


async def _gone(receive: "ASGIReceiveCallable") -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _put_off(standing: Standing) -> bytes:
    body: dict[str, Any] = {
        "message": "Not yet: ask again, your place is kept.",
        "position": standing.position,
        "expected_in": standing.expected_in,
        "reason": standing.reason,
    }
    if standing.reset_in is not None:
        body["reset_in"] = standing.reset_in
    return json.dumps(body).encode()


async def _problem_page(problem: Problem) -> Response:
    return Response(problem.body, status=problem.status, content_type=PROBLEM)


async def _error_page(error: HTTPException) -> Response:
    detail, headers = error.description or "no details are known", {}
    if isinstance(error, NotFound):
        detail = "nothing is here, and no turn was taken; ask with /?shard=42"
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = ", ".join(sorted(error.valid_methods or ()))
        detail = f"this page answers to {headers['Allow']} only"
    page = await _problem_page(Problem(error.code or 500, detail))
    page.headers.update(headers)
    return page


async def _failure_page(error: Exception) -> Response:
    log.error("page_failed", exc_info=error)
    return await _problem_page(Problem(500, "the server could not make this page; see its log"))
