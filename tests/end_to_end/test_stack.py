"""The whole server behind its socket: drop-in for every client, and hard to break."""

import json
from contextlib import AsyncExitStack, suppress

import pytest
import trio
from background import background
from harness import DEFAULTS, SERVER, running, running_server
from instants import EXACT, LOGGED_WITHIN, logged_at, seconds_to_end
from raw import (
    AT_ONCE,
    GRANT,
    HTTP2Client,
    answer_of,
    connect,
    connect_http2,
    grant_of,
    tampered_server,
    waiting,
)
from ways import on_one_server

pytestmark = pytest.mark.usefixtures("way")

JSON = b'{"shard_id": 1, "token": "not yours"}'
ONE = "Host: queue"


# Drop-in

REQUESTS = {
    "no shard": ("GET / HTTP/1.1", ONE),
    "shard": ("GET /?shard=1 HTTP/1.1", ONE),
    "percent-encoded": ("GET /?%73hard=%31 HTTP/1.1", ONE),
    "other parameters": ("GET /?shard=1&bot=2 HTTP/1.1", ONE),
    "HTTP/1.0": ("GET /?shard=1 HTTP/1.0",),
    "whole URL": ("GET http://queue:80/?shard=1 HTTP/1.1", ONE),
    "whole URL without a path": ("GET http://queue?shard=1 HTTP/1.1", ONE),
    "prefixed path": ("GET /any/path?shard=1 HTTP/1.1", ONE),
    "HEAD": ("HEAD /?shard=1 HTTP/1.1", ONE),
    "OPTIONS": ("OPTIONS /?shard=1 HTTP/1.1", ONE),
    "PROPFIND": ("PROPFIND /?shard=1 HTTP/1.1", ONE),
    "POST of JSON": (
        "POST /?shard=1 HTTP/1.1",
        ONE,
        "Content-Type: application/json",
        f"Content-Length: {len(JSON)}",
    ),
    "body that never comes": ("POST /?shard=1 HTTP/1.1", ONE, "Content-Length: 1000000"),
    "unknown upgrade": ("GET /?shard=1 HTTP/1.1", ONE, "Connection: Upgrade", "Upgrade: unknown"),
    "strange headers": ("GET /?shard=1 HTTP/1.1", ONE, "Accept: text/html", "Cookie: =;=", "X: \t"),
}


async def test_whatever_asks_for_a_turn_gets_the_answer_of_the_original() -> None:
    async with running_server(
        GATEWAY_QUEUE_INTERVAL=0.02, GATEWAY_QUEUE_CRASH_LOOP="off"
    ) as server:
        for name, lines in REQUESTS.items():
            answer = await answer_of(server, *lines, body=JSON if "JSON" in name else b"")
            assert (answer.status, answer.headers["content-type"]) == (200, "application/json"), (
                name
            )
            assert answer.headers["content-length"] == str(len(GRANT)), name
            assert answer.body == (b"" if name == "HEAD" else GRANT), name


async def test_http2_is_granted_in_turn() -> None:
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=0.5) as server,
        connect_http2(server) as client,
    ):
        streams = [await client.ask("/?shard=1"), await client.ask("/a?shard=2", "POST")]
        assert all(answer.is_grant for answer in await client.answers(streams))
        one, other = await server.logged_times(2, "identify_granted")
    assert logged_at(other) - logged_at(one) > 0.5 - LOGGED_WITHIN


@on_one_server
async def test_an_upgrade_to_http2_is_granted() -> None:
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=0.05) as server,
        connect(server) as client,
    ):
        http2 = HTTP2Client(client.transport)
        settings = http2.protocol.initiate_upgrade_connection()
        assert settings is not None
        await client.ask(
            1,
            "Connection: Upgrade, HTTP2-Settings",
            "Upgrade: h2c",
            f"HTTP2-Settings: {settings.decode()}",
        )
        switching = await client.answer(has_body=False)
        assert switching.status == 101
        await http2.flush()
        http2.take(client.read_too_far())
        [answer] = await http2.answers([1])
    assert answer.is_grant


