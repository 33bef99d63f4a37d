"""discord.js 14 and @discordjs/ws 2, as npm has them, with the throttler of examples/discord.js."""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from background import background
from crowd import gone
from fake_discord import FakeDiscord, fake_discord
from harness import Program, free_port, running, running_server
from patience import PATIENCE
from raw import GRANT

EXAMPLE = Path(__file__).parents[2] / "examples" / "discord.js"
BOTS = Path(__file__).parent / "bots"
NODE, NPM = shutil.which("node") or "", shutil.which("npm") or ""
OLDEST_NODE = 20
NPM_CI = [
    *(NPM, "ci", "--ignore-scripts", "--no-audit", "--no-fund"),
    *("--prefer-offline", "--fetch-retries=0", "--fetch-timeout=30000"),
]
UNREACHABLE = r"\b(E(NOTFOUND|AI_AGAIN|CONN\w+|HOSTUNREACH|NETUNREACH)|\w*TIMEDOUT|\w*TIMEOUT)\b"

SHARDS = 4
KEY = "sesame-9f2c"

# With this interval a bucket opens 1.06 s after a confirmation. What a busy machine may add to the
# jitter is the rest.
INTERVAL, WINDOW, JITTER = 1.0, 0.5, 0.1
LONG = 60.0  # seconds of an interval whose end no test waits for
HOLD = 10  # seconds for which the throttler has a request held, at least

DISCORD_JS, WS = pytest.param("bot.js", id="discord.js"), pytest.param("ws.js", id="ws")
SHARDING_MANAGER = pytest.param("sharding_manager.js", id="discord.js, ShardingManager")
WS_WORKERS = pytest.param("ws_workers.js", id="ws, WorkerShardingStrategy")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the example, the tests' own bots and what npm installs for them are together."""
    if not (NODE and NPM and node_version() >= OLDEST_NODE):
        pytest.skip(f"there is no Node.js from {OLDEST_NODE}, or no npm")
    folder = tmp_path_factory.mktemp("javascript")
    for source in (*EXAMPLE.glob("*.js*"), *BOTS.glob("*.js")):
        shutil.copy(source, folder)
    npm = subprocess.run(NPM_CI, cwd=folder, capture_output=True, text=True, check=False)
    if npm.returncode and re.search(UNREACHABLE, npm.stderr):
        pytest.skip("npm does not reach its registry")
    assert npm.returncode == 0, npm.stderr
    return folder


def node_version() -> int:
    said = subprocess.run([NODE, "--version"], check=True, capture_output=True, text=True).stdout
    return int(said.removeprefix("v").partition(".")[0])


def bot(
    program: Path, discord: FakeDiscord, queue: str, **environment: object
) -> AbstractAsyncContextManager[Program]:
    """A bot of four shards, where the environment does not say otherwise."""
    variables = {
        "DISCORD_API": f"{discord.url}/api",
        "DISCORD_TOKEN": discord.token,
        "GATEWAY_QUEUE_URL": queue,
        "NODE_OPTIONS": f"--import={program.parent / 'to_the_fake.js'}",
        "SHARDS": json.dumps([*range(SHARDS)]),
        "SHARD_COUNT": SHARDS,
    }
    return running(NODE, str(program), **(variables | environment))


def hasty_discord(max_concurrency: int = 2) -> AbstractAsyncContextManager[FakeDiscord]:
    return fake_discord(
        shards=SHARDS, max_concurrency=max_concurrency, window=WINDOW, jitter=JITTER
    )


def queue_of(
    discord: FakeDiscord, interval: float = INTERVAL, port: int = 0
) -> AbstractAsyncContextManager[Program]:
    return running_server(
        DISCORD_TOKEN=discord.token,
        GATEWAY_QUEUE_DISCORD_API=discord.api,
        GATEWAY_QUEUE_INTERVAL=interval,
        PORT=port,
    )


async def granted(queue: Program) -> int:
    """How many turns it has given."""
    async with httpx.AsyncClient(base_url=queue.url) as client:
        page = (await client.get("/metrics")).text
    found = re.findall(r"^gateway_queue_grants_total{.*} ([0-9.]+)$", page, re.MULTILINE)
    return int(sum(map(float, found)))


async def present(queue: Program, number: int) -> Any:
    """The seats, once so many shards wait for their turn."""
    async with httpx.AsyncClient(base_url=queue.url) as client:
        with trio.fail_after(PATIENCE):
            while True:
                seats = (await client.get("/status?seats=true")).json()["seats"]
                if len(seats) == number:
                    return seats
                await trio.sleep(0.05)


# Turns


