"""The hikari bot of our examples, at a fake Discord.

It prints a line of JSON for what becomes of it, and closes itself at SIGUSR1.
"""

import argparse
import asyncio
import json
import logging
import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

import hikari
from hikari.impl import shard

from gateway_queue.client import GatewayQueue

EXAMPLE = Path(__file__).parents[3] / "examples" / "hikari_bot.py"
QueuedShard: Any = runpy.run_path(str(EXAMPLE))["QueuedShard"]


def say(event: str, **fields: object) -> None:
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


class UncompressedShard(QueuedShard):  # type: ignore[misc]
    """The fake does not compress."""

    def __init__(self, **options: Any) -> None:
        super().__init__(compression=None, **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--discord", required=True, help="address of the fake, http://...")
    parser.add_argument("--queue", required=True, help="address of the queue")
    parser.add_argument("--shards", required=True, help="for example 0,2,4")
    parser.add_argument("--shard-count", required=True, type=int)
    options = parser.parse_args()

    QueuedShard.queue = GatewayQueue(options.queue)
    shard.GatewayShardImpl = UncompressedShard  # type: ignore[misc]
    bot = hikari.GatewayBot(
        os.environ["DISCORD_TOKEN"], rest_url=f"{options.discord}/api/v10", banner=None
    )
    closing = []

    @bot.listen()
    async def starting(_: hikari.StartingEvent) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(
            signal.SIGUSR1, lambda: closing.append(loop.create_task(bot.close()))
        )

    @bot.listen()
    async def connected(event: hikari.ShardConnectedEvent) -> None:
        say("ready", shard=event.shard.id)

    @bot.listen()
    async def disconnected(event: hikari.ShardDisconnectedEvent) -> None:
        say("disconnected", shard=event.shard.id)

    @bot.listen()
    async def resumed(event: hikari.ShardResumedEvent) -> None:
        say("resumed", shard=event.shard.id)

    logging.basicConfig(level=logging.INFO, stream=sys.stdout)
    bot.run(
        shard_ids=[int(one) for one in options.shards.split(",")],
        shard_count=options.shard_count,
        check_for_updates=False,
    )
    say("ended")


if __name__ == "__main__":
    main()
