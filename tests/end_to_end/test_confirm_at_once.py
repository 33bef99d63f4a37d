"""A confirmation that is sent the moment its answer is complete, on whatever connection.

Many clients keep a pool of open connections, so that it reaches the server before the server's
own task has ended its answer. Each way has a bucket of its own, and all go side by side.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime
from itertools import pairwise
from typing import Any

import trio
from harness import Program, running_server
from raw import Client, connect, connect_http2

ROUNDS = 40
INTERVAL = 0.5  # with it, all the constants of ``confirm`` are a tenth of what they are
HOLD = 1.0
AFTER_CONFIRMATION = 0.53

# Asks for a shard's turn again and again, and confirms at once.
Way = Callable[[Program, int], Awaitable[None]]


async def over_the_same_connection(server: Program, shard: int) -> None:
    async with connect(server) as client:
        for _ in range(ROUNDS):
            await take_turn(client, shard)
            await confirm(client, shard)


async def over_another_one_of_a_pool(server: Program, shard: int) -> None:
    async with connect(server) as client, connect(server) as other:
        for _ in range(ROUNDS):
            await take_turn(client, shard)
            await confirm(other, shard)


async def over_a_new_connection(server: Program, shard: int) -> None:
    for _ in range(ROUNDS):
        async with connect(server) as client:
            await take_turn(client, shard)
            async with connect(server) as other:
                await confirm(other, shard)


async def over_the_same_http2_connection(server: Program, shard: int) -> None:
    async with connect_http2(server) as client:
        for _ in range(ROUNDS):
            [answer] = await client.answers([await client.ask(turn_of(shard))])
            assert answer.is_grant
            [answer] = await client.answers([await client.ask(confirmation_of(shard), "POST")])
            assert answer.status == 204


async def over_another_http2_connection(server: Program, shard: int) -> None:
    async with connect_http2(server) as client, connect_http2(server) as other:
        for _ in range(ROUNDS):
            [answer] = await client.answers([await client.ask(turn_of(shard))])
            assert answer.is_grant
            [answer] = await other.answers([await other.ask(confirmation_of(shard), "POST")])
            assert answer.status == 204


WAYS: list[Way] = [
    over_the_same_connection,
    over_another_one_of_a_pool,
    over_a_new_connection,
    over_the_same_http2_connection,
    over_another_http2_connection,
]


async def test_it_counts_from_the_hand_over_each_time() -> None:
    async with running_server(
        GATEWAY_QUEUE_INTERVAL=INTERVAL,
        GATEWAY_QUEUE_MAX_CONCURRENCY=len(WAYS),
        GATEWAY_QUEUE_CRASH_LOOP="off",
    ) as server:
        async with trio.open_nursery() as nursery:
            for shard, way in enumerate(WAYS):
                nursery.start_soon(way, server, shard)
        for shard, way in enumerate(WAYS):
            for earlier, later in pairwise(
                await server.logged_times(ROUNDS, "identify_granted", shard=shard)
            ):
                opened_after = instant_of(later) - instant_of(earlier) - later["late"]
                assert AFTER_CONFIRMATION - 0.01 < opened_after < HOLD - 0.01, way.__name__


def instant_of(line: dict[str, Any]) -> float:
    return datetime.fromisoformat(line["timestamp"]).timestamp()


def turn_of(shard: int) -> str:
    return f"/?shard={shard}&confirm=true"


def confirmation_of(shard: int) -> str:
    return f"/confirm?shard={shard}"


async def take_turn(client: Client, shard: int) -> None:
    await client.send(f"GET {turn_of(shard)} HTTP/1.1", "Host: queue")
    answer = await client.answer()
    assert answer.is_grant


async def confirm(client: Client, shard: int) -> None:
    await client.send(f"POST {confirmation_of(shard)} HTTP/1.1", "Host: queue")
    answer = await client.answer(has_body=False)
    assert answer.status == 204
