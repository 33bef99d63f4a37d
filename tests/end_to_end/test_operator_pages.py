"""What operators and sharders read: who may, what they are told, and what that costs others."""

import re
import resource
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from statistics import median

import httpx
import pytest
import trio
from background import background
from fake_discord import fake_discord
from harness import Program, running_server
from prometheus_client.parser import text_string_to_metric_families
from raw import HTTP2Client, answer_of, connect, connect_http2, grant_of, waiting

LONG = 60.0  # seconds of an interval whose end no test waits for
KEY = "correct-horse-battery-staple"
PROMTOOL = shutil.which("promtool")


@asynccontextmanager
async def serving(**settings: object) -> AsyncIterator[tuple[Program, httpx.AsyncClient]]:
    """Our server, and a client for it."""
    async with (
        running_server(**settings) as server,
        httpx.AsyncClient(base_url=server.url) as client,
    ):
        yield server, client


# /status

STANDING = ("position", "expected_in", "reason")


async def test_status_tells_how_everybody_stands() -> None:
    async with (
        serving(GATEWAY_QUEUE_INTERVAL=LONG, GATEWAY_QUEUE_MAX_CONCURRENCY=2) as (server, client),
        waiting(server, 6),
        waiting(server, 3),
        waiting(server, 4),
    ):
        async with waiting(server, 8):
            pass
        await server.logged("identify_left", shard=8)
        answer = await client.get("/status")
        with_seats = (await client.get("/status?seats=true")).json()

    assert answer.headers["content-type"] == "application/json"
    status = answer.json()
    soon = pytest.approx(LONG, abs=5)
    at_once = pytest.approx(0, abs=5)
    seats = {
        shard: {
            "shard": shard,
            "bucket": shard % 2,
            "position": position,
            "expected_in": pytest.approx(position * LONG, abs=5),
            "reason": "interval",
            "waited": at_once,
        }
        for shard, position in [(6, 1), (4, 2), (3, 1)]
    }
    assert status == {
        "version": (await server.logged("listening"))["version"],
        "uptime": at_once,
        "ready": True,
        "obstacle": None,
        "limits": {
            "known": True,
            "source": "counted",
            "total": 1000,
            "remaining": 1000,
            "reserve": 50,
            "reset_in": 0,
            "max_concurrency": 2,
            "age": None,
            "failure": None,
        },
        "paused": None,
        "pace": {"interval": LONG, "configured": LONG, "ends_in": None},
        "waiting": 3,
        "waiting_slowed": 0,
        "away": 1,
        "covered": 3,
        "all_in_in": pytest.approx(2 * LONG, abs=5),
        "others_in_in": pytest.approx(2 * LONG, abs=5),
        "back_in": 0,
        "recommended_shards": None,
        "not_asked": None,
        "last_24_hours": {"granted": 0, "shards": 0},
        "buckets": [
            {
                "bucket": bucket,
                "waiting": len(line),
                "away": away,
                "opens_in": soon,
                "all_in_in": pytest.approx(len(line) * LONG, abs=5),
                "next": [
                    {key: seats[shard][key] for key in ("shard", *STANDING)} for shard in line
                ],
            }
            for bucket, line, away in [(0, [6, 4], 1), (1, [3], 0)]
        ],
        "slowed_down": {"shards": 0, "longest": []},
        "invalid_sessions": {"reports": 0, "shards": []},
        "open_files_limit": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        "replicas": None,
    }
    assert with_seats.keys() == status.keys() | {"seats"}
    assert with_seats["seats"] == [seats[6], seats[4], seats[3]]


# /metrics


