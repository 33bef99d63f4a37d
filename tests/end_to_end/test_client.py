"""``gateway_queue.client``: with a real server, and with what it may meet in its place.

What the client does is written for both of asyncio and trio, and played by each in turn.
"""

import asyncio
import importlib.metadata
import json
import logging
import math
import re
import ssl
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path

import anyio
import httpx
import pytest
import trio
import trustme
from background import background
from harness import free_port, running_server
from instants import LOGGED_WITHIN, logged_at, opened_at
from patience import PATIENCE
from raw import GRANT

from gateway_queue.client import GatewayQueue, Grant, Outcome, RefusedError, Standing

Scene = Callable[[GatewayQueue], Awaitable[object]]

KEY = "sesame-9f2c"
INTERVAL = 0.4
LONG = 60.0  # seconds of an interval whose end no test waits for
JSON, PROBLEM = "application/json", "application/problem+json"


def standing(**given: object) -> bytes:
    stands = {"position": 1, "expected_in": None, "reason": "interval"}
    return json.dumps(stands | given).encode()


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def play(backend: str, scene: Scene, url: str, api_key: str | None = None) -> None:
    async def whole() -> None:
        with anyio.fail_after(PATIENCE):
            async with GatewayQueue(url, api_key=api_key) as queue:
                await scene(queue)

    if backend == "trio":
        await whole()
    else:
        await trio.to_thread.run_sync(lambda: asyncio.run(whole()))


# Turns


async def test_each_shard_gets_its_turn_when_the_interval_is_over(backend: str) -> None:
    returned: dict[int, float] = {}

    async def wait(queue: GatewayQueue, shard: int) -> None:
        await queue.wait(shard)
        returned[shard] = time.time()

    async def scene(queue: GatewayQueue) -> None:
        async with anyio.create_task_group() as tasks:
            for shard in range(4):
                tasks.start_soon(wait, queue, shard)

    async with running_server(GATEWAY_QUEUE_INTERVAL=INTERVAL) as server:
        await play(backend, scene, server.url)
        granted = await server.logged_times(4, "identify_granted")

    granted_at = {line["shard"]: logged_at(line) for line in granted}
    gaps = [later - earlier for earlier, later in pairwise(granted_at.values())]
    assert min(gaps) > INTERVAL - LOGGED_WITHIN
    assert all(returned[shard] > granted_at[shard] - LOGGED_WITHIN for shard in range(4))


async def test_it_tells_how_the_shard_stands_and_asks_again(backend: str) -> None:
    standings: list[Standing] = []

    async def scene(queue: GatewayQueue) -> None:
        await queue.wait(0)
        await queue.wait(1, on_standing=standings.append)

    async with running_server(GATEWAY_QUEUE_INTERVAL=2) as server:
        await play(backend, scene, server.url)
        before, granted = await server.logged_times(2, "identify_granted")
        put_off = await server.logged("identify_put_off", shard=1)

    (standing,) = standings
    assert standing.position == 1
    assert standing.reason == "interval"
    expected_at = logged_at(put_off) + (standing.expected_in or 0)
    assert expected_at == pytest.approx(opened_at(granted), abs=LOGGED_WITHIN)
    assert expected_at == pytest.approx(logged_at(before) + 2, abs=LOGGED_WITHIN)


