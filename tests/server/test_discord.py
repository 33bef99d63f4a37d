"""How Discord is asked again after trouble, for hours; its answers are made up here."""

import errno
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise, repeat
from typing import Any

import httpx
import pytest
import trio
from asgi import Client
from background import background
from serving import serving
from structlog.testing import capture_logs
from test_status import of, status

import gateway_queue.discord
from gateway_queue.discord import Alarm, TokenRefusedError, keep_limits_fresh

REFRESH = 300.0
GOOD = {
    "url": "wss://gateway.test",
    "shards": 1,
    "session_start_limit": {
        "total": 1000,
        "remaining": 1000,
        "reset_after": 86_400_000,
        "max_concurrency": 1,
    },
}

Said = int | Exception  # a status, or what the network or the system throws


@dataclass
class Discord:
    """Says ``said``, one for each request, then that all is well."""

    said: Iterator[Said]
    asked_at: list[float] = field(default_factory=list)

    def answer(self, _: httpx.Request) -> httpx.Response:
        self.asked_at.append(trio.current_time())
        match next(self.said, 200):
            case Exception() as error:
                raise error
            case status:
                return httpx.Response(status, json=GOOD)

    def client(self) -> gateway_queue.discord.Discord:
        transport = httpx.MockTransport(self.answer)
        return gateway_queue.discord.Discord("https://discord.test/api", transport)

    @property
    def pauses(self) -> list[float]:
        return [after - before for before, after in pairwise(self.asked_at)]


@asynccontextmanager
async def reading(*said: Said, always: Said | None = None) -> AsyncIterator[tuple[Client, Discord]]:
    """Serve a queue whose limits come from a Discord that says this."""
    discord = Discord(iter(said) if always is None else repeat(always))
    async with serving(token=True) as client, discord.client() as http, background() as nursery:
        nursery.start_soon(
            keep_limits_fresh, partial(http.read_limit, "token"), client.queue, REFRESH, Alarm()
        )
        yield client, discord


def events(logs: list[Any], event: str) -> list[Any]:
    return [line for line in logs if line["event"] == event]


async def limits(client: Client) -> dict[str, Any]:
    found = (await status(client))["limits"]
    assert isinstance(found, dict)
    return found


async def test_a_token_is_given_up_after_three_refusals_within_half_a_minute() -> None:
    discord = Discord(repeat(401))
    async with serving(token=True) as client, discord.client() as http:
        with pytest.raises(TokenRefusedError, match="401"):
            await keep_limits_fresh(
                partial(http.read_limit, "token"), client.queue, REFRESH, Alarm()
            )
    assert len(discord.asked_at) == 3
    assert 10 <= sum(discord.pauses) <= 30


@pytest.mark.parametrize("said", [(401,), (401, 401), (401, 401, 503, 401, 401), (403,) * 5])
async def test_other_refusals_pass_at_the_start(said: tuple[int, ...]) -> None:
    async with reading(*said) as (client, discord):
        await trio.sleep(120)
        assert len(discord.asked_at) == len(said) + 1
        assert of(await limits(client), "known", "failure") == [True, None]


async def test_a_stray_refusal_later_leaves_the_limits_as_they_were() -> None:
    with capture_logs() as logs:
        async with reading(200, 401, 401, 200, 401) as (client, discord):
            for _ in range(700):
                await trio.sleep(1)
                assert (await limits(client))["known"]
    assert [round(pause) for pause in discord.pauses] == [300, 10, 10, 300, 10]
    assert not events(logs, "token_refused")


async def test_nothing_is_granted_while_the_token_is_refused() -> None:
    with capture_logs() as logs:
        async with reading(200, 401, 401, 401, 401) as (client, discord):
            await trio.sleep(311)
            assert (await limits(client))["known"]
            await trio.sleep(10)
            assert (await limits(client))["failure"]["error"] == "Discord answered 401 to the token"
            assert not (await limits(client))["known"]
            assert (await client.get("/readyz")).status == 503
            held = client.ask("/?shard=0")
            await trio.sleep(590)
            assert (await status(client))["waiting"] == 1
            await held.answered()
            await trio.sleep(1)  # for which /status is kept
            assert of(await limits(client), "known", "failure") == [True, None]
    assert [round(pause) for pause in discord.pauses] == [300, 10, 10, 300, 300]
    assert [line["log_level"] for line in events(logs, "token_refused")] == ["error"] * 2


@pytest.mark.parametrize(
    "thrown",
    [
        RuntimeError("can't start new thread"),
        OSError(errno.EMFILE, "Too many open files"),
        httpx.ConnectError("no route"),
        httpx.InvalidURL("in a redirect"),
        trio.TooSlowError(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_errors_of_the_system_and_the_network_are_retried(thrown: Exception) -> None:
    async with reading(thrown) as (client, _):
        await trio.sleep(0.1)
        assert type(thrown).__name__ in (await limits(client))["failure"]["error"]
        await trio.sleep(2)
        assert of(await limits(client), "known", "failure") == [True, None]


@pytest.mark.parametrize("bug", [TypeError, KeyError, AssertionError])
async def test_a_bug_is_not_taken_for_trouble_of_discord(bug: type[Exception]) -> None:
    discord = Discord(iter([bug("ours")]))
    async with serving(token=True) as client, discord.client() as http:
        with pytest.raises(bug, match="ours"):
            await keep_limits_fresh(
                partial(http.read_limit, "token"), client.queue, REFRESH, Alarm()
            )


async def test_trouble_that_lasts_is_said_again_every_five_minutes() -> None:
    with capture_logs() as logs:
        async with reading(always=503) as (client, _):
            await trio.sleep(3600)
            failure = (await limits(client))["failure"]
            assert failure["error"] == "it answered 503"
            assert failure["age"] <= 60
    said = events(logs, "limits_unreadable")
    warned = [line for line in said if line["log_level"] == "warning"]
    assert 10 <= len(warned) <= 12
    assert len(said) > 50
    assert all(line["using"] == "none: nothing is granted" for line in warned)


async def test_new_trouble_is_said_at_once() -> None:
    with capture_logs() as logs:
        async with reading(503, 200, 503):
            await trio.sleep(400)
    said = events(logs, "limits_unreadable")
    assert [line["log_level"] for line in said] == ["warning"] * 2


async def test_of_many_bots_only_ten_ask_at_a_time() -> None:
    asking, most = 0, 0

    async def answer(_: httpx.Request) -> httpx.Response:
        nonlocal asking, most
        asking += 1
        most = max(most, asking)
        await trio.sleep(1)
        asking -= 1
        return httpx.Response(200, json=GOOD)

    transport = httpx.MockTransport(answer)
    async with (
        gateway_queue.discord.Discord("https://discord.test/api", transport) as discord,
        trio.open_nursery() as nursery,
    ):
        for number in range(25):
            nursery.start_soon(discord.read_limit, f"token-{number}")
    assert most == 10
    assert trio.current_time() == pytest.approx(3)