async def test_metrics_have_the_events_in_prometheus_format() -> None:
    async with serving(GATEWAY_QUEUE_INTERVAL=2, GATEWAY_QUEUE_MAX_CONCURRENCY=2) as (
        server,
        client,
    ):
        for shard in (0, 1, 2):
            await grant_of(server, shard)
        async with waiting(server, 4), waiting(server, 6):
            pass
        for shard in (4, 6):
            await server.logged("identify_left", shard=shard)
        answer = await client.get("/metrics")

    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = list(text_string_to_metric_families(answer.text))
    for family in families:
        assert re.fullmatch("gateway_queue_[a-z]+(_[a-z]+)*", family.name)
        assert family.documentation.endswith(".")
    values = {
        (
            sample.name.removeprefix("gateway_queue_"),
            *(value for label, value in sample.labels.items() if label != "bot"),
        ): sample.value
        for family in families
        for sample in family.samples
    }
    expected = {
        ("grants_total", "0"): 2,
        ("grants_total", "1"): 1,
        ("abandoned_total",): 2,
        ("waiting", "0"): 0,
        ("away", "0"): 2,
        ("wait_seconds_count",): 3,
        ("grant_lateness_seconds_bucket", "+Inf"): 3,
        ("session_start_limit",): 1000,
        ("session_starts_remaining",): 997,
        ("session_starts_reserved",): 50,
        ("session_starts_reset_seconds",): pytest.approx(86_400, abs=20),
        ("limits_refresh_failures_total",): 0,
        ("invalid_sessions_total",): 0,
        ("slowed_shards",): 0,
        ("ready",): 1,
        ("build_info", (await server.logged("listening"))["version"]): 1,
    }
    assert {key: values.get(key) for key in expected} == expected
    if PROMTOOL is not None:
        verdict = await trio.run_process(
            [PROMTOOL, "check", "metrics"],
            stdin=answer.content,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
        assert (verdict.returncode, verdict.stdout, verdict.stderr) == (0, b"", b"")


# /gateway/bot


async def test_gateway_bot_is_discords_answer_with_the_numbers_of_now() -> None:
    async with fake_discord(
        shards=5, max_concurrency=2, total=2000, remaining=1500, reset_after=3600
    ) as discord:
        discord.answers.append((500, {}, b"oops"))
        async with serving(
            DISCORD_TOKEN=discord.token,
            GATEWAY_QUEUE_DISCORD_API=discord.api,
            GATEWAY_QUEUE_INTERVAL=0.1,
        ) as (server, client):
            assert (await client.get("/gateway/bot")).status_code == 503
            await server.logged("limits_read")
            first = await client.get("/gateway/bot")
            for shard in range(3):
                await grant_of(server, shard)
            await trio.sleep(0.5)
            second = await client.get("/gateway/bot")

    assert first.headers["content-type"] == "application/json"
    limit = first.json()["session_start_limit"]
    assert first.json() == {
        "url": discord.gateway,
        "shards": 5,
        "session_start_limit": {
            "total": 2000,
            "remaining": 1500,
            "reset_after": pytest.approx(3_600_000, abs=5_000),
            "max_concurrency": 2,
        },
    }
    limit_now = second.json()["session_start_limit"]
    assert limit_now["remaining"] == 1497
    assert 400 < limit["reset_after"] - limit_now["reset_after"] < 5_000


async def test_gateway_bot_is_unknown_without_a_token() -> None:
    async with serving() as (_, client):
        answer = await client.get("/gateway/bot")
        assert answer.status_code == 503
        assert "DISCORD_TOKEN" in answer.json()["detail"]


# The feed


async def test_the_feed_over_http_1_0_ends_with_its_connection() -> None:
    async with running_server() as server, connect(server) as client:
        await client.send("GET /dashboard/feed HTTP/1.0")
        assert (await client.answer(has_body=False)).status == 200
        assert await server.stop() == 0
        said = await client.rest()

    assert said.startswith(b"event: whole\ndata: {")  # in no chunks, which 1.0 does not know
    assert said.endswith(b"\n\n")


async def test_of_a_thousand_tabs_32_are_shown_the_feed() -> None:
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=1) as server,
        AsyncExitStack() as tabs,
        connect_http2(server) as patient,
    ):
        answers = []
        for _ in range(1000):
            tab = await tabs.enter_async_context(connect(server))
            await tab.send("GET /dashboard/feed HTTP/1.1", "Host: queue")
            answers.append((await tab.answer(has_body=False)).status)
        assert sorted(answers) == [200] * 32 + [503] * 968
        stream = await patient.ask("/?shard=3")
        [granted] = await patient.answers([stream])
        assert granted.is_grant


@pytest.mark.parametrize("http2", [False, True])
async def test_the_feed_goes_on_until_the_server_ends(*, http2: bool) -> None:
    async with (
        running_server(GATEWAY_QUEUE_SHUTDOWN_GRACE=30) as server,
        httpx.AsyncClient(base_url=server.url, http1=not http2, http2=http2) as client,
        client.stream("GET", "/dashboard/feed") as answer,
    ):
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream")
        lines = answer.aiter_lines()
        names = [line async for line in take(lines, 10) if line.startswith("event: ")]
        assert names[:2] == ["event: whole", "event: change"]
        with trio.fail_after(15):  # much less than the grace
            server.process.terminate()
            with suppress(httpx.RemoteProtocolError):  # httpx takes any GOAWAY for one
                async for _ in lines:
                    pass
            assert await server.ended() == 0


async def take(lines: AsyncIterator[str], number: int) -> AsyncIterator[str]:
    for _ in range(number):
        yield await anext(lines)


# The key