@pytest.mark.parametrize(
    ("number", "says"),
    [(1, "shard 0: 2nd in line, about 8 s"), (37, "37 shards wait; the next in about 8 s")],
)
async def test_a_process_says_once_in_ten_seconds_how_its_shards_stand(
    backend: str, number: int, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    put_off = http(202, JSON, standing(position=2, expected_in=8.2))
    requests: Counter[bytes] = Counter()

    async def answer(stream: trio.SocketStream) -> None:
        shard = (await stream.receive_some()).split(b"shard=")[1].split(b"&")[0]
        requests[shard] += 1
        everybody_asked_twice = len(requests) == number and min(requests.values()) > 1
        await stream.send_all(http(200, JSON, GRANT) if everybody_asked_twice else put_off)
        await stream.aclose()

    async def scene(queue: GatewayQueue) -> None:
        async with anyio.create_task_group() as tasks:
            for shard in range(number):
                tasks.start_soon(queue.wait, shard)

    async with listening(answer) as url:
        await play(backend, scene, url)

    assert [record.message for record in caplog.records if is_ours(record)] == [says]


async def test_with_on_standing_nothing_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    told: list[Standing] = []
    put_off = http(202, JSON, standing())
    async with (
        answering(put_off, http(200, JSON, GRANT)) as (url, _),
        GatewayQueue(url) as queue,
    ):
        await queue.wait(0, on_standing=told.append)

    assert len(told) == 1
    assert not [*filter(is_ours, caplog.records)]


async def test_there_may_be_more_shards_than_a_pool_has_connections(backend: str) -> None:
    number = 150

    async with running_server(GATEWAY_QUEUE_INTERVAL=LONG) as server:

        async def scene(queue: GatewayQueue) -> None:
            async with anyio.create_task_group() as tasks:
                for shard in range(number):
                    tasks.start_soon(queue.wait, shard)
                await waiting(server.url, lambda shards: len(shards) == number)
                tasks.cancel_scope.cancel()

        await play(backend, scene, server.url)


async def test_a_cancelled_shard_leaves_and_gets_its_old_place_back(backend: str) -> None:
    async with running_server(GATEWAY_QUEUE_INTERVAL=LONG) as server:

        async def scene(queue: GatewayQueue) -> None:
            async with anyio.create_task_group() as tasks:
                async with anyio.create_task_group() as first:
                    first.start_soon(queue.wait, 0)
                    await present(server.url, 0)
                    tasks.start_soon(queue.wait, 1)
                    await present(server.url, 0, 1)
                    first.cancel_scope.cancel()
                await present(server.url, 1)
                tasks.start_soon(queue.wait, 0)
                await present(server.url, 0, 1)
                tasks.cancel_scope.cancel()
            await present(server.url)

        await play(backend, scene, server.url)


async def present(url: str, *shards: int) -> None:
    """Wait until these, in this order, and no others wait for their turn."""
    await waiting(url, lambda waiting: waiting == [*shards])


async def waiting(url: str, wanted: Callable[[list[int]], bool]) -> None:
    async with httpx.AsyncClient(base_url=url) as client:
        with anyio.fail_after(PATIENCE):
            while True:
                seats = (await client.get("/status?seats=true")).json()["seats"]
                if wanted([seat["shard"] for seat in seats]):
                    return


async def test_tasks_that_are_cancelled_twice_leave_no_connection_open() -> None:
    connected = 0

    async def hold(stream: trio.SocketStream) -> None:
        nonlocal connected
        connected += 1
        async for _ in stream:
            pass
        connected -= 1

    async def scene(queue: GatewayQueue) -> None:
        for steps in reversed(range(60)):  # of the way to an answer; the last do not connect
            task = asyncio.create_task(queue.wait(0))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        with anyio.fail_after(PATIENCE):
            while connected:  # noqa: ASYNC110 - the other end is in another thread
                await anyio.sleep(0.01)

    async with listening(hold) as url:
        await play("asyncio", scene, url)


async def test_it_keeps_asking_while_the_server_is_killed_and_started_again(backend: str) -> None:
    port = free_port()
    done = trio.Event()

    async def scene(queue: GatewayQueue) -> None:
        await queue.wait(0)

    async with background() as nursery:

        async def client() -> None:
            await play(backend, scene, f"http://127.0.0.1:{port}")
            done.set()

        async with running_server(PORT=port, GATEWAY_QUEUE_INTERVAL=LONG) as server:
            nursery.start_soon(client)
            await server.logged("identify_queued", shard=0)
        async with running_server(PORT=port, GATEWAY_QUEUE_INTERVAL=INTERVAL):
            with trio.fail_after(PATIENCE):
                await done.wait()


async def test_proxies_that_the_environment_names_are_not_used(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")

    async def scene(queue: GatewayQueue) -> None:
        await queue.wait(0)

    async with running_server(GATEWAY_QUEUE_INTERVAL=INTERVAL) as server:
        await play(backend, scene, server.url)


async def test_without_an_answer_clients_back_off_and_do_not_retry_in_step() -> None:
    asked_at: dict[bytes, list[float]] = defaultdict(list)
    thrice = trio.Event()

    async def hang_up(stream: trio.SocketStream) -> None:
        asked_at[(await stream.receive_some()).split()[1]].append(trio.current_time())
        if len(asked_at) == 20 and min(map(len, asked_at.values())) == 3:
            thrice.set()

    async with listening(hang_up) as url, GatewayQueue(url) as queue, background() as nursery:
        for shard in range(20):
            nursery.start_soon(queue.wait, shard)
        with trio.fail_after(PATIENCE):
            await thrice.wait()

    pauses = [[later - earlier for earlier, later in pairwise(at)] for at in asked_at.values()]
    assert min(first for first, *_ in pauses) >= 0.25
    assert min(second for _, second, *_ in pauses) >= 0.5
    assert max(first for first, *_ in pauses) - min(first for first, *_ in pauses) > 0.1


async def test_a_process_warns_once_of_a_queue_that_is_away(
    backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    hung_up_on: set[bytes] = set()

    async def answer(stream: trio.SocketStream) -> None:
        target = (await stream.receive_some()).split()[1]
        if target in hung_up_on and len(hung_up_on) == 20:
            await stream.send_all(http(200, JSON, GRANT))
        hung_up_on.add(target)
        await stream.aclose()

    async with listening(answer) as url:

        async def scene(queue: GatewayQueue) -> None:
            async with GatewayQueue(url) as other, anyio.create_task_group() as tasks:
                for shard in range(20):
                    tasks.start_soon((queue if shard % 2 else other).wait, shard)

        await play(backend, scene, url)

    said = [(record.levelname, record.message) for record in caplog.records if is_ours(record)]
    (warning, why), end = said
    assert (warning, end) == ("WARNING", ("INFO", "the queue answers again"))
    assert why.startswith("asking the queue again until it answers: ")


def is_ours(record: logging.LogRecord) -> bool:
    return record.name == "gateway_queue.client"


@pytest.mark.slow
async def test_no_timeout_ends_a_request_that_is_held(backend: str) -> None:
    requests = 0

    async def hold(stream: trio.SocketStream) -> None:
        nonlocal requests
        requests += 1
        await stream.receive_some()
        await trio.sleep(15)
        await stream.send_all(http(200, JSON, GRANT))

    async with listening(hold) as url:
        await play(backend, lambda queue: queue.wait(0), url)

    assert requests == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of its timers")
async def test_the_system_notices_a_server_that_vanishes(backend: str) -> None:
    async with running_server(GATEWAY_QUEUE_INTERVAL=LONG) as server:

        async def scene(queue: GatewayQueue) -> None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(queue.wait, 0)
                await present(server.url, 0)
                assert 0 < seconds_to_probe(server.url) <= 15
                tasks.cancel_scope.cancel()

        await play(backend, scene, server.url)


def seconds_to_probe(url: str) -> float:
    """Until the client's system looks whether the server is still there; 0 if it never does."""
    port = f":{int(url.rpartition(':')[2]):04X}"
    times = [0]
    for line in Path("/proc/net/tcp").read_text().splitlines():
        _, _, there, _, _, timer, *_ = line.split()
        if there.endswith(port) and timer.startswith("02:"):
            times.append(int(timer[3:], 16))
    return max(times) / 100


# What is no permission


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="closed unanswered"),
        pytest.param(b"what?\r\n\r\n", id="no HTTP"),
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{", id="cut off"),
        pytest.param(
            b"HTTP/1.1 302 Found\r\nlocation: /there\r\ncontent-length: 0\r\n\r\n", id="redirect"
        ),
        *(
            pytest.param((status, kind, body), id=f"{status} {kind} {body[:60]!r}")
            for status, kind, body in (
                (200, "text/html", b"<h1>Welcome to nginx!</h1>"),
                (200, JSON, b'{"message": "hello"}'),
                (200, JSON, b"[]"),
                (202, JSON, GRANT),
                (202, JSON, b"{}"),
                (202, JSON, b"\xff"),
                (202, JSON, standing(position="first")),
                (202, JSON, standing(expected_in="soon")),
                (202, JSON, standing(expected_in=math.nan)),
                (202, JSON, standing(expected_in=math.inf)),
                (200, JSON, 5000 * b"["),
                (200, JSON, GRANT + 10_000 * b" "),
                (204, JSON, b""),
                (404, "text/html", b"no such route"),
                (429, JSON, b"{}"),
                (429, PROBLEM, b'{"detail": "of a proxy"}'),
                (500, PROBLEM, b"{}"),
                (503, "text/html", b""),
                (504, "text/html", GRANT),
            )
        ),
    ],
)
async def test_nothing_but_the_queues_own_words_is_a_permission(
    answer: bytes | tuple[int, str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    if isinstance(answer, tuple):
        answer = http(*answer)
    async with answering(answer, http(200, JSON, GRANT)) as (url, requests):
        await play("trio", lambda queue: queue.wait(3), url)

    assert [request.split(b" HTTP")[0] for request in requests] == 2 * [b"GET /?shard=3&wait=1"]
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert warning.name == "gateway_queue.client"


async def test_an_answer_has_to_end() -> None:
    requests = 0

    async def answer(stream: trio.SocketStream) -> None:
        nonlocal requests
        requests += 1
        await stream.receive_some()
        if requests == 2:
            await stream.send_all(http(200, JSON, GRANT))
            return
        await stream.send_all(b"HTTP/1.1 200 Words\r\ncontent-length: 5000\r\n\r\n")
        with suppress(trio.BrokenResourceError):
            while True:
                await stream.send_all(b" ")
                await trio.sleep(0.1)

    async with listening(answer) as url:
        await play("trio", lambda queue: queue.wait(0), url)


async def test_a_client_that_gets_immediate_202s_backs_off_too() -> None:
    at: list[float] = []
    answers = [http(202, JSON, standing())] * 3

    async def scene(queue: GatewayQueue) -> None:
        await queue.wait(0, on_standing=lambda _: at.append(anyio.current_time()))

    async with answering(*answers, http(200, JSON, GRANT)) as (url, requests):
        await play("trio", scene, url)

    lines = [request.split(b" HTTP")[0] for request in requests]
    assert lines[0] == b"GET /?shard=0&wait=1"
    holds = [float(line.rpartition(b"=")[2]) for line in lines[1:]]
    assert all(10 <= hold <= 14 for hold in holds)
    assert len(set(holds)) > 1
    first, second, third = at
    assert second - first >= 0.25
    assert third - second >= 0.5


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (
            (400, PROBLEM, b'{"detail": "shard is odd"}'),
            r"^the queue refuses: shard is odd \(400\)",
        ),
        (
            (400, f"{PROBLEM}; charset=utf-8", b'{"detail": "shard is odd"}'),
            r"^the queue refuses: shard is odd \(400\)",
        ),
        ((400, PROBLEM, b"[]"), r"^the queue refuses: Words \(400\)"),
        ((404, PROBLEM, b'{"detail": "no turn here"}'), r"no turn here \(404\)"),
        ((401, "text/html", b"of a proxy"), r"^the queue refuses: Words \(401\)"),
        ((403, "text/html", b"of a proxy"), r"^the queue refuses: Words \(403\)"),
    ],
)
async def test_a_refusal_is_raised(answer: tuple[int, str, bytes], says: str) -> None:
    async with answering(http(*answer)) as (url, _), GatewayQueue(url) as queue:
        with pytest.raises(RefusedError, match=says) as raised:
            await queue.wait(3)

    assert raised.value.status == answer[0]


def http(status: int, kind: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status} Words\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}"
    return f"{head}\r\nconnection: close\r\n\r\n".encode() + body


