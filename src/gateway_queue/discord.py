"""Reads the session start limit from Discord, and keeps it fresh.

``GET /gateway/bot`` is the only request this server makes. All bots share one client, because
each client costs 850 KiB and 40 ms.
https://discord.com/developers/docs/events/gateway#get-gateway-bot
"""

import logging
import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Self

import httpx
import structlog
import trio
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway_queue import __version__
from gateway_queue.queue.events import LimitsRead, LimitsUnread
from gateway_queue.queue.queue import Gateway, LimitsFailure, Queue
from gateway_queue.queue.rules.allowance import ReadAllowance, SessionStartLimit

log = structlog.get_logger()

TIMEOUT = 10.0

# Pauses between attempts while the limits cannot be read: doubled from the first to the
# longest, each shortened at random so that a fleet does not ask in step.
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0

# A proxy on the way may send a stray 401, so only several in a row are believed.
REFUSALS = 3
REFUSED_PAUSE = 10.0

# Lasting trouble is logged again this often, for people who only read the recent log.
REMINDER = 300.0

# Requests to Discord at a time, however many bots there are.
AT_ONCE = 10

# Retry-After is capped at this: an operator may have fixed the cause in the meantime.
LONGEST_RETRY_AFTER = 3600.0

# How long to sleep before checking again whether a reading is due: grants may bring it forward.
NAP = 15.0


class CannotAskError(Exception):
    """No request to Discord is possible; the message says why."""


class UnreadableError(Exception):
    """The limits could not be read this time. ``retry_after`` is in seconds."""

    def __init__(self, why: str, retry_after: float = 0.0) -> None:
        super().__init__(why)
        self.retry_after = retry_after


class TokenRefusedError(UnreadableError):
    """The answer was 401: if it came from Discord, the token is wrong or was reset."""


# Larger than any plausible number, and still exact as a float.
Sane = Annotated[int, Field(ge=0, le=2**50)]


class _Limit(BaseModel):
    model_config = ConfigDict(strict=True)

    total: Sane
    remaining: Sane
    reset_after: Sane  # milliseconds
    max_concurrency: Sane


class _Answer(BaseModel):
    model_config = ConfigDict(strict=True)

    url: str
    shards: int
    session_start_limit: _Limit


@dataclass(frozen=True, slots=True)
class Reading:
    """Discord's answer to a request that was sent at ``sent_at``."""

    limit: SessionStartLimit
    gateway: Gateway
    sent_at: float


class Discord:
    """Discord's API at ``api``, for as long as its context lasts.

    Raises CannotAskError if the environment names an unusable proxy or unusable certificates.
    """

    def __init__(self, api: str, transport: httpx.AsyncBaseTransport | None = None) -> None:
        user_agent = f"DiscordBot (gateway-queue, {__version__})"
        try:
            self._client = httpx.AsyncClient(
                base_url=api,
                timeout=TIMEOUT,
                headers={"User-Agent": user_agent},
                transport=transport,
            )
        except (ImportError, OSError, ValueError, httpx.InvalidURL) as error:
            raise CannotAskError(
                f"cannot use the proxy or the certificates given in the environment: {error}"
            ) from None
        self._at_once = trio.CapacityLimiter(AT_ONCE)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def read_limit(self, token: str) -> Reading:
        """Read the session start limit of the bot with this token (without ``Bot``), once.

        Raises TokenRefusedError for a 401, UnreadableError for any other failure.
        """
        headers = {"Authorization": f"Bot {token}"}
        async with self._at_once:
            sent_at = trio.current_time()
            try:
                with trio.fail_after(2 * TIMEOUT):  # httpx's time-out is for each read
                    response = await self._client.get("gateway/bot", headers=headers)
            except (
                httpx.HTTPError,
                httpx.InvalidURL,
                OSError,
                RuntimeError,  # no thread could be started for the name look-up
                trio.TooSlowError,
            ) as error:
                why = f"no answer ({type(error).__name__}: {error})"
                raise UnreadableError(why) from error
        limit, gateway = _understood(response)
        return Reading(limit, gateway, sent_at)


