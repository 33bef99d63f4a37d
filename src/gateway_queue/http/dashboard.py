"""The operator's page: its files, which contain no data and need no key, and its feed."""

import math
from importlib.resources import files
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self
from urllib.parse import quote

from quart import Response, request
from quart.wrappers.response import ResponseBody
from werkzeug.exceptions import NotFound

from gateway_queue.http.answers import Answer
from gateway_queue.http.asking import Problem
from gateway_queue.watch.feed import FullError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway_queue.http.app import App
    from gateway_queue.http.stack import Context

PAGE = "/dashboard"
FEED = "/dashboard/feed"

EVENTS = "text/event-stream"

CONTENT_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}

# Allow nothing but the page's own files and feed: no frames, no inline scripts.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    " img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
FEED_HEADERS = HEADERS | {
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # otherwise nginx buffers it
}

# The files by name, with their content types.
FILES = {
    file.name: (file.read_bytes(), CONTENT_TYPES[file.name.rpartition(".")[2]])
    for file in files("gateway_queue.watch").joinpath("page").iterdir()
}
ONE, ALL = FILES.pop("index.html"), FILES.pop("bots.html")  # the page of one bot, and of all

# Paths that need no key, because their content is no secret.
PATHS = frozenset({PAGE, *(f"{PAGE}/{name}" for name in FILES)})


class Viewer(Protocol):
    """Somebody who watches the page."""

    async def next(self) -> bytes | None: ...
    def leave(self) -> None: ...


class Watched(Protocol):
    """Something that can be watched: a bot, or all bots."""

    def enter(self) -> Viewer: ...


class Watching(ResponseBody):
    """The body of the feed: a viewer's messages, until the server ends or the viewer leaves."""

    def __init__(self, viewer: Viewer, server: "Context") -> None:
        self._viewer = viewer
        self._server = server

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._viewer.leave()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        message = None
        with self._server.idling(math.inf):
            message = await self._viewer.next()
        if message is None:
            raise StopAsyncIteration
        return message


def lead_to_page(path: str) -> Answer:
    """The answer to a person who opened ``/``, or the path of a bot, in a browser.

    The redirect is relative, so that it is right behind a proxy that adds a prefix.
    """
    last = path.rpartition("/")[2]
    location = f"{quote(last)}{PAGE}" if last else PAGE[1:]
    return Answer(303, ((b"location", location.encode()), (b"content-length", b"0")), b"")


def add_dashboard(
    app: "App", is_about_all: "Callable[[], bool]", watched: "Callable[[], Watched]"
) -> None:
    """Add the page's routes to the app.

    ``is_about_all``: whether the request is about all of several bots. ``watched``: what it is
    about.
    """

    @app.get(PAGE)
    async def dashboard() -> Response:
        return _file(*(ALL if is_about_all() else ONE))

    @app.get(f"{PAGE}/<name>")
    async def dashboard_file(name: str) -> Response:
        if name not in FILES:
            raise NotFound
        return _file(*FILES[name])

    @app.get(FEED)
    async def dashboard_feed() -> Response:
        if request.method == "HEAD":
            return Response(b"", content_type=EVENTS, headers=FEED_HEADERS)
        server: Context = request.scope["state"]["connection"].context
        body = Watching(_viewer(watched()), server)
        response = Response(body, content_type=EVENTS, headers=FEED_HEADERS)
        response.timeout = None
        return response


def _file(body: bytes, content_type: str) -> Response:
    return Response(body, content_type=content_type, headers=HEADERS)


def _viewer(watched: Watched) -> Viewer:
    try:
        return watched.enter()
    except FullError:
        raise Problem(503, "the maximum number of pages is open; close one of them") from None
