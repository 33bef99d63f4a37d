"""Waits for a shard's turn, and confirms its IDENTIFY."""

import json
import logging
import math
import random
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Self

import anyio
import httpx

from gateway_queue.client.news import Standing, news_of

log = logging.getLogger("gateway_queue.client")

# Nothing else is permission, whatever its status: it may be another server's page.
PERMISSION = {"message": "You're free to connect now! :)"}
NUMBER = "X-Gateway-Queue-Grant"

Outcome = Literal["identified", "ready", "invalid_session"]

# Seconds for which one request is held. The first is short, to learn the shard's position soon.
# The others vary, because shards that began together would otherwise keep asking together; they
# are as long as the least patient proxy allows (Envoy gives up after 15 s).
FIRST_HOLD = 1.0
SHORTEST_HOLD, LONGEST_HOLD = 10.0, 14.0

# Seconds between failed attempts: doubled each time, with jitter. Even after the longest, the
# server still keeps the place (GATEWAY_QUEUE_SEAT_TTL, 60 s).
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0

# Seconds in which a confirmation is useful; after that, the bucket opens without it.
CONFIRM_WITHIN = 10.0

CONNECT_WITHIN = WRITE_WITHIN = 5.0  # seconds

# Whatever else answers in the server's place may never stop sending.
BODY_WITHIN = 5.0  # seconds after the head
LONGEST_BODY = 10_000  # bytes; the server's own bodies have a few hundred

# The system notices within a minute if the server vanishes without closing the connection, so
# we need no time-out that would end a request held by a live server.
KEEP_ALIVE = {
    "TCP_KEEPIDLE": 15,
    "TCP_KEEPALIVE": 15,  # the same on macOS
    "TCP_KEEPINTVL": 15,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 60_000,
}


@dataclass(frozen=True, slots=True)
class Grant:
    """The permission for one IDENTIFY. ``number`` is the server's; None if it gave none."""

    shard: int
    number: int | None = None


class RefusedError(Exception):
    """The server refuses the request, so there is no point in asking again."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(f"the queue refuses: {why} ({status})")
        self.status = status


class _NoAnswerError(Exception):
    """This attempt failed; another one may succeed."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    number: int | None  # of the grant, if it is one
    said: Any  # in JSON; None if it is not