@pytest.mark.parametrize("program", [DISCORD_JS, WS, SHARDING_MANAGER, WS_WORKERS])
async def test_all_shards_get_ready_in_turn(folder: Path, program: str) -> None:
    async with (
        hasty_discord() as discord,
        queue_of(discord) as queue,
        bot(folder / program, discord, queue.url) as shards,
    ):
        with trio.fail_after(PATIENCE):
            await discord.wait_ready(SHARDS)
        turns = await granted(queue)
        lines = [*shards.lines]  # processes of a bot that is killed may complain of that

    assert turns == SHARDS
    assert discord.violations == []
    assert sorted(identify.shard for identify in discord.identifies) == [*range(SHARDS)]
    assert [line for line in lines if "queue" in line or "confirm" in line] == []


@pytest.mark.parametrize("program", [DISCORD_JS, WS])
async def test_it_is_one_of_several_bots(folder: Path, tmp_path: Path, program: str) -> None:
    async with hasty_discord() as discord:
        (tmp_path / "music").write_text(discord.token)
        (tmp_path / "other").write_text("MQ.of.another")  # Discord refuses it
        async with (
            running_server(
                GATEWAY_QUEUE_BOTS=tmp_path,
                GATEWAY_QUEUE_DISCORD_API=discord.api,
                GATEWAY_QUEUE_INTERVAL=INTERVAL,
            ) as queue,
            bot(folder / program, discord, f"{queue.url}/bots/music"),
        ):
            with trio.fail_after(PATIENCE):
                await discord.wait_ready(SHARDS)
            turns = await granted(queue)

    assert turns == SHARDS
    assert discord.violations == []


@pytest.mark.parametrize("program", [DISCORD_JS, WS, WS_WORKERS])
async def test_a_turn_is_confirmed_when_the_identify_is_sent(folder: Path, program: str) -> None:
    async with (
        fake_discord(latency=1.0) as discord,  # so much later comes the IDENTIFY, and then READY
        answering() as (url, requests),
        bot(folder / program, discord, url, SHARDS="[0]", SHARD_COUNT=1),
    ):
        with trio.fail_after(PATIENCE):
            await discord.wait_ready(1)

            while len(requests) < 3:  # noqa: ASYNC110 - READY is confirmed a little later
                await trio.sleep(0.05)

    [identify], [ask, sent, ready] = discord.identifies, requests
    assert ask.text.startswith("GET /?shard=0&wait=")
    assert sent.text.startswith("POST /confirm?shard=0&grant=17 HTTP")
    assert identify.at - sent.at == pytest.approx(discord.latency, abs=0.75)
    assert ready.text.startswith("POST /confirm?shard=0&grant=17&outcome=ready HTTP")


async def test_processes_of_discord_py_and_discord_js_are_one_bot(folder: Path) -> None:
    number = 6

    def discord_py(shards: str) -> AbstractAsyncContextManager[Program]:
        return running(
            sys.executable,
            str(BOTS / "discord_py_bot.py"),
            f"--discord={discord.url}",
            f"--queue={queue.url}",
            f"--shards={shards}",
            f"--shard-count={number}",
            DISCORD_TOKEN=discord.token,
        )

    async with (
        fake_discord(shards=number, max_concurrency=2, jitter=JITTER) as discord,
        # With this jitter such an interval is too short for all who do not confirm.
        queue_of(discord, interval=5.0) as queue,
        discord_py("0,1"),
        discord_py("2,3"),
        bot(folder / "bot.js", discord, queue.url, SHARDS="[4,5]", SHARD_COUNT=number),
    ):
        with trio.fail_after(2 * PATIENCE):
            await discord.wait_ready(number)

    assert discord.violations == []
    assert sorted(identify.shard for identify in discord.identifies) == [*range(number)]


# Leaving


@pytest.mark.parametrize("library", ["discord.js", "@discordjs/ws"])
async def test_a_destroyed_bot_has_left_and_is_in_nobodys_way(folder: Path, library: str) -> None:
    async with hasty_discord() as discord, queue_of(discord, LONG) as queue:
        async with bot(folder / "destroyed.js", discord, queue.url, LIBRARY=library) as leaving:
            await present(queue, SHARDS)
            since = time.time()
            assert await leaving.stop() == 0
            await gone(queue, range(SHARDS), since=since, within=HOLD / 2)
        async with bot(folder / "bot.js", discord, queue.url, SHARDS="[3]"):
            [seat] = await present(queue, 1)
        turns = await granted(queue)

    assert (seat["shard"], seat["position"]) == (3, 1)
    assert turns == len(discord.identifies) == 0


@pytest.mark.parametrize("program", [DISCORD_JS, WS_WORKERS])
async def test_shards_that_lose_their_sockets_ask_again_and_identify_once(
    folder: Path, program: str
) -> None:
    port = free_port()
    async with (
        hasty_discord(max_concurrency=SHARDS) as discord,
        bot(folder / program, discord, f"http://127.0.0.1:{port}"),
    ):
        async with queue_of(discord, LONG, port) as queue:
            await present(queue, SHARDS)
            dropped = discord.drop_the_unidentified()
            for shard in range(SHARDS):
                await queue.logged("identify_left", shard=shard)
            await present(queue, SHARDS)
        async with queue_of(discord, port=port) as queue:
            with trio.fail_after(PATIENCE):
                await discord.wait_ready(SHARDS)
            turns = await granted(queue)

    assert dropped == turns == len(discord.identifies) == SHARDS
    assert discord.violations == []


