"""Queries a server, and tries the way to it, for ``gateway-queue doctor``; judges nothing."""

import re
from secrets import token_hex
from typing import Literal

import httpx
import trio

from gateway_queue.cli.common import ungrouped
from gateway_queue.cli.findings import Holding, Leaving, Reply, Seen, seen_of
from gateway_queue.cli.page import ANSWER_SECONDS, LONGEST_ANSWER, without_number

# Seconds after which a late answer counts as missing rather than slow.
MARGIN = 15.0

# A departed client is noticed within this many seconds, or never. The probe is held this long,
# and not much longer, because its client is gone.
NOTICE_WITHIN = 5.0
LEFT_WITHIN = 15.0
LOOK_AGAIN = 0.1


class Way:
    """The way a bot's requests take to the server: without proxies from the environment."""

    def __init__(self, address: str, key: str | None) -> None:
        self._address = address
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._certificates = httpx.create_ssl_context()

    async def ask(self, target: str, within: float = ANSWER_SECONDS) -> Reply:
        """Send a request on its own connection; returns what came back ``within`` seconds."""
        began_at = trio.current_time()
        with trio.move_on_after(within):
            return await self._ask(target, began_at)
        return Reply(within, None, failure="silent")

    async def leave(self) -> Leaving:
        """Disconnect while the server holds a probe, and see whether it notices."""
        name = token_hex(8)
        seen: Seen | None = None
        async with trio.open_nursery() as nursery:

            async def be_held() -> None:
                await self.ask(f"/probe?hold={LEFT_WITHIN:g}&id={name}")
                nursery.cancel_scope.cancel()  # it was not held, or we cannot see it

            nursery.start_soon(be_held)
            while (seen := await self._seen(name)) is None:  # noqa: ASYNC110 - only the server knows when
                await trio.sleep(LOOK_AGAIN)
            nursery.cancel_scope.cancel()
        left_at = trio.current_time()
        with trio.move_on_after(NOTICE_WITHIN):
            while seen is not None and seen.state == "held":
                await trio.sleep(LOOK_AGAIN)
                seen = await self._seen(name)
        return Leaving(seen, trio.current_time() - left_at)

    async def hold(self, seconds: float) -> Holding:
        """Be held for this long, or for as long as the way to the server permits."""
        name = token_hex(8)
        reply = await self.ask(f"/probe?hold={seconds:g}&id={name}", seconds + MARGIN)
        return Holding(seconds, reply.after, reply, await self._seen(name))

    async def _seen(self, name: str) -> Seen | None:
        return seen_of(await self.ask(f"/probe?id={name}"))

    async def _ask(self, target: str, began_at: float) -> Reply:
        body = b""
        try:
            async with (
                httpx.AsyncClient(
                    headers=self._headers,
                    timeout=httpx.Timeout(None, connect=ANSWER_SECONDS),
                    verify=self._certificates,
                    trust_env=False,
                ) as client,
                client.stream("GET", f"{self._address}{target}") as response,
            ):
                async for piece in response.aiter_bytes():
                    body += piece
                    if len(body) > LONGEST_ANSWER:
                        break
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            return _failed("unreachable", error, began_at)
        except httpx.RequestError as error:
            return _failed("closed", error, began_at)
        return Reply(
            trio.current_time() - began_at,
            response.status_code,
            body,
            response.headers.get("Content-Type", ""),
            response.headers.get("Server", ""),
            response.headers.get("Location", ""),
        )


def _failed(
    failure: Literal["unreachable", "closed"], error: httpx.RequestError, began_at: float
) -> Reply:
    after = trio.current_time() - began_at
    return Reply(after, None, _innermost(error).encode(), failure=failure)


def _innermost(error: BaseException) -> str:
    """The system's error message, without what each library wrapped around it."""
    words = type(error).__name__
    cause: BaseException | None = error
    while cause is not None:
        cause = ungrouped(cause)
        words = without_number(cause) or words
        cause = cause.__cause__ or cause.__context__
    return re.sub(r"^Error connecting to \(.*?\): ", "", words)  # trio's
