"""Pages that another replica has to make, as it leads.

The request goes to it as it came, and the answer comes back. What is about this replica
alone, and the files of the dashboard, are answered here.
"""

import base64
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog
import trio

from gateway_queue.http.answers import Answer
from gateway_queue.http.asking import Problem
from gateway_queue.http.problems import PROBLEM
from gateway_queue.http.wire import Channel, Due

if TYPE_CHECKING:
    from hypercorn.typing import ASGIReceiveCallable, HTTPScope

    from gateway_queue.bots import Bots
    from gateway_queue.http.app import App

log = structlog.get_logger()

RELAYED = ("/confirm", "/gateway/bot", "/operator", "/plan", "/status")

# No request that means something has a longer body.
MOST_BYTES = 16_384


def is_relayed(path: str) -> bool:
    """Whether a page is about all replicas, so that the leader has to make it."""
    return any(path == page or path.startswith(f"{page}/") for page in RELAYED)


async def relayed(
    scope: "HTTPScope", target: str, receive: "ASGIReceiveCallable", bots: "Bots"
) -> Answer:
    """Have the leader answer a request."""
    from gateway_queue.replicas.doorman import AwayError, Page  # noqa: PLC0415 - needs Redis' client

    assert bots.doorman is not None  # noqa: S101 - the caller knows
    try:
        body = await _body(receive)
        headers = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in scope["headers"]]
        query = scope["query_string"].decode("latin-1")
        head = [scope["method"], target, query, scope["state"]["connection"].peer]
        page = await bots.doorman.page(Page(head, headers, base64.b64encode(body).decode()))
    except Problem as problem:
        return Answer.of(problem.status, problem.body, PROBLEM, problem.headers)
    except AwayError:
        away = Problem(503, "no replica leads at the moment; ask again in a second")
        return Answer.of(away.status, away.body, PROBLEM)
    return Answer(
        page.head[0],
        tuple((n.encode("latin-1"), v.encode("latin-1")) for n, v in page.headers),
        base64.b64decode(page.body),
    )


async def page_for(app: "App", page: list[Any]) -> list[Any]:
    """Answer what another replica was asked: a request in, an answer out, both as lists."""
    (method, target, query, peer), headers, body = page
    status, answered = 500, []
    parts: list[bytes] = []
    channel: Channel = _Elsewhere(peer)
    sent = False

    async def receive() -> Any:
        nonlocal sent
        if sent:
            await trio.sleep_forever()  # its client never leaves
        sent = True
        return {"type": "http.request", "body": base64.b64decode(body), "more_body": False}

    async def send(event: Any) -> None:
        nonlocal status, answered
        if event["type"] == "http.response.start":
            status = event["status"]
            answered = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in event["headers"]]
        elif event["type"] == "http.response.body":
            parts.append(bytes(event.get("body", b"")))

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": target,
        "raw_path": target.encode(),
        "query_string": query.encode("latin-1"),
        "root_path": "",
        "headers": [(n.encode("latin-1"), v.encode("latin-1")) for n, v in headers],
        "client": None,
        "server": None,
        "state": {"connection": channel},
        "extensions": {},
    }
    try:
        await app(scope, receive, send)  # type: ignore[arg-type]
    except Exception as error:  # it is to cost nobody but its client anything
        log.error("page_failed", exc_info=error)
        parts.clear()
    return [[status], answered, base64.b64encode(b"".join(parts)).decode()]


@dataclass(frozen=True)
class _Elsewhere:
    """The connection of a client that another replica has."""

    peer: str

    def has_left(self) -> bool:
        return False

    def answering(self, due: Due) -> AbstractContextManager[None]:  # noqa: ARG002
        return nullcontext()

    def cut(self) -> None:
        """That is up to the other replica."""


async def _body(receive: "ASGIReceiveCallable") -> bytes:
    body = b""
    while True:
        event = await receive()
        if event["type"] != "http.request":
            raise Problem(400, "the client left before its request was complete")
        body += event["body"]
        if len(body) > MOST_BYTES:
            raise Problem(413, f"the body has more than {MOST_BYTES} bytes")
        if not event["more_body"]:
            return body
