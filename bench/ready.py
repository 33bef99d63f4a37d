"""How long a bot takes to get ready, with a fake Discord that enforces its limits.

    PYTHONPATH=tests:tests/end_to_end python bench/ready.py [--runs 5] [--jitter 0.3]

Each run starts a server and ``--shards`` shards in ``--buckets`` buckets, which do what our
mixin does: they ask with ``confirm=true``, then connect, send their IDENTIFY when HELLO comes,
and report it, its READY or its op 9. What Discord sends, and each IDENTIFY, takes from 0 to
``--jitter`` seconds on its way. In the last run two busy loops compete for the processor.

seconds   from the first IDENTIFY to the last, as they arrive at Discord.
ratio     the same by the physical limit, which is five seconds from one IDENTIFY of a bucket to
          the next: 15 s for four shards in each.
gap       the least between two IDENTIFYs of one bucket that Discord took.
op 9      IDENTIFYs that came too early.

``--report`` makes the shards report less, for comparison. The exit code is 1 if there was an
op 9.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
from collections import defaultdict
from contextlib import ExitStack, redirect_stdout
from itertools import pairwise

import trio
from background import background
from fake_discord import FakeDiscord, Op, fake_discord
from harness import running_server
from trio_websocket import open_websocket_url

from gateway_queue.client import GatewayQueue

WINDOW = 5.0  # Discord's
PATIENCE = 300.0
BUSY_LOOPS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--shards", type=int, default=64)
    parser.add_argument("--buckets", type=int, default=16)
    parser.add_argument("--jitter", type=float, default=0.3, help="seconds, one way")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--report", choices=("all", "identified", "nothing"), default="all")
    options = parser.parse_args()

    print("run   seconds  ratio    gap  op 9")
    refused = 0
    for number in range(1, options.runs + 1):
        with ExitStack() as load:
            busy = options.runs > 1 and number == options.runs
            for _ in range(BUSY_LOOPS if busy else 0):
                loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
                load.callback(loop.wait)
                load.callback(loop.kill)
            with redirect_stdout(io.StringIO()):  # of the server's log
                discord = trio.run(run, options, number)
        refused += len(discord.violations)
        print(f"{number:3}   {result(discord)}{'  busy' if busy else ''}", flush=True)
    sys.exit(1 if refused else 0)


async def run(options: argparse.Namespace, seed: int) -> FakeDiscord:
    async with (
        fake_discord(
            shards=options.shards,
            max_concurrency=options.buckets,
            window=WINDOW,
            jitter=options.jitter,
            seed=seed,
        ) as discord,
        running_server(
            DISCORD_TOKEN=discord.token,
            GATEWAY_QUEUE_DISCORD_API=discord.api,
            GATEWAY_QUEUE_CRASH_LOOP="off",
        ) as server,
        GatewayQueue(server.url) as queue,
        background() as nursery,
    ):
        for shard in range(options.shards):
            nursery.start_soon(keep_identifying, queue, discord, shard, options.report)
        with trio.fail_after(PATIENCE):
            await discord.wait_ready(options.shards)
    return discord


async def keep_identifying(
    queue: GatewayQueue, discord: FakeDiscord, shard: int, report: str
) -> None:
    """Until it gets READY; then stay."""
    async with trio.open_nursery() as confirming:
        while True:
            grant = await queue.wait(shard, confirm=report != "nothing")
            async with open_websocket_url(f"{discord.gateway}/?v=10&encoding=json") as socket:
                await socket.get_message()  # HELLO
                token = {"token": discord.token, "shard": [shard, discord.shards]}
                await socket.send_message(json.dumps({"op": Op.IDENTIFY, "d": token}))
                if report != "nothing":
                    confirming.start_soon(queue.confirm, grant)
                answer = json.loads(await socket.get_message())
                if answer["op"] == Op.DISPATCH:
                    if report == "all":
                        await queue.confirm(grant, "ready")
                    await trio.sleep_forever()
            if report == "all":
                await queue.confirm(grant, "invalid_session")


def result(discord: FakeDiscord) -> str:
    taken: dict[int, list[float]] = defaultdict(list)
    for identify in discord.identifies:
        if identify.accepted:
            taken[identify.shard % discord.max_concurrency].append(identify.at)
    at = [instant for bucket in taken.values() for instant in bucket]
    gap = min(later - earlier for bucket in taken.values() for earlier, later in pairwise(bucket))
    limit = (max(map(len, taken.values())) - 1) * WINDOW
    seconds = max(at) - min(at)
    return f"{seconds:7.2f}  {seconds / limit:5.3f}  {gap:5.3f}  {len(discord.violations):4}"


if __name__ == "__main__":
    main()
