"""Waits for a shard's turn, and confirms its IDENTIFY."""

import json
import logging
import math
import random
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import anyio
import httpx

log = logging.getLogger("gateway_queue.client")

# Nothing else is a permission, whatever its status: it may be somebody else's page.
GRANT = {"message": "You're free to connect now! :)"}

# Seconds for which one request is held: the first shortly, to learn soon how the shard stands,
# and none for longer than the least patient proxy (Envoy, 15 s) bears.
FIRST_HOLD, HOLD = 1, 10

# Seconds between attempts that fail: doubled each time, with jitter. After the longest the
# server still keeps the place (GATEWAY_QUEUE_SEAT_TTL, 60 s).
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0

# Seconds in which a confirmation is of use: then the bucket opens without it.
CONFIRM_WITHIN = 10.0

CONNECT_WITHIN = WRITE_WITHIN = 5.0  # seconds

# What else answers in the server's place may do so without end.
BODY_WITHIN = 5.0  # seconds after the head
LONGEST_BODY = 10_000  # bytes; the server's own have a few hundred

# How a server that vanished without a word is noticed within a minute: by the system, so that
# no timeout of ours ends a request that a living server holds.
KEEP_ALIVE = {
    "TCP_KEEPIDLE": 15,
    "TCP_KEEPALIVE": 15,  # the same on macOS
    "TCP_KEEPINTVL": 15,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 60_000,
}


@dataclass(frozen=True, slots=True)
class Standing:
    """How a waiting shard stands.

    ``position`` is 1 for the next of its bucket. ``expected_in`` is in seconds, None where
    nobody can know. ``reason`` is one of those in docs/http.md, such as ``interval``.
    """

    position: int
    expected_in: float | None
    reason: str


class RefusedError(Exception):
    """The server refuses what was asked, so that asking again is of no use."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(f"the queue refuses: {why} ({status})")
        self.status = status


class _NoAnswerError(Exception):
    """This attempt failed; another one may not."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    said: Any  # in JSON; None if it is not


