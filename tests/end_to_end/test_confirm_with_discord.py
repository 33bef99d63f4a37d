"""``confirm`` and plain intervals, before a Discord that counts who identifies too early."""

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import httpx
import trio
from background import background
from fake_discord import FakeDiscord, Op, fake_discord
from harness import Program, running_server
from patience import PATIENCE
from raw import answer_of, connect
from trio_websocket import wrap_client_stream

# Seconds from a shard's grant to its IDENTIFY: anything up to 300 ms, for each rate limit key.
# Grants that are 5.0 s apart are certain to come too close together wherever this falls.
DELAYS = [(0.0, 0.3, 0.0, 0.3), (0.05, 0.25, 0.1, 0.2)]
KEYS = len(DELAYS)
SHARDS = sum(map(len, DELAYS))


async def test_confirming_is_never_too_early_and_faster_than_a_longer_interval() -> None:
    async with (
        fleet(confirm=True) as confirmed,
        fleet(GATEWAY_QUEUE_INTERVAL=6.0) as patient,
        fleet(GATEWAY_QUEUE_INTERVAL=5.0) as hasty,
    ):
        with trio.fail_after(PATIENCE):
            await hasty.until(lambda: len(hasty.violations) >= KEYS)
            await patient.wait_ready(SHARDS)
            await confirmed.wait_ready(SHARDS)

    assert confirmed.violations == patient.violations == []
    assert {violation.breach for violation in hasty.violations} == {"too_early"}
    took, took_patiently = seconds_to_identify(confirmed), seconds_to_identify(patient)
    sys.stdout.write(f"confirmed {took:.3f} s, at intervals of 6 s {took_patiently:.3f} s\n")
    assert took < took_patiently


@asynccontextmanager
async def fleet(*, confirm: bool = False, **settings: object) -> AsyncIterator[FakeDiscord]:
    """The Discord of a bot whose shards get ready during the block, with a queue of its own."""
    async with (
        fake_discord(shards=SHARDS, max_concurrency=KEYS) as discord,
        running_server(
            DISCORD_TOKEN=discord.token, GATEWAY_QUEUE_DISCORD_API=discord.api, **settings
        ) as server,
        background() as nursery,
    ):
        for shard in range(SHARDS):
            nursery.start_soon(partial(keep_ready, shard, discord, server, confirm=confirm))
            await server.logged("identify_queued", shard=shard)
        yield discord


async def keep_ready(shard: int, discord: FakeDiscord, queue: Program, *, confirm: bool) -> None:
    """Ask, dawdle, identify and confirm; all of it again after an op 9."""
    more = "&confirm=true" if confirm else ""
    while True:
        answer = await answer_of(queue, f"GET /?shard={shard}{more} HTTP/1.1", "Host: queue")
        assert answer.is_grant
        await trio.sleep(DELAYS[shard % KEYS][shard // KEYS])
        gateway = httpx.URL(discord.gateway)
        async with (
            background() as nursery,
            await trio.open_tcp_stream(gateway.host, gateway.port or 0) as stream,
            await wrap_client_stream(nursery, stream, gateway.host, "/?v=10") as socket,
        ):
            await socket.get_message()
            data = {"token": discord.token, "shard": [shard, SHARDS]}
            await socket.send_message(json.dumps({"op": Op.IDENTIFY, "d": data}))
            if confirm:
                async with connect(queue) as client:
                    line = f"POST /confirm?shard={shard} HTTP/1.1"
                    await client.send(line, "Host: queue", "Content-Length: 0")
                    assert (await client.answer(has_body=False)).status == 204
            if json.loads(await socket.get_message())["op"] != Op.INVALID_SESSION:
                await trio.sleep_forever()


def seconds_to_identify(discord: FakeDiscord) -> float:
    return discord.identifies[-1].at - discord.identifies[0].at
