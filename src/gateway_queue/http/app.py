"""The ASGI app: answers every request that Hypercorn serves.

Requests for a turn are answered in the app's ASGI connection class, before Quart's routing:
any method, held until granted, in one task. Everything else is a Quart route. Old clients take
any response for "go", so a request for a turn is answered with the grant or not at all. The
exceptions are malformed requests (see `asking`), a missing API key, and requests that opted in
with ``wait``.
"""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any, cast

import quart.wrappers
import structlog
import trio
from quart import Response, request
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection, TrioASGIWebsocketConnection
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from gateway_queue.http import dashboard
from gateway_queue.http.actions import add_actions
from gateway_queue.http.answers import JSON, Answer
from gateway_queue.http.asking import (
    Problem,
    ask_of,
    bot_of,
    confirmation_of,
    is_action,
    is_page,
    is_visit,
    launch_of,
    path_of,
    probe_of,
    refuse_other_sites,
    shard_of,
    wants_seats,
)
from gateway_queue.http.guard import BEARER, Guard, opens
from gateway_queue.http.holding import hold
from gateway_queue.http.probes import FullError, Probes
from gateway_queue.http.reader import Reader
from gateway_queue.http.wire import patience
from gateway_queue.operate.planning import plan_at
from gateway_queue.settings import DEFAULT
from gateway_queue.watch import scrape, status

if TYPE_CHECKING:
    from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, ASGISendEvent

    from gateway_queue.bot import Bot
    from gateway_queue.bots import Bots
    from gateway_queue.http.http2 import Line
    from gateway_queue.http.stack import HypercornConnection

log = structlog.get_logger()

# The description of the HTTP interface.
OPENAPI = files("gateway_queue.http").joinpath("openapi.json").read_bytes()

PROBLEM = "application/problem+json"
METRICS = "text/plain; version=0.0.4; charset=utf-8"

# The key in a request's scope for the bot that it names.
BOT = "gateway_queue.bot"

# Health checks send no key, and neither does a browser that opens a page.
OPEN_TO_ALL = frozenset({"/healthz", "/readyz"}) | dashboard.PATHS

# What Quart raises when a client has left. Quart 0.22, the last for Python 3.12, lacks it.
_ERROR = getattr(quart.wrappers, "ClientDisconnectedError", None)
CLIENT_LEFT: tuple[type[Exception], ...] = () if _ERROR is None else (_ERROR,)

# A client that has not taken its answer after this many seconds is cut off.
ANSWER_SECONDS = 5.0


class HTTPConnection(TrioASGIHTTPConnection):
    """One request."""

    app: "App"

    async def __call__(self, receive: "ASGIReceiveCallable", send: "ASGISendCallable") -> None:
        headers = dict(reversed([(n.lower(), v) for n, v in self.scope["headers"]]))  # the first
        client = _Client(self.scope["state"], receive, send)
        authorization = headers.get(b"authorization")
        try:
            target, query = path_of(self.scope["path"]), self.scope["query_string"]
            name, path = self.app.locate(target)
            self.scope["path"] = path
            self.scope["extensions"] = {**(self.scope["extensions"] or {}), BOT: {"name": name}}
            if is_visit(self.scope["method"], path, query, headers):
                await _answer_page(client, dashboard.lead_to_page(target))
                return
            if is_action(path):
                refuse_other_sites(headers)
                self.app.check_operator(name, authorization, client.peer)
            elif not self.app.lets_in(name, path, authorization):
                raise _refusal(authorization)
            ask = ask_of(path, query, name)
            if ask is not None or path in {"/confirm", "/probe", dashboard.FEED}:
                refuse_other_sites(headers)
        except Problem as problem:
            refusal = Answer.of(problem.status, problem.body, PROBLEM, problem.headers)
            await _answer_page(client, refusal)
            return
        if ask is None:
            await super().__call__(receive, send)
            return
        lets_in = partial(self.app.lets_in, name, path, authorization)
        if not await hold(ask, self.app.bots, client, lets_in) and client.has_left():
            client.cut()  # otherwise Hypercorn, which may not have noticed, answers 500

    @property
    def _connection(self) -> "HypercornConnection | Line":
        return cast("HypercornConnection | Line", self.scope["state"]["connection"])

    async def _send_response(self, send: "ASGISendCallable", response: Any) -> None:
        """Send a page, shielded from cancellation.

        Fault of Hypercorn 0.18 with Quart-Trio 0.12 and 0.13: Hypercorn reports
        ``http.disconnect`` to the app before it closes the connection, and Quart-Trio then
        cancels the task that is closing it. Without the shield, no connection ever closes
        after an answer.
        """
        if isinstance(response.response, dashboard.Watching):
            await self._send_feed(send, response)
            return
        async with self._shielded():
            # Quart-Trio does not catch this either, although Quart does.
            with suppress(*CLIENT_LEFT):
                await super()._send_response(send, response)

    async def _send_feed(self, send: "ASGISendCallable", response: Any) -> None:
        """Send the parts of the feed as they come, until the viewer leaves or the server ends."""

        async def send_part(part: "ASGISendEvent") -> None:
            async with self._shielded():
                await send(part)

        async with response.response:  # so that it is closed even if it never begins
            with suppress(*CLIENT_LEFT):
                await super()._send_response(send_part, response)

    @asynccontextmanager
    async def _shielded(self) -> AsyncIterator[None]:
        """Shield the body, which sends, and cut the connection if the client takes nothing."""

        def give_up() -> None:
            log.debug("page_not_taken", peer=self._connection.peer)
            self._connection.cut()

        async with patience(ANSWER_SECONDS, give_up) as nursery:
            nursery.cancel_scope.shield = True
            yield


