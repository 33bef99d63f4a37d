"""An operator's requests over real sockets: their bodies, on each way that they may come."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from fake_discord import fake_discord
from harness import Program, running_server
from raw import (
    Answer,
    Client,
    HTTP2Client,
    answer_of,
    connect,
    connect_http2,
    waiting,
)

from gateway_queue.http.bodies import LONGEST_BODY

GATEWAY_BOT = "/api/v10/gateway/bot"
KEY = "correct-horse-battery-staple"
PAUSE = json.dumps({"reason": "ünïcode", "for": 1800}).encode()


@asynccontextmanager
async def steered(**settings: object) -> AsyncIterator[Program]:
    async with running_server(GATEWAY_QUEUE_OPERATOR_KEY=KEY, **settings) as server:
        yield server


async def put(client: Client, body: bytes, *headers: str, path: str = "/operator/pause") -> None:
    key = f"Authorization: Bearer {KEY}"
    await client.send(f"PUT {path} HTTP/1.1", "Host: queue", key, *headers, body=body)


async def put_http2(
    client: HTTP2Client, *parts: bytes, path: str = "/operator/pause", whole: bool = True
) -> int:
    """The number of the stream; each part of the body is a frame. ``whole``: it ends, too."""
    number = client.protocol.get_next_available_stream_id()
    headers = [
        (b":method", b"PUT"),
        (b":scheme", b"http"),
        (b":authority", b"queue"),
        (b":path", path.encode()),
        (b"authorization", f"Bearer {KEY}".encode()),
    ]
    client.protocol.send_headers(number, headers)
    for part in parts:
        client.protocol.send_data(number, part)
    if whole:
        client.protocol.end_stream(number)
    await client.flush()
    return number


def reason(answer: Answer) -> object:
    assert answer.status == 200, answer
    return json.loads(answer.body)["paused"]["reason"]


class TestHTTP1:
    async def test_a_body_with_a_length_or_in_chunks(self) -> None:
        async with steered() as server, connect(server) as client:
            await put(client, PAUSE, f"Content-Length: {len(PAUSE)}")
            assert reason(await client.answer()) == "ünïcode"
            chunks = b"".join(
                b"%x\r\n%b\r\n" % (len(part), part) for part in (PAUSE[:9], PAUSE[9:])
            )
            await put(client, chunks + b"0\r\n\r\n", "Transfer-Encoding: chunked")
            assert reason(await client.answer()) == "ünïcode"
            await put(client, b"")
            assert reason(await client.answer()) == ""

    async def test_a_body_that_is_too_long_is_not_read(self) -> None:
        too_long = LONGEST_BODY + 1
        async with steered() as server:
            async with connect(server) as client:
                await put(client, b"", "Content-Length: 1000000000")
                assert (await client.answer()).status == 413
            async with connect(server) as client:
                chunk = b"%x\r\n%b\r\n" % (too_long, b" " * too_long)
                await put(client, chunk, "Transfer-Encoding: chunked")
                assert (await client.answer()).status == 413

    async def test_a_body_that_does_not_come_is_not_waited_for(self) -> None:
        async with steered() as server, connect(server) as client:
            await put(client, b"{", "Content-Length: 2")
            assert (await client.answer()).status == 408

    async def test_a_turn_still_ignores_its_body(self) -> None:
        async with steered(GATEWAY_QUEUE_INTERVAL=0.1) as server, connect(server) as client:
            await client.ask(1, "Content-Length: 5", body=b"hello")
            assert (await client.answer()).is_grant


class TestHTTP2:
    async def test_a_body_in_any_frames(self) -> None:
        async with steered() as server, connect_http2(server) as client:
            parts = [PAUSE[i : i + 1] for i in range(len(PAUSE))]
            streams = [
                await put_http2(client, PAUSE),
                await put_http2(client, *parts),
                await put_http2(client, b"", PAUSE, b""),
                await put_http2(client),
            ]
            answers = await client.answers(streams)
            assert [reason(answer) for answer in answers] == ["ünïcode"] * 3 + [""]

    async def test_only_so_much_of_a_body_is_kept(self) -> None:
        async with steered() as server, connect_http2(server) as client:
            exactly = PAUSE.ljust(LONGEST_BODY)
            fits = await put_http2(client, exactly[:9_000], exactly[9_000:])
            too_long = await put_http2(client, exactly[:9_000], exactly[9_000:], b" ")
            answers = await client.answers([fits, too_long])
            assert [answer.status for answer in answers] == [200, 413]

    async def test_a_body_that_does_not_end_harms_nobody(self) -> None:
        async with steered() as server, connect_http2(server) as client:
            endless = await put_http2(client, b"{", whole=False)
            good = await put_http2(client, PAUSE)
            [answer] = await client.answers([good])
            assert reason(answer) == "ünïcode"
            [answer] = await client.answers([endless])
            assert answer.status == 408

    async def test_bytes_behind_a_refusal_are_dropped(self) -> None:
        async with steered() as server, connect_http2(server) as client:
            number = client.protocol.get_next_available_stream_id()
            refused = await client.ask("/operator/pause", "PUT", whole=False)
            [answer] = await client.answers([refused])
            assert answer.status == 401
            assert number == refused
            client.protocol.send_data(refused, b"x" * 16_000, end_stream=True)
            good = await put_http2(client, PAUSE)
            [answer] = await client.answers([good])
            assert reason(answer) == "ünïcode"


async def test_discord_is_asked_for_the_limits_when_an_operator_says_so() -> None:
    async with (
        fake_discord(total=1000, remaining=900) as discord,
        steered(DISCORD_TOKEN=discord.token, GATEWAY_QUEUE_DISCORD_API=discord.api) as server,
        httpx.AsyncClient(base_url=server.url) as client,
    ):
        await server.logged("limits_read", remaining=900)
        discord.remaining, discord.max_concurrency = 321, 16
        key = {"Authorization": f"Bearer {KEY}"}
        answers = [await client.post("/operator/limits/read", headers=key) for _ in range(3)]
        await server.logged("limits_read", remaining=321, max_concurrency=16)
        status = (await client.get("/status")).json()
        assert await server.stop() == 0

        assert [answer.status_code for answer in answers] == [202, 429, 429]
        assert 1 <= int(answers[1].headers["Retry-After"]) <= 15
        assert "ask again in" in answers[1].json()["detail"]
        assert (status["limits"]["remaining"], len(status["buckets"])) == (321, 16)
        # Only the one that was not refused has reached Discord.
        assert len(server.logged_so_far("limits_reading_ordered")) == 1
        assert [request.path for request in discord.requests].count(GATEWAY_BOT) == 2


async def test_what_discord_refuses_leaves_the_limits_as_they_were() -> None:
    async with (
        fake_discord(total=1000, remaining=900) as discord,
        steered(DISCORD_TOKEN=discord.token, GATEWAY_QUEUE_DISCORD_API=discord.api) as server,
        httpx.AsyncClient(base_url=server.url) as client,
    ):
        await server.logged("limits_read", remaining=900)
        discord.answers.append((503, {}, b"upstream"))
        key = {"Authorization": f"Bearer {KEY}"}
        assert (await client.post("/operator/limits/read", headers=key)).status_code == 202
        await server.logged("limits_unreadable")
        limits = (await client.get("/status")).json()["limits"]

    assert (limits["known"], limits["remaining"]) == (True, 900)


@pytest.mark.parametrize("path", ["/operator?shard=3", "/operator/pause?shard=3"])
async def test_it_is_never_a_turn(path: str) -> None:
    async with steered(GATEWAY_QUEUE_INTERVAL=0.1) as server:
        key = f"Authorization: Bearer {KEY}"
        answer = await answer_of(server, f"PATCH {path} HTTP/1.1", "Host: queue", key)
        assert answer.status == 405
        assert await server.stop() == 0
        assert server.logged_so_far("identify_queued") == []


async def test_a_dropped_client_has_no_answer() -> None:
    async with (
        steered(GATEWAY_QUEUE_INTERVAL=60) as server,
        waiting(server, 1) as client,
        connect_http2(server) as other,
    ):
        stream = await other.ask("/?shard=2")
        await server.logged("identify_queued", shard=2)
        key = f"Authorization: Bearer {KEY}"
        for shard in (1, 2):
            line = f"DELETE /operator/shards/{shard}/seat HTTP/1.1"
            assert (await answer_of(server, line, "Host: queue", key)).status == 204
            await server.logged("shard_dropped", shard=shard, requests=1)
        assert await client.rest() == b""
        assert await other.reset_of(stream)
