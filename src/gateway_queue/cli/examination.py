"""Asks a server, and tries the way to it, for ``gateway-queue doctor``; has no word on it."""

import re
from secrets import token_hex
from typing import Literal

import httpx
import trio

from gateway_queue.cli.common import ungrouped
from gateway_queue.cli.diagnosis import Holding, Leaving, Reply, Seen, seen_of
from gateway_queue.cli.page import ANSWER_SECONDS, LONGEST_ANSWER, without_number

# How long after its time an answer may come that is only slow.
MARGIN = 15.0

# A client that leaves is noticed within so many seconds, or never. Until then it is held, and
# not for much longer, as nobody is there.
NOTICE_WITHIN = 5.0
LEFT_WITHIN = 15.0
LOOK_AGAIN = 0.1


class Way:
    """The way to a server, as a bot's request takes it: straight, with no proxy but those there."""

    def __init__(self, address: str, key: str | None) -> None:
        self._address = address
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._certificates = httpx.create_ssl_context()

    async def ask(self, target: str, within: float = ANSWER_SECONDS) -> Reply:
        """What comes of a request, on a connection of its own, within so many seconds."""
        began_at = trio.current_time()
        with trio.move_on_after(within):
            return await self._ask(target, began_at)
        return Reply(within, None, failure="silent")

    async def leave(self) -> Leaving:
        """Leave a probe that the server holds, and see whether it notices."""
        name = token_hex(8)
        seen: Seen | None = None
        async with trio.open_nursery() as nursery:

            async def be_held() -> None:
                await self.ask(f"/probe?hold={LEFT_WITHIN:g}&id={name}")
                nursery.cancel_scope.cancel()  # it is not held, or not seen to be

            nursery.start_soon(be_held)
            while (seen := await self._seen(name)) is None:  # noqa: ASYNC110 - only it knows when
                await trio.sleep(LOOK_AGAIN)
            nursery.cancel_scope.cancel()
        left_at = trio.current_time()
        with trio.move_on_after(NOTICE_WITHIN):
            while seen is not None and seen.state == "held":
                await trio.sleep(LOOK_AGAIN)
                seen = await self._seen(name)
        return Leaving(seen, trio.current_time() - left_at)

    async def hold(self, seconds: float) -> Holding:
        """Be held for so long, or as long as the way lets it."""
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
    """What the system said, in which each library has wrapped words of its own."""
    words = type(error).__name__
    cause: BaseException | None = error
    while cause is not None:
        cause = ungrouped(cause)
        words = without_number(cause) or words
        cause = cause.__cause__ or cause.__context__
    return re.sub(r"^Error connecting to \(.*?\): ", "", words)  # trio's