NO_KEY: dict[str, list[str]] = {
    "absent": [],
    "empty": ["Authorization: Bearer "],
    "a scheme only": ["Authorization: Bearer"],
    "wrong": ["Authorization: Bearer wrong"],
    "too short": [f"Authorization: Bearer {KEY[:-1]}"],
    "too long": [f"Authorization: Bearer {KEY}x"],
    "very long": [f"Authorization: Bearer {KEY * 300}"],
    "twice": [f"Authorization: Bearer {KEY} {KEY}"],
    "not ASCII": [f"Authorization: Bearer {KEY}\N{LATIN SMALL LETTER E WITH ACUTE}"],
    "of another scheme": [f"Authorization: Basic {KEY}"],
    "of no scheme": [f"Authorization: {KEY}"],
    "elsewhere": [f"X-Api-Key: {KEY}"],
}
KEEPS_OUT = ["/?shard=1", "/status", "/metrics", "/gateway/bot", "/confirm?shard=1", "/nothing"]


async def test_only_requests_with_the_key_are_answered_and_the_key_is_never_logged() -> None:
    async with (
        fake_discord() as discord,
        serving(
            DISCORD_TOKEN=discord.token,
            GATEWAY_QUEUE_DISCORD_API=discord.api,
            GATEWAY_QUEUE_API_KEY=KEY,
            GATEWAY_QUEUE_INTERVAL=0.1,
            GATEWAY_QUEUE_LOG_LEVEL="debug",
        ) as (server, client),
    ):
        await server.logged("limits_read")
        for target in KEEPS_OUT:
            for what, lines in NO_KEY.items():
                answer = await answer_of(server, f"GET {target} HTTP/1.1", "Host: queue", *lines)
                assert (target, what, answer.status) == (target, what, 401)
                assert answer.headers["www-authenticate"] == "bearer"
                assert answer.headers["content-type"] == "application/problem+json"
        endless = {"Authorization": f"Bearer {KEY * 4_000}"}
        assert (await client.get("/status", headers=endless)).status_code == 431

        for target in ("/healthz", "/readyz"):
            assert (await client.get(target)).status_code == 200
        for scheme in ("Bearer", "bearer"):
            headers = {"Authorization": f"{scheme} {KEY}"}
            for target in ("/?shard=1", "/status", "/metrics", "/gateway/bot"):
                assert (await client.get(target, headers=headers)).status_code == 200
            assert (await client.post("/confirm?shard=1", headers=headers)).status_code == 204
        assert await server.stop() == 0

    assert len(server.logged_so_far("identify_queued")) == 2
    said = "\n".join(server.lines)
    assert KEY not in said
    assert discord.token not in said


# What reading costs


@pytest.mark.alone
async def test_reading_them_all_the_time_delays_no_grant() -> None:
    """Of each kind the best of three rounds counts: other processes delay grants, too."""
    buckets, crowd = 128, 5_000
    rounds: dict[str, list[float]] = {"": [], "/metrics": [], "/status": []}
    async with crowded_server(buckets, crowd) as server:
        for _ in range(3):
            for target, found in rounds.items():
                async with background() as nursery:
                    if target:
                        nursery.start_soon(read_again_and_again, server, target)
                        await trio.sleep(0.1)
                    late = await lateness(server, seconds=1.0)
                middle, tenth, most = median(late), late[-len(late) // 10], late[-1]
                found.append(tenth)
                sys.stdout.write(
                    f"reading {target or 'nothing'}: {len(late)} grants, late by {middle:.4f} s,"
                    f" one in ten by {tenth:.4f} s, at most by {most:.4f} s\n"
                )

    assert min(rounds["/metrics"]) < min(rounds[""]) + 0.005
    assert min(rounds["/status"]) < min(rounds[""]) + 0.005


@asynccontextmanager
async def crowded_server(buckets: int, crowd: int) -> AsyncIterator[Program]:
    """A server at which so many wait, and whose buckets open one after another."""
    interval = 2.56
    async with (
        running_server(
            GATEWAY_QUEUE_INTERVAL=interval,
            GATEWAY_QUEUE_MAX_CONCURRENCY=buckets,
            GATEWAY_QUEUE_DAILY_STARTS=10 * crowd,
        ) as server,
        AsyncExitStack() as clients,
        background() as nursery,
    ):
        await grant_of(server, 0)  # all are open
        for first in range(0, crowd, 500):
            client = await clients.enter_async_context(connect_http2(server))
            nursery.start_soon(take_answers, client)
            for shard in range(first, first + 500):
                await client.ask(f"/?shard={shard}")
                if shard < buckets:
                    await trio.sleep(interval / buckets)
        await server.logged("identify_queued", shard=crowd - 1)
        yield server


async def take_answers(client: HTTP2Client) -> None:
    while data := await client.stream.receive_some():
        client.take(data)


async def read_again_and_again(server: Program, target: str) -> None:
    async with connect(server) as client:
        while True:
            await client.send(f"GET {target} HTTP/1.1", "Host: queue")
            assert (await client.answer()).status == 200


async def lateness(server: Program, seconds: float) -> list[float]:
    """By how much the grants of so many seconds come late, the least late first."""
    before = len(server.logged_so_far("identify_granted"))
    await trio.sleep(seconds)
    return sorted(line["late"] for line in server.logged_so_far("identify_granted")[before:])