class GatewayQueue:
    """A client for a Gateway Queue, to be asked before each IDENTIFY of a bot's shards::

        async with GatewayQueue("http://127.0.0.1:8000") as queue:
            grant = await queue.wait(shard_id)

    ``url`` is the server's address. It may have a path: that of one of several bots,
    ``/bots/NAME``, or a prefix that a proxy strips. ``ssl_context`` is for servers with a
    certificate from your own authority. One object serves any number of shards at a time.
    Proxies from the environment are not used.

    Raises ValueError if ``url`` is not an http or https address, or ``api_key`` is malformed.
    """

    def __init__(
        self, url: str, *, api_key: str | None = None, ssl_context: ssl.SSLContext | None = None
    ) -> None:
        self._address = _address(url)
        self._headers = httpx.Headers({"Accept-Encoding": "identity"} | _authorization(api_key))
        self._ssl_context = ssl_context or httpx.create_ssl_context()
        self._news = news_of(str(self._address))
        self._confirming: dict[int, anyio.CancelScope] = {}  # by shard

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Do nothing: connections are only open while ``wait`` or ``confirm`` runs."""

    async def wait(
        self,
        shard: int,
        *,
        confirm: bool = False,
        on_standing: Callable[[Standing], None] | None = None,
    ) -> Grant:
        """Return when the shard may identify, which it must then do at once.

        Waits for as long as it takes, even while the server or the network fails. Cancelling it
        leaves the queue; a shard that asks again within a minute gets its old place back. A
        confirmation of the shard's last grant that is still in progress is abandoned.

        With ``confirm``, the bucket stays closed for 10 s, in which the IDENTIFY must be sent
        and then confirmed. ``on_standing`` is called with the shard's standing after a second,
        and then every ten to fourteen seconds. Without it, the standing is logged, at most
        every ten seconds.

        Raises RefusedError if the server will never serve the request, for example because of
        a wrong API key or an invalid shard.
        """
        self._stop_confirming(shard)
        asked = {"shard": shard} | ({"confirm": "true"} if confirm else {})
        hold = FIRST_HOLD
        pauses = _pauses()
        with self._news.waiting(shard) as request:
            async with self._connection() as connection:
                while True:
                    asked_at = anyio.current_time()
                    try:
                        answer = await _send(connection, "GET", "", asked | {"wait": f"{hold:g}"})
                        outcome = _outcome(answer, shard)
                    except _NoAnswerError as why:
                        self._news.fails(request, why)
                        await anyio.sleep(next(pauses))
                        hold = FIRST_HOLD
                        continue
                    if self._news.answers(request):
                        pauses = _pauses()
                    if isinstance(outcome, Grant):
                        return outcome
                    if on_standing is None:
                        self._news.stands(request, outcome)
                    else:
                        on_standing(outcome)
                    if anyio.current_time() < asked_at + hold / 2:
                        await anyio.sleep(next(pauses))  # it is ending, or never holds requests
                    hold = _hold()

    async def confirm(self, grant: Grant, outcome: Outcome = "identified") -> bool:
        """Report a grant's outcome: its IDENTIFY was sent, got READY, or got an op 9.

        Returns whether the server accepted it. False if the server gave no such grant in the
        last 15 minutes, or cannot be reached within ten seconds. The shard's next confirmation,
        or its next ``wait``, replaces one that is still in progress.

        Raises RefusedError for a wrong API key.
        """
        shard = grant.shard
        said: dict[str, Any] = {"shard": shard}
        if grant.number is not None:
            said["grant"] = grant.number
        if outcome != "identified":
            said["outcome"] = outcome
        self._stop_confirming(shard)
        with anyio.move_on_after(CONFIRM_WITHIN) as scope:
            self._confirming[shard] = scope
            try:
                return await self._confirm(shard, said)
            finally:
                replaced = self._confirming.get(shard) is not scope
                if not replaced:
                    del self._confirming[shard]
        if not replaced:
            level = logging.DEBUG if self._news.away else logging.WARNING
            late = f"no answer within {CONFIRM_WITHIN:g} s"
            log.log(level, "shard %d could not confirm its IDENTIFY: %s", shard, late)
        return False

    async def _confirm(self, shard: int, said: dict[str, Any]) -> bool:
        pauses = _pauses()
        with self._news.asking(shard) as request:
            async with self._connection() as connection:
                while True:
                    try:
                        answer = await _send(connection, "POST", "confirm", said)
                    except _NoAnswerError as no_answer:
                        self._news.fails(request, no_answer)
                        await anyio.sleep(next(pauses))
                        continue
                    except RefusedError as error:
                        if error.status not in {400, 404}:
                            raise
                        why = str(error)
                    else:
                        if answer.status == 204:
                            self._news.answers(request)
                            return True
                        # No retry: the original server takes each for a request for a turn.
                        why = f"{answer.status}, which is not the queue's answer to it"
                    log.warning("shard %d could not confirm its IDENTIFY: %s", shard, why)
                    return False

    def _stop_confirming(self, shard: int) -> None:
        if (pending := self._confirming.pop(shard, None)) is not None:
            pending.cancel()

    def _connection(self) -> httpx.AsyncClient:
        """A connection for one shard, which closes it.

        A shared pool would keep connections open whose shard was cancelled while connecting,
        and visits all connections for each request (faults of httpcore 1.0).
        """
        return httpx.AsyncClient(
            base_url=self._address,
            headers=self._headers,
            timeout=httpx.Timeout(None, connect=CONNECT_WITHIN, write=WRITE_WITHIN),
            transport=httpx.AsyncHTTPTransport(
                verify=self._ssl_context, socket_options=_keep_alive()
            ),
        )


async def _send(
    connection: httpx.AsyncClient, method: str, path: str, asked: dict[str, Any]
) -> _Answer:
    """Send a request; returns the server's answer. Raises RefusedError, _NoAnswerError."""
    try:
        async with connection.stream(method, path, params=asked) as response:
            said = _json(await _body(response))
    except httpx.RequestError as error:
        raise _NoAnswerError(str(error) or type(error).__name__) from error
    status = response.status_code
    if response.is_success:
        return _Answer(status, _number(response), said)
    # A proxy's own errors are temporary, but these are not.
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip()
    ours = kind == "application/problem+json"
    if status in {401, 403} or (ours and status in {400, 404}):
        told = isinstance(said, dict) and isinstance(said.get("detail"), str)
        raise RefusedError(status, said["detail"] if ours and told else response.reason_phrase)
    raise _NoAnswerError(f"{status} {response.reason_phrase}, which is not the queue's answer")


