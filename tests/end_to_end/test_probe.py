"""Probes over real connections: whether the server notices that their client has left."""

import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from encrypted import Identity, tls
from harness import Program, running_server
from instants import logged_at
from raw import AT_ONCE, Client, answer_of, connect, connect_http2

PROBE = "/probe?hold=600&id=5f0c9a1e"


async def close_connection(server: Program) -> None:
    async with connect(server) as client:
        await client.send(f"GET {PROBE} HTTP/1.1", "Host: queue")
        await server.logged("probe_held", hold=600)


async def close_after_more_bytes(server: Program) -> None:
    async with connect(server) as client:
        await client.send(f"GET {PROBE} HTTP/1.1", "Host: queue", "Upgrade: something")
        await client.stream.send_all(b"GET /healthz HTTP/1.1\r\n")
        await server.logged("probe_held", hold=600)


async def close_http2(server: Program) -> None:
    async with connect_http2(server) as client:
        await client.ask(PROBE)
        await server.logged("probe_held", hold=600)


async def reset_stream(server: Program) -> None:
    async with connect_http2(server) as client:
        stream = await client.ask(PROBE)
        await server.logged("probe_held", hold=600)
        client.protocol.reset_stream(stream)
        await client.flush()
        await server.logged("probe_ended")


@pytest.mark.parametrize(
    "leave", [close_connection, close_after_more_bytes, close_http2, reset_stream]
)
async def test_who_leaves_is_seen_at_once(leave: Callable[[Program], Awaitable[None]]) -> None:
    async with running_server() as server:
        await leave(server)
        since = time.time()
        line = await server.logged("probe_ended")
        answer = await answer_of(server, "GET /probe?id=5f0c9a1e HTTP/1.1", "Host: queue")

    assert line["left"]
    assert logged_at(line) - since < AT_ONCE
    assert b'"left"' in answer.body


async def test_who_leaves_is_seen_through_tls(tmp_path: Path) -> None:
    identity = Identity.new(tmp_path)
    async with running_server(**identity.settings) as server:
        async with tls(server, identity.trust("http/1.1")) as stream:
            client = Client(stream.transport_stream, stream)
            await client.send("GET /probe?hold=0.1&id=5f0c9a1e HTTP/1.1", "Host: queue")
            assert (await client.answer(has_body=False)).status == 204
            await client.send(f"GET {PROBE} HTTP/1.1", "Host: queue")
            await server.logged("probe_held", hold=600)
        await server.logged("probe_ended", left=False)
        await server.logged("probe_ended", left=True)


async def test_the_servers_end_does_not_wait_for_it() -> None:
    async with running_server(GATEWAY_QUEUE_SHUTDOWN_GRACE=60) as server, connect(server) as client:
        await client.send(f"GET {PROBE} HTTP/1.1", "Host: queue")
        await server.logged("probe_held", hold=600)
        server.process.terminate()
        answer = await client.answer()
        assert await server.ended() == 0

    assert answer.status == 503
    assert b"the server is shutting down" in answer.body
    assert server.logged_so_far("probe_ended", left=False)