def _understood(response: httpx.Response) -> tuple[SessionStartLimit, Gateway]:
    if response.status_code == 401:
        raise TokenRefusedError("Discord answered 401 to the token")
    if response.status_code != 200:
        raise UnreadableError(f"it answered {response.status_code}", _retry_after(response))
    try:
        answer = _Answer.model_validate_json(response.content)
        said = answer.session_start_limit
        limit = SessionStartLimit(
            total=said.total,
            remaining=said.remaining,
            reset_after=said.reset_after / 1000,
            max_concurrency=said.max_concurrency,
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the answer"
        raise UnreadableError(f"it makes no sense: {where}: {first['msg']}") from None
    except ValueError as error:
        raise UnreadableError(f"it makes no sense: {error}") from None
    return limit, Gateway(answer.url, answer.shards)


class Alarm:
    """Ends a task's sleep early."""

    def __init__(self) -> None:
        self._rung = trio.Event()

    def ring(self) -> None:
        """End the current sleep, or else the next one."""
        self._rung.set()

    async def sleep(self, seconds: float) -> bool:
        """Sleep for this many seconds; True if it rang earlier."""
        with trio.move_on_after(seconds):
            await self._rung.wait()
        has_rung = self._rung.is_set()
        self._rung = trio.Event()
        return has_rung


async def keep_limits_fresh(
    read: Callable[[], Awaitable[Reading]],
    queue: Queue,
    refresh: float,
    read_now: Alarm,
    *,
    gives_up: bool = True,
    log: structlog.typing.FilteringBoundLogger = log,
) -> None:
    """Read the limits now, every ``refresh`` seconds, and more often near the reserve or a reset.

    Never returns. ``read_now`` brings the next reading forward, but no further than Discord
    permits.

    Once the token was refused REFUSALS times in a row, nothing is granted, and it is tried
    again every ``refresh`` seconds. If it was never accepted and ``gives_up`` is set, this
    raises TokenRefusedError, because Discord bans addresses that keep using an invalid token:
    https://discord.com/developers/docs/topics/rate-limits#invalid-request-limit-aka-cloudflare-bans
    """
    allowance = queue.starts.allowance
    if not isinstance(allowance, ReadAllowance):
        raise TypeError("the session starts are counted here, not read from Discord")
    failures = refusals = 0  # in a row
    warned_at = -math.inf
    was_read = was_ordered = False
    while True:
        try:
            reading = await read()
        except UnreadableError as error:
            now = trio.current_time()
            failures += 1
            refusals = refusals + 1 if isinstance(error, TokenRefusedError) else 0
            queue.report(LimitsUnread())
            queue.limits_failure = LimitsFailure(str(error), now)
            if refusals >= REFUSALS:
                if gives_up and not was_read:
                    raise
                allowance.withdraw()
                log.error(
                    "token_refused",
                    error=str(error),
                    hint="is it the right token, or was it reset?",
                )
                await read_now.sleep(refresh)
                continue
            at_least = REFUSED_PAUSE if refusals else error.retry_after
            pause = REFUSED_PAUSE if refusals else _pause(failures, error.retry_after)
            level = logging.DEBUG
            if now >= warned_at + REMINDER:
                level, warned_at = logging.WARNING, now
            log.log(
                level,
                "limits_unreadable",
                error=str(error),
                retry_after=round(pause, 1),
                failures=failures,
                using="the last known limits" if allowance.known else "none: nothing is granted",
            )
            await trio.sleep(at_least)
            await read_now.sleep(pause - at_least)
            continue
        was_read = True
        limit = reading.limit
        if failures or was_ordered or not allowance.known:
            queue.report(
                LimitsRead(limit.total, limit.remaining, limit.reset_after, limit.max_concurrency)
            )
        failures = refusals = 0
        warned_at = -math.inf
        queue.limits_failure = None
        queue.read(limit, reading.gateway, reading.sent_at)
        was_ordered = await _until_due(allowance, refresh, read_now)


async def _until_due(allowance: ReadAllowance, refresh: float, read_now: Alarm) -> bool:
    """Sleep until the next reading is due; True if an operator brought it forward."""
    now = trio.current_time()
    while now < (due := allowance.read_again_at(now, refresh)):
        if await read_now.sleep(min(due - now, NAP)):
            return True
        now = trio.current_time()
    return False


def _pause(failures: int, retry_after: float) -> float:
    longest = min(FIRST_PAUSE * 2.0 ** min(failures - 1, 10), LONGEST_PAUSE)
    return max(retry_after, longest * random.uniform(0.5, 1.0))  # noqa: S311 - jitter


def _retry_after(response: httpx.Response) -> float:
    try:
        seconds = float(response.headers.get("Retry-After", "0"))
    except ValueError:
        return 0.0  # a date; back off as usual
    return min(seconds, LONGEST_RETRY_AFTER) if 0 < seconds < math.inf else 0.0