async def _body(response: httpx.Response) -> bytes:
    body = b""
    with anyio.move_on_after(BODY_WITHIN) as reading:
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > LONGEST_BODY:
                reading.cancel()
    if reading.cancel_called:
        raise _NoAnswerError("an answer that is too long, or never ends")
    return body


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _number(response: httpx.Response) -> int | None:
    number = response.headers.get(NUMBER, "")
    return int(number) if re.fullmatch("[0-9]{1,20}", number) else None


def _outcome(answer: _Answer, shard: int) -> Grant | Standing:
    """The shard's grant, or its standing. Raises _NoAnswerError if the answer has neither."""
    match answer:
        case _Answer(200, number, said) if said == PERMISSION:
            return Grant(shard, number)
        case _Answer(
            202,
            _,
            {
                "position": int(position),
                "expected_in": int() | float() | None as expected_in,
                "reason": str(reason),
            },
        ) if expected_in is None or 0 <= expected_in < math.inf:
            return Standing(position, expected_in, reason)
    raise _NoAnswerError(f"{answer.status}, but not the queue's own answer")


def _hold() -> float:
    return round(random.uniform(SHORTEST_HOLD, LONGEST_HOLD), 1)  # noqa: S311 - no secret


def _pauses() -> Iterator[float]:
    """Seconds to pause after each failure, random so that shards do not retry in step."""
    longest = FIRST_PAUSE
    while True:
        yield random.uniform(longest / 2, longest)  # noqa: S311 - no secret
        longest = min(2 * longest, LONGEST_PAUSE)


def _address(url: str) -> httpx.URL:
    """Parse the address. The ValueError does not show it, because it may contain a password."""
    try:
        address = httpx.URL(url)
        address.host.encode("idna")
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ValueError(f"the queue's address is not a URL: {error}") from None
    more_than_an_address = address.userinfo or address.query or address.fragment
    if address.scheme not in {"http", "https"} or not address.host or more_than_an_address:
        raise ValueError(
            "the queue's address must be an http or https URL without user, password or query,"
            " such as http://127.0.0.1:8000"
        )
    if address.port is not None and not 0 < address.port < 65_536:
        raise ValueError(f"the queue's address has an invalid port: {address.port}")
    return address


def _authorization(api_key: str | None) -> dict[str, str]:
    """The header with the key. The ValueError does not show it, as the HTTP library's would."""
    if api_key is None:
        return {}
    if not (api_key and api_key.isascii() and api_key.isprintable()) or " " in api_key:
        raise ValueError(
            "the API key must consist of visible ASCII characters; does it end with a newline?"
        )
    return {"Authorization": f"Bearer {api_key}"}


def _keep_alive() -> list[tuple[int, int, int]]:
    return [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)] + [
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in KEEP_ALIVE.items()
        if hasattr(socket, name)  # not every system has all of them
    ]
