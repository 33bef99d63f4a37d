"""A confirmation that is sent the moment its answer is complete, on whatever connection.

Many clients keep a pool of open connections, so that it reaches the server before the server's
own task has ended its answer. Each way has a bucket of its own, and all go side by side.
"""

from collections.abc import Awaitable, Callable
from itertools import pairwise

import trio
from harness import Program, running_server
from instants import EXACT, opened_at
from raw import Client, HTTP2Client, connect, connect_http2

ROUNDS = 40
INTERVAL = 0.5  # with it, all the constants of ``confirm`` are a tenth of what they are
HOLD = 1.0
AFTER_CONFIRMATION = 0.53

# Asks for a shard's turn again and again, and confirms at once; when it was granted.
Way = Callable[[Program, int], Awaitable[list[float]]]


async def over_the_same_connection(server: Program, shard: int) -> list[float]:
    granted_at = []
    async with connect(server) as client:
        for _ in range(ROUNDS):
            granted_at.append(await take_turn(client, shard))
            await confirm(client, shard)
    return granted_at


async def over_another_one_of_a_pool(server: Program, shard: int) -> list[float]:
    granted_at = []
    async with connect(server) as client, connect(server) as other:
        for _ in range(ROUNDS):
            granted_at.append(await take_turn(client, shard))
            await confirm(other, shard)
    return granted_at


async def over_a_new_connection(server: Program, shard: int) -> list[float]:
    granted_at = []
    for _ in range(ROUNDS):
        async with connect(server) as client:
            granted_at.append(await take_turn(client, shard))
            async with connect(server) as other:
                await confirm(other, shard)
    return granted_at


async def over_the_same_http2_connection(server: Program, shard: int) -> list[float]:
    granted_at = []
    async with connect_http2(server) as client:
        for _ in range(ROUNDS):
            granted_at.append(await take_turn_of_http2(client, shard))
            await confirm_over_http2(client, shard)
    return granted_at


async def over_another_http2_connection(server: Program, shard: int) -> list[float]:
    granted_at = []
    async with connect_http2(server) as client, connect_http2(server) as other:
        for _ in range(ROUNDS):
            granted_at.append(await take_turn_of_http2(client, shard))
            await confirm_over_http2(other, shard)
    return granted_at


WAYS: list[Way] = [
    over_the_same_connection,
    over_another_one_of_a_pool,
    over_a_new_connection,
    over_the_same_http2_connection,
    over_another_http2_connection,
]


async def test_it_counts_from_the_hand_over_each_time() -> None:
    async with (
        running_server(
            GATEWAY_QUEUE_INTERVAL=INTERVAL,
            GATEWAY_QUEUE_MAX_CONCURRENCY=len(WAYS),
            GATEWAY_QUEUE_CRASH_LOOP="off",
        ) as server,
        trio.open_nursery() as nursery,
    ):
        for shard, way in enumerate(WAYS):
            nursery.start_soon(go, way, server, shard)


async def go(way: Way, server: Program, shard: int) -> None:
    granted_at = await way(server, shard)
    lines = await server.logged_times(ROUNDS, "identify_granted", shard=shard)
    gaps = [later - earlier for earlier, later in pairwise(granted_at)]
    opened_after = [opened_at(later) - at for at, later in zip(granted_at, lines[1:], strict=False)]
    assert min(gaps) >= AFTER_CONFIRMATION - EXACT, way.__name__
    assert max(opened_after) < HOLD - EXACT, way.__name__


def turn_of(shard: int) -> str:
    return f"/?shard={shard}&confirm=true"


def confirmation_of(shard: int) -> str:
    return f"/confirm?shard={shard}"


async def take_turn(client: Client, shard: int) -> float:
    await client.send(f"GET {turn_of(shard)} HTTP/1.1", "Host: queue")
    answer = await client.answer()
    assert answer.is_grant
    return answer.at


async def confirm(client: Client, shard: int) -> None:
    await client.send(f"POST {confirmation_of(shard)} HTTP/1.1", "Host: queue")
    answer = await client.answer(has_body=False)
    assert answer.status == 204


async def take_turn_of_http2(client: HTTP2Client, shard: int) -> float:
    [answer] = await client.answers([await client.ask(turn_of(shard))])
    assert answer.is_grant
    return answer.at


async def confirm_over_http2(client: HTTP2Client, shard: int) -> None:
    [answer] = await client.answers([await client.ask(confirmation_of(shard), "POST")])
    assert answer.status == 204