async def test_a_lost_session_asks_again_and_a_lost_connection_does_not(folder: Path) -> None:
    async with (
        hasty_discord(max_concurrency=SHARDS) as discord,
        queue_of(discord) as queue,
        bot(folder / "bot.js", discord, queue.url),
    ):
        with trio.fail_after(PATIENCE):
            await discord.wait_ready(SHARDS)
            discord.drop(0)
            discord.invalidate(1)
            await discord.wait_ready(SHARDS)
        turns = await granted(queue)

    assert turns == SHARDS + 1
    assert sorted(identify.shard for identify in discord.identifies) == [0, 1, 1, 2, 3]
    assert discord.violations == []


# A queue that fails


async def test_a_queue_that_is_killed_costs_no_identify(folder: Path) -> None:
    port = free_port()
    async with (
        hasty_discord() as discord,
        bot(folder / "bot.js", discord, f"http://127.0.0.1:{port}") as shards,
    ):
        with trio.fail_after(PATIENCE):
            async with queue_of(discord, port=port):
                await discord.wait_ready(SHARDS // 2)
            async with queue_of(discord, port=port):
                await discord.wait_ready(SHARDS)

    assert discord.violations == []
    assert sorted(identify.shard for identify in discord.identifies) == [*range(SHARDS)]
    assert any("asking the queue again until it answers: " in line for line in shards.lines)


@pytest.mark.parametrize("program", [DISCORD_JS, WS])
async def test_nothing_but_the_queues_own_words_is_a_permission(folder: Path, program: str) -> None:
    wrong = [
        b"",  # closed unanswered
        b"what?\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n" + GRANT,  # cut off
        http(200, b"<h1>Welcome to nginx!</h1>"),
        http(200, b'{"message": "hello"}'),
        http(200, b"null"),
        http(202, b"{}"),
        http(204, b""),
        http(302, GRANT, "location: /to-a-permission"),
        http(401, b'{"detail": "the API key is not the one this server expects"}'),
        http(404, b"no such route"),
        http(429, b"{}"),
        http(500, b""),
        http(503, GRANT),
    ]
    number = len(wrong)
    async with (
        fake_discord(shards=number, max_concurrency=number) as discord,
        answering(*wrong) as (url, requests),
        bot(
            folder / program,
            discord,
            url,
            GATEWAY_QUEUE_API_KEY=KEY,
            SHARDS=json.dumps([*range(number)]),
            SHARD_COUNT=number,
        ) as shards,
    ):
        with trio.fail_after(PATIENCE):
            await discord.wait_ready(number)

    assert discord.violations == []
    assert sorted(identify.shard for identify in discord.identifies) == [*range(number)]
    asks = [request.text for request in requests if request.text.startswith("GET")]
    patterns = [
        rf"GET /\?shard={shard}&wait=1[0-4]\.\d&confirm=true HTTP" for shard in range(number)
    ]
    assert all(sum(bool(re.match(one, ask)) for ask in asks) == 2 for one in patterns)
    assert len(asks) == 2 * number
    assert all(f"\r\nAuthorization: Bearer {KEY}\r\n" in request.text for request in requests)
    said = "\n".join(shards.lines)
    assert said.count("asking the queue again until it answers: ") == 1
    assert said.count("the queue answers again") == 1
    assert KEY not in said


def http(status: int, body: bytes, *headers: str) -> bytes:
    lines = f"HTTP/1.1 {status} Words", f"content-length: {len(body)}", "connection: close"
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


@dataclass(frozen=True, slots=True)
class Request:
    text: str
    at: float


@asynccontextmanager
async def answering(*wrong: bytes) -> AsyncIterator[tuple[str, list[Request]]]:
    """A queue that permits all, but has these answers first, one a shard; and what it was sent."""
    left = list(wrong)
    asked: set[str] = set()
    requests: list[Request] = []

    async def answer(stream: trio.SocketStream) -> None:
        text = (await stream.receive_some()).decode()
        if not text:  # of a client that left
            return
        requests.append(Request(text, trio.current_time()))
        method, target, _ = text.split(" ", 2)
        shard = target.partition("&")[0]
        if method == "POST":
            await stream.send_all(http(204, b""))
        elif left and "shard" in shard and shard not in asked:
            asked.add(shard)
            await stream.send_all(left.pop())
        else:
            await stream.send_all(http(200, GRANT, "x-gateway-queue-grant: 17"))
        await stream.aclose()

    async with background() as nursery:
        serve = partial(trio.serve_tcp, answer, 0, host="127.0.0.1")
        listener, *_ = await nursery.start(serve)
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}", requests