def _refusal(authorization: bytes | None) -> Problem:
    detail = "the API key is not the one this server expects"
    if authorization is None:
        detail = "this server requires an API key: Authorization: Bearer <key>"
    return Problem(401, detail, headers=BEARER)


class _Client:
    """A client that asks for a turn through Hypercorn."""

    def __init__(
        self,
        state: Mapping[str, Any],
        receive: "ASGIReceiveCallable",
        send: "ASGISendCallable",
    ) -> None:
        self._state = state
        self._receive = receive
        self._send = send

    @property
    def _connection(self) -> "HypercornConnection | Line":
        return cast("HypercornConnection | Line", self._state["connection"])

    @property
    def peer(self) -> str:
        return self._connection.peer

    def has_left(self) -> bool:
        return self._connection.has_left()

    def hand_over(self, grant: int) -> bool:  # noqa: ARG002
        return False  # Hypercorn cannot send without waiting

    async def leaving(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def answer(self, answer: Answer) -> None:
        too_slow = False

        def give_up() -> None:
            nonlocal too_slow
            too_slow = True
            self._connection.cut()

        headers = list(answer.headers)
        async with patience(ANSWER_SECONDS, give_up):
            await self._send(
                {"type": "http.response.start", "status": answer.status, "headers": headers}
            )
            await self._send(
                {"type": "http.response.body", "body": answer.body, "more_body": False}
            )
        if too_slow:
            raise trio.TooSlowError

    def cut(self) -> None:
        self._connection.cut()


class WebSocketConnection(TrioASGIWebsocketConnection):
    """Cuts the connection: no WebSocket is served, and any answer might be taken for a grant."""

    async def __call__(self, receive: Any, send: Any) -> None:  # noqa: ARG002
        connection: HypercornConnection = self.scope["state"]["connection"]
        connection.cut()


async def _answer_page(client: _Client, answer: Answer) -> None:
    """Answer with something other than a turn; it does not matter if the client is too slow."""
    try:
        await client.answer(answer)
    except trio.TooSlowError:
        log.debug("page_not_taken", peer=client.peer)


class App(QuartTrio):
    """The app. Set ``bots`` before it serves, and run its ``reader``."""

    asgi_http_class = HTTPConnection
    asgi_websocket_class = WebSocketConnection
    bots: "Bots"
    reader: Reader
    guard: Guard

    def locate(self, path: str) -> tuple[str | None, str]:
        """The bot that a path names (None if it names none), and the rest of the path."""
        return bot_of(path) if self.bots.several else (None, path)

    def lets_in(self, name: str | None, path: str, authorization: bytes | None) -> bool:
        """Whether a request for this bot has the right API key, or needs none.

        The key of a bot that does not exist is unknown, so requests may wait for it with any.
        """
        bot = self.bots.find(name)
        if path in OPEN_TO_ALL or (bot is None and authorization and not is_page(path)):
            return True
        keys = [key for key in (self.bots.api_key, bot.api_key if bot else None) if key]
        return not keys or opens(keys, authorization)

    def check_operator(self, name: str | None, authorization: bytes | None, peer: str) -> None:
        """Raise Problem unless a request has an operator key of this bot.

        It needs no API key as well, because a request can only carry one key.
        """
        bot = self.bots.find(name)
        keys = [k for k in (self.bots.operator_key, bot.operator_key if bot else None) if k]
        self.guard.check(keys, authorization, peer.rpartition(":")[0], trio.current_time())


def create_app() -> App:
    app = App("gateway_queue", static_folder=None)
    app.reader = Reader()
    app.guard = Guard()
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False  # a wrong method gets a 405
    app.register_error_handler(Problem, _problem_page)
    app.register_error_handler(HTTPException, _error_page)
    app.register_error_handler(Exception, _failure_page)
    app.add_url_rule("/openapi.json", view_func=_openapi)
    _add_status(app)
    _add_plan(app)
    add_actions(app, partial(_bot, app))
    _add_probe(app)
    dashboard.add_dashboard(app, partial(_is_about_all, app), partial(_watched, app))

    @app.get("/healthz")
    async def healthz() -> Response:
        return Response("alive\n", content_type="text/plain")

    @app.get("/readyz")
    async def readyz() -> Response:
        bot = app.bots if _is_about_all(app) else _bot(app)
        if reason := bot.why_not_ready():
            raise Problem(503, reason)
        return Response("ready\n", content_type="text/plain")

    @app.get("/metrics")
    async def metrics() -> Response:
        if _name() is None:
            everybody = list(app.bots.by_name.values())
            page = await scrape.page(everybody, app.bots.metrics, app.bots.lobby.guests)
        else:
            page = await scrape.page([_bot(app)], app.bots.metrics)
        return Response(page, content_type=METRICS)

    @app.get("/gateway/bot")
    async def gateway_bot() -> Response:
        answer = status.gateway_bot(_bot(app).queue)
        if answer is None:
            raise Problem(503, "Discord's answer has not been read; is DISCORD_TOKEN set?")
        return Response(json.dumps(answer), content_type=JSON)

    @app.post("/confirm")
    async def confirm() -> Response:
        said = confirmation_of(request.query_string)
        if not _bot(app).queue.confirm(said.shard, said.outcome, said.grant):
            which = "" if said.grant is None else f" number {said.grant}"
            raise Problem(404, f"shard {said.shard} has had no grant{which} in the last 15 minutes")
        return Response(b"", status=204)

    return app


def _name() -> str | None:
    """The bot that the request names; None if it names none."""
    return cast("str | None", request.scope["extensions"][BOT]["name"])


def _is_about_all(app: App) -> bool:
    """Whether the request is about all of several bots."""
    return app.bots.several and _name() is None


def _bot(app: App) -> "Bot":
    """The bot that the request is about. Raises Problem if there is no such bot."""
    bot = app.bots.find(_name())
    if bot is None:
        raise Problem(404, f"there is no bot {(_name() or DEFAULT)[:80]!r}; /status lists the bots")
    return bot


def _watched(app: App) -> "dashboard.Watched":
    """What the requested page shows: all of several bots, or one of them."""
    return app.bots.feed if _is_about_all(app) else _bot(app).feed


def _add_status(app: App) -> None:
    @app.get("/status")
    async def status_page() -> Response:
        if _is_about_all(app):
            return Response(await app.bots.overview.body(), content_type=JSON)
        pages = _bot(app).status
        page = pages.with_seats if wants_seats(request.query_string) else pages.summary
        return Response(await page.body(), content_type=JSON)

    @app.get("/status/shards/<shard>")
    async def status_of_shard(shard: str) -> Response:
        found = _bot(app).status.of_shard(shard_of(shard))
        if found is None:
            raise Problem(
                404, f"shard {shard} is not waiting, and had no turn in the last 24 hours"
            )
        return Response(json.dumps(found), content_type=JSON)


def _add_plan(app: App) -> None:
    @app.get("/plan")
    async def plan() -> Response:
        queue = _bot(app).queue
        found = plan_at(queue, launch_of(request.query_string, queue.configured.interval))
        if found is None:
            raise Problem(503, "Discord's session start limit is unknown; see the log")
        return Response(json.dumps(asdict(found)), content_type=JSON)


def _add_probe(app: App) -> None:
    probes = Probes()

    @app.get("/probe")
    async def probe() -> Response:
        if _name() is not None:
            _bot(app)  # a bot that does not exist has no pages
        asked = probe_of(request.query_string)
        if asked.hold is None:
            state = None if asked.name is None else probes.state_of(asked.name)
            if state is None:
                raise Problem(404, "no recent probe has this id; start one with &hold=60")
            return Response(json.dumps(state), content_type=JSON)
        connection = request.scope["state"]["connection"]
        try:
            lasted = await probes.hold(asked.hold, asked.name, connection.context, connection.peer)
        except FullError:
            raise Problem(503, "the maximum number of probes is being held; try again") from None
        if not lasted:
            raise Problem(503, "the server is shutting down")
        return Response(b"", status=204)


async def _openapi() -> Response:
    return Response(OPENAPI, content_type=JSON)


async def _problem_page(problem: Problem) -> Response:
    headers = {name.decode(): value.decode() for name, value in problem.headers}
    return Response(problem.body, problem.status, headers, content_type=PROBLEM)


async def _error_page(error: HTTPException) -> Response:
    detail, headers = error.description or "no details are available", {}
    if isinstance(error, NotFound):
        detail = "there is nothing at this path, and no turn was taken; ask with /?shard=42"
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = ", ".join(sorted(error.valid_methods or ()))
        detail = f"this page only allows {headers['Allow']}"
    page = await _problem_page(Problem(error.code or 500, detail))
    page.headers.update(headers)
    return page


async def _failure_page(error: Exception) -> Response:
    log.error("page_failed", exc_info=error)
    return await _problem_page(Problem(500, "the server could not create this page; see its log"))