class GatewayQueue:
    """A Gateway Queue, which is to be asked before each IDENTIFY of a bot's shards.

        async with GatewayQueue("http://127.0.0.1:8000") as queue:
            await queue.wait(shard_id)

    ``url`` is the server's address. If it has a path, the proxy that wants it there takes it
    away before the server sees it. ``ssl_context`` is for a server with a certificate of one's
    own authority. One object serves any number of shards at a time. Proxies that the
    environment has for the world are not used.

    Raises ValueError if ``url`` is no http or https address, or ``api_key`` cannot be one.
    """

    def __init__(
        self, url: str, *, api_key: str | None = None, ssl_context: ssl.SSLContext | None = None
    ) -> None:
        self._address = _address(url)
        self._headers = httpx.Headers({"Accept-Encoding": "identity"} | _authorization(api_key))
        self._ssl_context = ssl_context or httpx.create_ssl_context()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing is open but while ``wait`` and ``confirm`` run."""

    async def wait(
        self,
        shard: int,
        *,
        confirm: bool = False,
        on_standing: Callable[[Standing], None] | None = None,
    ) -> None:
        """Return when the shard may identify; to be done at once.

        Waits for as long as it takes, also while the server or the way to it fails. Cancelling
        it leaves the queue; a shard that comes back within a minute has its old place.

        With ``confirm`` the bucket stays closed for 10 s, in which the IDENTIFY is to be sent
        and then confirmed. ``on_standing`` is told how the shard stands: after a second, and
        then every ten.

        Raises RefusedError for a request that the server will never serve: a wrong API key, a
        shard that is none.
        """
        asked = {"shard": shard} | ({"confirm": "true"} if confirm else {})
        hold = FIRST_HOLD
        pauses = _pauses()
        failing = False
        async with self._connection() as connection:
            while True:
                asked_at = anyio.current_time()
                try:
                    standing = _standing(await _send(connection, "GET", "", asked | {"wait": hold}))
                except _NoAnswerError as why:
                    level = logging.DEBUG if failing else logging.WARNING
                    log.log(level, "shard %d asks the queue again until it answers: %s", shard, why)
                    failing = True
                    await anyio.sleep(next(pauses))
                    continue
                if failing:
                    log.info("shard %d: the queue answers again", shard)
                    failing = False
                    pauses = _pauses()
                if standing is None:
                    return
                if on_standing is not None:
                    on_standing(standing)
                if anyio.current_time() < asked_at + hold / 2:
                    await anyio.sleep(next(pauses))  # it is ending, or does not hold at all
                hold = HOLD

    async def confirm(self, shard: int, *, invalid_session: bool = False) -> bool:
        """Say that the shard's IDENTIFY was sent, or with ``invalid_session`` that it got an op 9.

        Returns whether the server knows of the turn. It does not if it was given more than
        15 minutes ago, or if the server cannot be reached within ten seconds.

        Raises RefusedError as ``wait`` does.
        """
        said = {"shard": shard} | ({"outcome": "invalid_session"} if invalid_session else {})
        why: object = f"no answer within {CONFIRM_WITHIN:g} s"
        with anyio.move_on_after(CONFIRM_WITHIN):
            async with self._connection() as connection:
                for pause in _pauses():
                    try:
                        answer = await _send(connection, "POST", "confirm", said)
                    except RefusedError as error:
                        if error.status != 404:
                            raise
                        why = error
                        break
                    except _NoAnswerError as error:
                        why = error
                        await anyio.sleep(pause)
                    else:
                        if answer.status == 204:
                            return True
                        # Not again: the original server takes each for a request for a turn.
                        why = f"{answer.status}, which is not what the queue says to it"
                        break
        log.warning("shard %d could not confirm its IDENTIFY: %s", shard, why)
        return False

    def _connection(self) -> httpx.AsyncClient:
        """A connection for one shard, which closes it.

        A pool for all would keep those open whose shard was cancelled while it connected, and
        for each request looks at all the others (httpcore 1.0).
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
    """The server's answer, if it is a good one; raises RefusedError, _NoAnswerError."""
    try:
        async with connection.stream(method, path, params=asked) as response:
            said = _json(await _body(response))
    except httpx.RequestError as error:
        raise _NoAnswerError(str(error) or type(error).__name__) from error
    status = response.status_code
    if response.is_success:
        return _Answer(status, said)
    # A proxy has errors of its own, which pass; but not these.
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
        raise _NoAnswerError("an answer that is too long, or does not end")
    return body


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _standing(answer: _Answer) -> Standing | None:
    """How the shard stands; None if it is its turn. Raises _NoAnswerError if neither is said."""
    match answer:
        case _Answer(200, said) if said == GRANT:
            return None
        case _Answer(
            202,
            {
                "position": int(position),
                "expected_in": int() | float() | None as expected_in,
                "reason": str(reason),
            },
        ) if expected_in is None or 0 <= expected_in < math.inf:
            return Standing(position, expected_in, reason)
    raise _NoAnswerError(f"{answer.status}, but not with the queue's words")


def _pauses() -> Iterator[float]:
    """Seconds to pause after each failure: not all shards at the same moment."""
    longest = FIRST_PAUSE
    while True:
        yield random.uniform(longest / 2, longest)  # noqa: S311 - no secret
        longest = min(2 * longest, LONGEST_PAUSE)


def _address(url: str) -> httpx.URL:
    """Raises ValueError without the URL in it, which may have a password."""
    try:
        address = httpx.URL(url)
        address.host.encode("idna")
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ValueError(f"the queue's address is no URL: {error}") from None
    more_than_an_address = address.userinfo or address.query or address.fragment
    if address.scheme not in {"http", "https"} or not address.host or more_than_an_address:
        raise ValueError(
            "the queue's address must be an http or https URL without user, password or query,"
            " as http://127.0.0.1:8000"
        )
    if address.port is not None and not 0 < address.port < 65_536:
        raise ValueError(f"the queue's address has a port that there is not: {address.port}")
    return address


def _authorization(api_key: str | None) -> dict[str, str]:
    """Raises ValueError without the key in it, which the HTTP library's own errors would have."""
    if api_key is None:
        return {}
    if not (api_key and api_key.isascii() and api_key.isprintable()) or " " in api_key:
        raise ValueError(
            "the API key must be of visible ASCII characters; is a newline at its end?"
        )
    return {"Authorization": f"Bearer {api_key}"}


def _keep_alive() -> list[tuple[int, int, int]]:
    return [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)] + [
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in KEEP_ALIVE.items()
        if hasattr(socket, name)  # which of them there are depends on the system
    ]