async def test_a_websocket_is_answered_with_the_grant_or_not_at_all() -> None:
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=0.05) as server,
        connect(server) as client,
    ):
        await client.ask(
            1,
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        )
        answer = await client.rest()
        assert not answer or answer.endswith(GRANT)


@on_one_server
async def test_a_body_that_never_ends_is_read_and_forgotten() -> None:
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=0.2) as server,
        connect(server) as client,
        background() as nursery,
    ):
        await client.send("POST /?shard=1 HTTP/1.1", ONE, "Transfer-Encoding: chunked")

        @nursery.start_soon
        async def talk() -> None:
            with suppress(trio.BrokenResourceError):  # the server hangs up after its answer
                while True:
                    await client.stream.send_all(b"1\r\nx\r\n" * 1000)

        assert (await client.answer()).is_grant


@on_one_server
async def test_a_request_line_may_come_in_parts() -> None:
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=0.05) as server,
        connect(server) as client,
    ):
        for part in (b"GE", b"T /?sh", b"ard=1 HTT", b"P/1.1\r", b"\nHost: queue\r\n\r", b"\n"):
            await client.stream.send_all(part)
            await trio.sleep(0.01)
        assert (await client.answer()).is_grant


async def test_probes_take_no_turn() -> None:
    async with running_server() as server:
        favicon = await answer_of(server, "GET /favicon.ico HTTP/1.1", ONE)
        assert favicon.status == 404
        assert favicon.headers["content-type"] == "application/problem+json"
        for path in ("/healthz", "/readyz"):
            for query in ("", "?shard=1"):
                assert (await answer_of(server, f"GET {path}{query} HTTP/1.1", ONE)).status == 200
                wrong = await answer_of(server, f"POST {path}{query} HTTP/1.1", ONE)
                assert wrong.status == 405
                assert "get" in wrong.headers["allow"]
        for path in ("/dashboard", "/gateway/bot", "/metrics", "/openapi.json", "/status"):
            for method in ("GET", "POST"):
                answer = await answer_of(server, f"{method} {path}?shard=1 HTTP/1.1", ONE)
                assert not answer.is_grant, path
        assert await server.stop() == 0
        assert server.logged_so_far("identify_queued") == []


@on_one_server
async def test_a_query_of_70_kb_is_refused_and_affects_no_other() -> None:
    long = "/?shard=1&x=" + 70_000 * "x"
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=0.5) as server,
        waiting(server, 2) as other,
    ):
        async with connect(server) as client:
            await client.send(f"GET {long} HTTP/1.1", ONE)
            assert (await client.answer()).status == 431
        async with connect_http2(server) as http2:
            await http2.ask(long)
            assert await http2.rest() == []
        assert (await other.answer()).is_grant
        await server.logged("identify_granted", shard=2)
        assert server.logged_so_far("identify_queued", shard=1) == []


@on_one_server
async def test_a_client_that_left_before_it_was_accepted_ends_nothing() -> None:
    async with tampered_server("keep_alive_is_refused", GATEWAY_QUEUE_INTERVAL=0.1) as server:
        await grant_of(server, 1)


# Crashes of the queue, of which a replica that does not lead has none


@on_one_server
@pytest.mark.parametrize(
    ("tampering", "settings"),
    [
        ("bucket_crashes", {}),
        ("refresh_crashes", {"DISCORD_TOKEN": "a.b.c"}),
    ],
)
async def test_a_crash_of_the_core_ends_the_process_without_a_grant(
    tampering: str, settings: dict[str, object]
) -> None:
    async with (
        tampered_server(tampering, GATEWAY_QUEUE_INTERVAL=1, **settings) as server,
        waiting(server, 1) as one,
        waiting(server, 2) as other,
    ):
        assert await server.ended() == 1
        assert await one.rest() == b""
        assert await other.rest() == b""
        last = json.loads(server.lines[-1])
        assert last["event"] == "core_crashed"
        assert "Traceback" in last["exception"]
        assert "RuntimeError: sabotage" in last["exception"]