@asynccontextmanager
async def answering(*answers: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that gives these answers, each to one connection; and what it was sent."""
    left = list(answers)
    requests: list[bytes] = []

    async def answer(stream: trio.SocketStream) -> None:
        requests.append(await stream.receive_some())
        await stream.send_all(left.pop(0))
        await stream.aclose()

    async with listening(answer) as url:
        yield url, requests


@asynccontextmanager
async def listening(
    handler: Callable[[trio.SocketStream], Awaitable[object]],
) -> AsyncIterator[str]:
    async with background() as nursery:
        serve = partial(trio.serve_tcp, handler, 0, host="127.0.0.1")
        listener, *_ = await nursery.start(serve)
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}"


# The API key


async def test_the_key_is_sent_and_not_told(backend: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def scene(queue: GatewayQueue) -> None:
        await queue.wait(0)
        assert await queue.confirm(Grant(0))
        assert KEY not in repr(vars(queue))

    async with running_server(GATEWAY_QUEUE_API_KEY=KEY, GATEWAY_QUEUE_INTERVAL=INTERVAL) as server:
        await play(backend, scene, server.url, KEY)

    assert "shard=0" in caplog.text
    assert KEY not in caplog.text


@pytest.mark.parametrize("key", [None, KEY + "x"])
async def test_a_wrong_key_is_refused(key: str | None) -> None:
    async with (
        running_server(GATEWAY_QUEUE_API_KEY=KEY) as server,
        GatewayQueue(server.url, api_key=key) as queue,
    ):
        for ask in (queue.wait(0), queue.confirm(Grant(0))):
            with pytest.raises(RefusedError, match="401") as raised:
                await ask
            assert KEY not in str(raised.value)


@pytest.mark.parametrize("key", ["", f"{KEY}\n", f"two {KEY}", f"ü{KEY}"])
def test_what_cannot_be_a_key_is_not_told(key: str) -> None:
    with pytest.raises(ValueError, match="API key") as raised:
        GatewayQueue("http://127.0.0.1", api_key=key)
    assert KEY not in repr(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        *("", "127.0.0.1:8000", "ftp://queue", "http://", "http://:x", "/"),
        *(f"http://me:{KEY}@queue", "http://queue?shard=1", "http://queue#1"),
        *("http://queue:0", "http://queue:99999", f"http://{64 * 'q'}", "http://queue..local"),
    ],
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ValueError, match="the queue's address") as raised:
        GatewayQueue(url)
    assert KEY not in repr(raised.value)


# TLS


async def test_it_trusts_the_authority_that_it_is_given(tmp_path: Path) -> None:
    authority, both = trustme.CA(), tmp_path / "both.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(both)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    tls = {"GATEWAY_QUEUE_CERTFILE": both, "GATEWAY_QUEUE_KEYFILE": both}
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=INTERVAL, **tls) as server,
        GatewayQueue(server.url, ssl_context=trusting) as queue,
    ):
        with trio.fail_after(PATIENCE):
            await queue.wait(0)


# Confirmations


async def test_a_confirmation_is_of_a_turn_the_server_knows(backend: str) -> None:
    async def scene(queue: GatewayQueue) -> None:
        assert not await queue.confirm(Grant(0))
        grant = await queue.wait(0, confirm=True)
        assert await queue.confirm(grant)
        assert await queue.confirm(grant, "invalid_session")

    async with running_server(GATEWAY_QUEUE_INTERVAL=INTERVAL) as server:
        await play(backend, scene, server.url)

        await server.logged("invalid_session_reported", shard=0)


async def test_an_unconfirmed_turn_keeps_the_bucket_closed_for_two_intervals(backend: str) -> None:
    async def scene(queue: GatewayQueue) -> None:
        for shard in range(2):
            await queue.wait(shard, confirm=True)

    async with running_server(GATEWAY_QUEUE_INTERVAL=INTERVAL) as server:
        await play(backend, scene, server.url)
        first, second = await server.logged_times(2, "identify_granted")

    assert logged_at(second) - logged_at(first) > 2 * INTERVAL - LOGGED_WITHIN


async def test_a_confirmation_is_said_again_until_it_is_heard() -> None:
    heard = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"
    answers = b"", http(502, "text/html", b""), heard
    async with answering(*answers) as (url, requests), GatewayQueue(url) as queue:
        assert await queue.confirm(Grant(7))

    assert len(requests) == 3
    assert requests[0].startswith(b"POST /confirm?shard=7 HTTP")


async def test_a_confirmation_is_sent_only_once_to_a_server_that_does_not_know_it() -> None:
    async with (
        answering(http(200, JSON, GRANT)) as (url, requests),
        GatewayQueue(url) as queue,
    ):
        assert not await queue.confirm(Grant(7))

    assert len(requests) == 1


@pytest.mark.parametrize(
    ("outcome", "query"),
    [
        ("identified", b"shard=7&grant=41"),
        ("ready", b"shard=7&grant=41&outcome=ready"),
        ("invalid_session", b"shard=7&grant=41&outcome=invalid_session"),
    ],
)
async def test_a_confirmation_names_the_grant(outcome: Outcome, query: bytes) -> None:
    numbered = http(200, f"{JSON}\r\nx-gateway-queue-grant: 41", GRANT)
    heard = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"
    async with answering(numbered, heard) as (url, requests), GatewayQueue(url) as queue:
        grant = await queue.wait(7, confirm=True)
        assert await queue.confirm(grant, outcome)

    assert grant == Grant(7, 41)
    assert requests[1].startswith(b"POST /confirm?" + query + b" HTTP")


@pytest.mark.parametrize("number", ["", "x", "-1", "4.1", "9" * 30, "\u0663"])
async def test_an_invalid_grant_number_is_left_out(number: str) -> None:
    numbered = http(200, f"{JSON}\r\nx-gateway-queue-grant: {number}", GRANT)
    async with answering(numbered) as (url, _), GatewayQueue(url) as queue:
        assert await queue.wait(7) == Grant(7, None)


@pytest.mark.parametrize("anew", ["wait", "confirm"])
async def test_asking_again_stops_confirming_the_turn_before(backend: str, anew: str) -> None:
    requests: list[bytes] = []

    async def answer(stream: trio.SocketStream) -> None:
        request = await stream.receive_some()
        requests.append(request.split(b" HTTP")[0])
        if request.startswith(b"POST /confirm?shard=7&grant=1 "):
            await stream.receive_some()  # for ever: until the client leaves
        elif request.startswith(b"POST"):
            await stream.send_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
        else:
            await stream.send_all(http(200, JSON, GRANT))
        await stream.aclose()

    async def scene(queue: GatewayQueue) -> None:
        confirmed = []

        async def confirm() -> None:
            confirmed.append(await queue.confirm(Grant(7, 1)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(confirm)
            tasks.start_soon(queue.confirm, Grant(8, 2))
            while len(requests) < 2:  # noqa: ASYNC110 - the other end may be in another thread
                await anyio.sleep(0.01)
            with anyio.fail_after(5):  # it would go on for ten
                if anew == "wait":
                    await queue.wait(7)
                else:
                    await queue.confirm(Grant(7, 1), "ready")
        assert confirmed == [False]

    async with listening(answer) as url:
        await play(backend, scene, url)

    assert requests[2:] == [
        b"GET /?shard=7&wait=1"
        if anew == "wait"
        else b"POST /confirm?shard=7&grant=1&outcome=ready"
    ]


async def test_a_server_that_does_not_know_an_outcome_has_not_taken_it() -> None:
    answer = http(400, PROBLEM, b'{"detail": "outcome is odd"}')
    async with answering(answer) as (url, requests), GatewayQueue(url) as queue:
        assert not await queue.confirm(Grant(7), "ready")

    assert len(requests) == 1


# What it needs


def test_it_needs_nothing_of_the_servers() -> None:
    needed = importlib.metadata.requires("gateway-queue") or []
    always = [name for name in needed if "extra ==" not in name]
    assert sorted(re.findall(r"^\w+", "\n".join(always), re.MULTILINE)) == ["anyio", "httpx"]

    absent = "click", "hypercorn", "prometheus_client", "pydantic", "quart", "rich", "structlog"
    program = f"import sys; sys.modules |= dict.fromkeys({absent}); import {{}}"
    for module in ("gateway_queue.client", "gateway_queue.client.discord_py"):
        subprocess.run([sys.executable, "-c", program.format(module)], check=True)


def test_the_command_says_what_to_install() -> None:
    absent = (
        "import runpy, sys; sys.modules['click'] = None; runpy.run_module('gateway_queue', {}, "
    )
    program = [sys.executable, "-c", absent + "'__main__')"]
    ended = subprocess.run(program, check=False, capture_output=True, text=True)

    assert ended.returncode == 1
    assert "pip install 'gateway-queue[server]'" in ended.stderr
    assert ended.stderr.count("\n") == 1
