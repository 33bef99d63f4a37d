"""The fake holds its clients to Discord's rules; otherwise the tests built on it prove nothing."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import httpx
import pytest
import trio
from background import background
from fake_discord import TOKEN, Breach, FakeDiscord, Op, fake_discord
from patience import PATIENCE
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

WINDOW = 1.0


@pytest.fixture
async def discord() -> AsyncIterator[FakeDiscord]:
    with trio.fail_after(PATIENCE):
        async with fake_discord(window=WINDOW, shards=4) as discord:
            yield discord


@dataclass
class Bot:
    """A gateway client that does as it is told, against the rules too."""

    socket: WebSocketConnection

    async def send(self, op: Op, data: Any) -> None:
        await self.socket.send_message(json.dumps({"op": op, "d": data}))

    async def receive(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(await self.socket.get_message())
        return message

    async def identify(self, shard: int, count: int = 4, token: str = TOKEN) -> dict[str, Any]:
        await self.send(Op.IDENTIFY, {"token": token, "shard": [shard, count]})
        return await self.receive()

    async def resume(self, session_id: str, token: str = TOKEN) -> dict[str, Any]:
        await self.send(Op.RESUME, {"token": token, "session_id": session_id, "seq": 1})
        return await self.receive()

    async def closed_with(self) -> int:
        """Read on until the gateway closes the socket."""
        with suppress(ConnectionClosed):
            while True:
                await self.receive()
        assert self.socket.closed is not None
        return int(self.socket.closed.code)


@asynccontextmanager
async def connect(discord: FakeDiscord) -> AsyncIterator[Bot]:
    address = httpx.URL(discord.gateway)
    async with (
        background() as nursery,
        # a stream of our own: trio-websocket 0.12 leaves its own open when the peer closes first
        await trio.open_tcp_stream(address.host, address.port or 0) as stream,
        await wrap_client_stream(nursery, stream, address.host, "/?v=10&encoding=json") as socket,
    ):
        bot = Bot(socket)
        hello = await bot.receive()
        assert hello["op"] == Op.HELLO
        assert hello["d"]["heartbeat_interval"] > 0
        yield bot


def breaches(discord: FakeDiscord) -> list[Breach | None]:
    return [violation.breach for violation in discord.violations]


async def read_limits(discord: FakeDiscord, token: str = TOKEN) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        headers = {"Authorization": f"Bot {token}"}
        return await client.get(f"{discord.api}/gateway/bot", headers=headers)


async def test_a_shard_gets_ready(discord: FakeDiscord) -> None:
    async with connect(discord) as bot:
        ready = await bot.identify(shard=2)
        await discord.wait_ready(1)
        assert discord.ready_shards() == {2}

    assert (ready["op"], ready["t"]) == (Op.DISPATCH, "READY")
    assert ready["d"]["shard"] == [2, 4]
    assert ready["d"]["guilds"] == []
    assert ready["d"]["resume_gateway_url"] == discord.gateway
    assert discord.violations == []


async def test_a_shard_that_leaves_is_not_ready(discord: FakeDiscord) -> None:
    async with connect(discord) as bot:
        await bot.identify(shard=2)
    await discord.until(lambda: not discord.ready_shards())


async def test_heartbeats_are_acknowledged(discord: FakeDiscord) -> None:
    async with connect(discord) as bot:
        await bot.send(Op.HEARTBEAT, None)
        assert (await bot.receive())["op"] == Op.HEARTBEAT_ACK


async def test_two_identifies_of_one_key_need_a_window_between_them(discord: FakeDiscord) -> None:
    async with connect(discord) as one, connect(discord) as other:
        assert (await one.identify(shard=0))["t"] == "READY"
        refused = await other.identify(shard=1)
        await trio.sleep_until(discord.identifies[0].at + WINDOW)
        assert (await other.identify(shard=1))["t"] == "READY"  # the same socket may try again

    assert (refused["op"], refused["d"]) == (Op.INVALID_SESSION, False)
    assert [identify.accepted for identify in discord.identifies] == [True, False, True]
    assert breaches(discord) == ["too_early"]
    assert discord.violations == [discord.identifies[1]]
    assert discord.remaining == 998


async def test_keys_do_not_wait_for_each_other(discord: FakeDiscord) -> None:
    discord.max_concurrency = 2
    async with connect(discord) as one, connect(discord) as other, connect(discord) as third:
        assert (await one.identify(shard=0))["t"] == "READY"
        assert (await other.identify(shard=1))["t"] == "READY"
        assert (await third.identify(shard=2))["op"] == Op.INVALID_SESSION

    assert [violation.shard for violation in discord.violations] == [2]


async def test_a_start_beyond_the_daily_limit_resets_the_token(discord: FakeDiscord) -> None:
    discord.remaining = 0
    async with connect(discord) as bot:
        await bot.send(Op.IDENTIFY, {"token": TOKEN, "shard": [0, 4]})
        assert await bot.closed_with() == 4004

    assert breaches(discord) == ["token_reset"]
    assert discord.remaining == 0


async def test_a_socket_identifies_once(discord: FakeDiscord) -> None:
    async with connect(discord) as bot:
        await bot.identify(shard=0)
        await bot.send(Op.IDENTIFY, {"token": TOKEN, "shard": [0, 4]})
        assert await bot.closed_with() == 4005

    assert breaches(discord) == ["already_identified"]


@pytest.mark.parametrize(
    ("token", "shard", "code"), [("wrong", [0, 4], 4004), (TOKEN, [4, 4], 4010)]
)
async def test_a_wrong_identify_closes_the_socket(
    discord: FakeDiscord, token: str, shard: list[int], code: int
) -> None:
    async with connect(discord) as bot:
        await bot.send(Op.IDENTIFY, {"token": token, "shard": shard})
        assert await bot.closed_with() == code

    assert discord.identifies == []


async def test_a_dropped_shard_resumes(discord: FakeDiscord) -> None:
    async with connect(discord) as bot:
        ready = await bot.identify(shard=0)
        discord.drop(0)
        assert discord.ready_shards() == set()
        assert await bot.closed_with() == 4000

    async with connect(discord) as bot:
        resumed = await bot.resume(ready["d"]["session_id"])
        assert resumed["t"] == "RESUMED"
        assert resumed["s"] > ready["s"]
        assert discord.ready_shards() == {0}

    assert len(discord.identifies) == 1


async def test_the_token_may_have_its_prefix(discord: FakeDiscord) -> None:
    token = f"Bot {TOKEN}"
    async with connect(discord) as bot:
        ready = await bot.identify(shard=0, token=token)
        assert ready["t"] == "READY"
    async with connect(discord) as bot:
        assert (await bot.resume(ready["d"]["session_id"], token))["t"] == "RESUMED"


async def test_a_shard_is_asked_to_reconnect(discord: FakeDiscord) -> None:
    async with connect(discord) as bot:
        await bot.identify(shard=0)
        discord.ask_to_reconnect(0)
        assert (await bot.receive())["op"] == Op.RECONNECT


async def test_an_invalidated_session_cannot_be_resumed(discord: FakeDiscord) -> None:
    async with connect(discord) as bot:
        session_id = (await bot.identify(shard=0))["d"]["session_id"]
        discord.invalidate(0)
        invalid = await bot.receive()
        assert (invalid["op"], invalid["d"]) == (Op.INVALID_SESSION, False)
        assert discord.ready_shards() == set()

    async with connect(discord) as bot:
        assert (await bot.resume(session_id))["op"] == Op.INVALID_SESSION

    assert discord.violations == []


async def test_nothing_reaches_a_shard_that_left(discord: FakeDiscord) -> None:
    async with connect(discord) as bot:
        await bot.identify(shard=0)
    await discord.until(lambda: not discord.ready_shards())
    with pytest.raises(AssertionError, match="nobody is connected"):
        discord.drop(0)


async def test_messages_and_identifies_arrive_late_but_in_order() -> None:
    async with fake_discord(latency=0.05, jitter=0.02) as discord:
        async with connect(discord) as bot:
            sent_at = trio.current_time()
            await bot.send(Op.IDENTIFY, {"token": TOKEN, "shard": [0, 1]})
            for _ in range(5):
                await bot.send(Op.HEARTBEAT, None)
            received = [await bot.receive() for _ in range(6)]

        assert discord.identifies[0].at >= sent_at + 0.05
        assert trio.current_time() >= sent_at + 0.1
        assert [message["op"] for message in received] == [0, 11, 11, 11, 11, 11]


async def test_limits_are_told_as_they_are_now(discord: FakeDiscord) -> None:
    async with connect(discord) as bot:
        await bot.identify(shard=0)
    discord.max_concurrency = 16
    discord.total = 2000
    discord.reset_after = 1.5
    response = await read_limits(discord)

    assert response.headers["content-type"] == "application/json"
    assert response.json() == {
        "url": discord.gateway,
        "shards": 4,
        "session_start_limit": {
            "total": 2000,
            "remaining": 999,
            "reset_after": 1500,
            "max_concurrency": 16,
        },
    }


async def test_prepared_answers_come_first(discord: FakeDiscord) -> None:
    discord.answers += [(429, {"Retry-After": "3"}, b"slow down"), (200, {}, b"<garbage>")]
    limited, garbage, normal = [await read_limits(discord) for _ in range(3)]

    assert (limited.status_code, limited.headers["retry-after"]) == (429, "3")
    assert limited.content == b"slow down"
    assert (garbage.status_code, garbage.content) == (200, b"<garbage>")
    assert normal.json()["shards"] == 4


async def test_a_wrong_token_is_refused_and_recorded(discord: FakeDiscord) -> None:
    refused = await read_limits(discord, token="wrong")
    await read_limits(discord)

    assert refused.status_code == 401
    assert [made.authorization for made in discord.requests] == ["Bot wrong", f"Bot {TOKEN}"]
    assert {made.path for made in discord.requests} == {"/api/v10/gateway/bot"}
    assert all(earlier.at <= later.at for earlier, later in pairwise(discord.requests))


async def test_a_failure_in_the_block_comes_out_ungrouped() -> None:
    with pytest.raises(ZeroDivisionError):
        async with fake_discord():
            raise ZeroDivisionError


async def test_the_unidentified_are_dropped(discord: FakeDiscord) -> None:
    async with connect(discord) as one, connect(discord) as other:
        await one.identify(shard=0)
        assert discord.drop_the_unidentified() == 1
        assert await other.closed_with() == 4000
        assert discord.drop_the_unidentified() == 0
        assert discord.ready_shards() == {0}