@on_one_server
async def test_a_failing_handler_sends_no_answer_and_the_server_keeps_running() -> None:
    async with tampered_server("turn_fails", GATEWAY_QUEUE_SHUTDOWN_GRACE=60) as server:
        async with connect(server) as client:
            await client.ask(1)
            assert await client.rest() == b""
        async with connect_http2(server) as http2:
            await http2.reset_of(await http2.ask("/?shard=2"))
        await server.logged("request_failed", shard=1)
        await server.logged("request_failed", shard=2)
        assert (await answer_of(server, "GET /healthz HTTP/1.1", ONE)).status == 200
        assert await server.stop() == 0  # no handler is left behind, or it would take a minute
        assert seconds_to_end(server) < AT_ONCE


# Answers that are late or never taken. A replica that does not lead has no queue to stall.


@on_one_server
async def test_a_stall_between_grant_and_answer_does_not_shorten_the_gap() -> None:
    async with (
        tampered_server("loop_stalls_in_first_grant", GATEWAY_QUEUE_INTERVAL=0.5) as server,
        waiting(server, 1) as one,
        waiting(server, 2) as other,
    ):
        first = await one.answer()
        second = await other.answer()
    assert first.is_grant
    assert second.is_grant
    assert second.at - first.at >= 0.5 - EXACT


async def test_a_client_that_never_takes_its_answer_does_not_delay_others_for_long() -> None:
    async with (
        tampered_server("answers_must_be_taken_soon", GATEWAY_QUEUE_INTERVAL=0.2) as server,
        connect_http2(server, window=0) as client,
    ):
        stream = await client.ask("/?shard=1")
        first = await server.logged("identify_granted", shard=1)
        await client.reset_of(stream)
        await grant_of(server, 2)
        next_one = await server.logged("identify_granted", shard=2)
        assert logged_at(next_one) - logged_at(first) < 0.3 + 0.2 + AT_ONCE
        await server.logged("answer_not_taken")


@on_one_server
async def test_clients_that_leave_as_they_are_granted_delay_no_other() -> None:
    settings = {"GATEWAY_QUEUE_INTERVAL": 0.5, "GATEWAY_QUEUE_MAX_CONCURRENCY": 8}
    async with (
        tampered_server("loop_stalls_in_first_grant", **settings) as server,
        AsyncExitStack() as clients,
    ):
        leavers = [await clients.enter_async_context(connect_http2(server)) for _ in range(8)]
        for shard, leaver in enumerate(leavers):
            await leaver.ask(f"/?shard={shard}")
        await server.logged("stalling")
        for leaver in leavers:
            await leaver.stream.aclose()
        for shard in range(8, 16):
            await grant_of(server, shard)


# The process, which is the same at a replica


@on_one_server
async def test_few_open_files_are_warned_of() -> None:
    limited = "ulimit -n 256; exec " + " ".join(SERVER)
    async with running("sh", "-c", limited, **DEFAULTS) as server:
        assert (await server.logged("few_open_files"))["limit"] == 256


@on_one_server
async def test_all_open_files_that_are_allowed_are_used() -> None:
    limited = "ulimit -Sn 256; exec " + " ".join(SERVER)
    async with running("sh", "-c", limited, **DEFAULTS) as server:
        await server.logged("listening")
        limits = await trio.Path(f"/proc/{server.pid}/limits").read_text()
        [line] = [line for line in limits.splitlines() if line.startswith("Max open files")]
        soft, hard = line.split()[3:5]
        assert soft == hard


@on_one_server
async def test_the_garbage_collector_is_tuned() -> None:
    async with tampered_server("tells_its_thresholds") as server:
        assert (await server.logged("thresholds"))["gc"][0] == 10_000
