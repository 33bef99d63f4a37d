"""Waits for a shard's turn, and confirms its IDENTIFY."""

import logging
import random
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
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

# How a server that vanished without a word is noticed within a minute: by the system, so that
# no timeout of ours ends a request that a living server holds.
KEEP_ALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 60_000}


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
        self._client = httpx.AsyncClient(
            base_url=_address(url),
            headers=_authorization(api_key),
            timeout=httpx.Timeout(None, connect=CONNECT_WITHIN, write=WRITE_WITHIN),
            transport=httpx.AsyncHTTPTransport(
                verify=ssl_context or True,
                limits=httpx.Limits(max_connections=None),
                socket_options=_keep_alive(),
            ),
        )

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._client.__aexit__(kind, error, traceback)

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
        while True:
            try:
                standing = _standing(await self._send("GET", "", asked | {"wait": hold}))
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
            for pause in _pauses():
                try:
                    await self._send("POST", "confirm", said)
                except RefusedError as error:
                    if error.status != 404:
                        raise
                    why = error
                    break
                except _NoAnswerError as error:
                    why = error
                    await anyio.sleep(pause)
                else:
                    return True
        log.warning("shard %d could not confirm its IDENTIFY: %s", shard, why)
        return False

    async def _send(self, method: str, path: str, asked: dict[str, Any]) -> httpx.Response:
        """The server's answer, if it is a good one; raises RefusedError, _NoAnswerError."""
        try:
            response = await self._client.request(method, path, params=asked)
        except httpx.RequestError as error:
            raise _NoAnswerError(str(error) or type(error).__name__) from error
        status = response.status_code
        if response.is_success:
            return response
        # A proxy has errors of its own, which pass; but not these.
        ours = response.headers.get("Content-Type") == "application/problem+json"
        if status in {401, 403} or (ours and response.is_client_error):
            raise RefusedError(status, _detail(response) if ours else response.reason_phrase)
        raise _NoAnswerError(f"{status} {response.reason_phrase}, which is not the queue's answer")


def _standing(response: httpx.Response) -> Standing | None:
    """How the shard stands; None if it is its turn. Raises _NoAnswerError if neither is said."""
    try:
        said = response.json()
        if response.status_code == 200 and said == GRANT:
            return None
        if response.status_code == 202:
            return Standing(said["position"], said["expected_in"], said["reason"])
    except (ValueError, LookupError, TypeError):
        pass
    raise _NoAnswerError(f"{response.status_code}, but not with the queue's words")


def _detail(response: httpx.Response) -> str:
    try:
        return str(response.json()["detail"])
    except (ValueError, LookupError, TypeError):
        return response.reason_phrase


def _pauses() -> Iterator[float]:
    """Seconds to pause after each failure: not all shards at the same moment."""
    longest = FIRST_PAUSE
    while True:
        yield random.uniform(longest / 2, longest)  # noqa: S311 - no secret
        longest = min(2 * longest, LONGEST_PAUSE)


def _address(url: str) -> httpx.URL:
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"the queue's address is no URL: {error}") from None
    if address.scheme not in {"http", "https"} or not address.host:
        raise ValueError(
            "the queue's address must be an http or https URL, as http://127.0.0.1:8000"
        )
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
