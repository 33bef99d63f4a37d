"""One request that came through Hypercorn: a turn is held here, a page goes on to Quart.

A request for a turn may have any method, and is held until granted, in one task. Old clients
take any response for "go", so it is answered with the grant or not at all. The exceptions are
malformed requests (see `asking`), a missing API key, and requests that opted in with ``wait``.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import quart.wrappers
import structlog
import trio
from quart_trio.asgi import TrioASGIHTTPConnection, TrioASGIWebsocketConnection

from gateway_queue.http import dashboard
from gateway_queue.http.answers import Answer
from gateway_queue.http.asking import (
    Problem,
    ask_of,
    is_action,
    is_visit,
    path_of,
    refuse_other_sites,
)
from gateway_queue.http.guard import BEARER
from gateway_queue.http.holding import hold
from gateway_queue.http.problems import PROBLEM
from gateway_queue.http.relay import is_relayed, relayed
from gateway_queue.http.wire import Channel, Due, patience

if TYPE_CHECKING:
    from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, ASGISendEvent

    from gateway_queue.http.app import App
    from gateway_queue.http.stack import HypercornConnection

log = structlog.get_logger()

# The key in a request's scope for the bot that it names.
BOT = "gateway_queue.bot"

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
            if self.app.bots.is_led_elsewhere and is_relayed(path):
                # The leader knows who may have it.
                await _answer_page(
                    client, await relayed(self.scope, target, receive, self.app.bots)
                )
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
        answered = await hold(ask, self.app.bots, client, lets_in, authorization)
        if not answered and client.has_left():
            client.cut()  # otherwise Hypercorn, which may not have noticed, answers 500

    @property
    def _connection(self) -> Channel:
        return cast("Channel", self.scope["state"]["connection"])

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
    def _connection(self) -> Channel:
        return cast("Channel", self._state["connection"])

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

    async def answer(self, answer: Answer, due: Due | None = None) -> None:
        due = due or Due()
        too_slow = False

        def give_up() -> None:
            nonlocal too_slow
            too_slow = True
            self._connection.cut()

        headers = list(answer.headers)
        with self._connection.answering(due):
            async with patience(ANSWER_SECONDS, give_up):
                await self._send(
                    {"type": "http.response.start", "status": answer.status, "headers": headers}
                )
                await self._send(
                    {"type": "http.response.body", "body": answer.body, "more_body": False}
                )
        if too_slow or due.was_missed:
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
