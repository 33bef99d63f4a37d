"""The ASGI app: what each path answers, but for those that ask for a turn.

Requests for a turn are answered in the app's ASGI connection class (``request.py``), before
Quart's routing. Everything else is a Quart route.
"""

import json
from dataclasses import asdict
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, cast

import trio
from quart import Response, request
from quart_trio import QuartTrio

from gateway_queue.http import dashboard
from gateway_queue.http.actions import add_actions
from gateway_queue.http.answers import JSON
from gateway_queue.http.asking import (
    Problem,
    bot_of,
    confirmation_of,
    is_page,
    launch_of,
    probe_of,
    shard_of,
    wants_seats,
)
from gateway_queue.http.guard import Guard, opens
from gateway_queue.http.probes import FullError, Probes
from gateway_queue.http.problems import add_problems
from gateway_queue.http.reader import Reader
from gateway_queue.http.relay import page_for
from gateway_queue.http.request import BOT, HTTPConnection, WebSocketConnection
from gateway_queue.operate.planning import plan_at
from gateway_queue.settings import DEFAULT
from gateway_queue.watch import scrape, status

if TYPE_CHECKING:
    from gateway_queue.bot import Bot
    from gateway_queue.bots import Bots
    from gateway_queue.replicas.doorman import Doorman, Viewer

# The description of the HTTP interface.
OPENAPI = files("gateway_queue.http").joinpath("openapi.json").read_bytes()

METRICS = "text/plain; version=0.0.4; charset=utf-8"

# Health checks send no key, and neither does a browser that opens a page.
OPEN_TO_ALL = frozenset({"/healthz", "/readyz"}) | dashboard.PATHS


class App(QuartTrio):
    """The app. Set ``bots`` before it serves, and run its ``reader``."""

    asgi_http_class = HTTPConnection
    asgi_websocket_class = WebSocketConnection
    bots: "Bots"
    reader: Reader
    guard: Guard

    def serve_for(self, bots: "Bots") -> None:
        """Serve for these bots, also what was asked of another replica."""
        self.bots = bots
        bots.pages = partial(page_for, self)

    def locate(self, path: str) -> tuple[str | None, str]:
        """The bot that a path names (None if it names none), and the rest of the path."""
        return bot_of(path) if self.bots.several else (None, path)

    def lets_in(self, name: str | None, path: str, authorization: bytes | None) -> bool:
        """Whether a request for this bot has the right API key, or needs none.

        The key of a bot that does not exist is unknown, so requests may wait for it with any.
        """
        bot = self.bots.find(name)
        is_unknown = bot is None and self.bots.several
        if path in OPEN_TO_ALL or (is_unknown and authorization and not is_page(path)):
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
    add_problems(app)
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
        is_about_all = _is_about_all(app) or app.bots.is_led_elsewhere
        bot = app.bots if is_about_all else _bot(app)
        if reason := bot.why_not_ready():
            raise Problem(503, reason)
        return Response("ready\n", content_type="text/plain")

    @app.get("/metrics")
    async def metrics() -> Response:
        if _name() is None:
            everybody = list(app.bots.by_name.values())
            page = await scrape.page(
                everybody, app.bots.metrics, app.bots.lobby.guests, app.bots.doorman
            )
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
    if bot is None and app.bots.doorman is not None and not app.bots.by_name:
        raise Problem(503, "this replica is about to lead; ask again in a second")
    if bot is None:
        raise Problem(404, f"there is no bot {(_name() or DEFAULT)[:80]!r}; /status lists the bots")
    return bot


class _Elsewhere:
    """What another replica shows, as it leads."""

    def __init__(self, doorman: "Doorman", bot: str | None) -> None:
        self._doorman = doorman
        self._bot = bot

    def enter(self) -> "Viewer":
        """Let a viewer in."""
        return self._doorman.enter(self._bot)


def _watched(app: App) -> "dashboard.Watched":
    """What the requested page shows: all of several bots, or one of them."""
    if app.bots.doorman is not None and app.bots.is_led_elsewhere:
        return _Elsewhere(app.bots.doorman, _name())
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
