"""A bot of several shards with discord.py, which asks the queue before each IDENTIFY.

It asks before the socket is opened: discord.py gives ``before_identify_hook`` 60 s, in which it
does not read the socket. It prints a line of JSON for each READY.
"""

import argparse
import asyncio
import json
import logging
import os
import sys

import aiohttp
import discord
import yarl
from discord.gateway import DiscordWebSocket
from discord.http import Route

log = logging.getLogger("bot")

RETRY_INTERVAL = 1.0  # while the queue cannot be reached


class Bot(discord.AutoShardedClient):
    """Without a queue it identifies whenever it likes."""

    def __init__(self, queue: str | None, shard_ids: list[int], shard_count: int) -> None:
        super().__init__(
            intents=discord.Intents.none(), shard_ids=shard_ids, shard_count=shard_count
        )
        self.queue = queue
        self.granted: set[int] = set()

    async def launch_shard(
        self, gateway: yarl.URL, shard_id: int, *, initial: bool = False
    ) -> None:
        if self.is_closed():
            return
        await self.ask(shard_id)
        self.granted.add(shard_id)
        await super().launch_shard(gateway, shard_id, initial=initial)

    async def before_identify_hook(
        self,
        shard_id: int | None,
        *,
        initial: bool = False,  # noqa: ARG002 (discord.py's)
    ) -> None:
        """Ask for a later IDENTIFY of the shard. Not super's: that one sleeps 5 s."""
        assert shard_id is not None
        if shard_id in self.granted:
            self.granted.discard(shard_id)
        else:
            await self.ask(shard_id)

    async def ask(self, shard_id: int) -> None:
        """Return once the shard may identify."""
        if self.queue is None:
            return
        patient = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(timeout=patient, raise_for_status=True) as session:
            while True:
                try:
                    async with session.get(self.queue, params={"shard": shard_id}):
                        return
                except aiohttp.ClientError:
                    log.exception("shard %s could not ask", shard_id)
                    await asyncio.sleep(RETRY_INTERVAL)

    async def on_shard_connect(self, shard_id: int) -> None:
        sys.stdout.write(json.dumps({"event": "ready", "shard": shard_id}) + "\n")
        sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--discord", required=True, help="address of the fake, http://...")
    parser.add_argument("--queue", required=True, help="address of the queue, or none")
    parser.add_argument("--shards", required=True, help="for example 0,2,4")
    parser.add_argument("--shard-count", required=True, type=int)
    options = parser.parse_args()

    logging.basicConfig(level=logging.INFO)
    Route.BASE = f"{options.discord}/api/v10"
    DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(options.discord).with_scheme("ws")
    bot = Bot(
        None if options.queue == "none" else options.queue,
        [int(shard) for shard in options.shards.split(",")],
        options.shard_count,
    )
    asyncio.run(bot.start(os.environ["DISCORD_TOKEN"]))


if __name__ == "__main__":
    main()
