"""A bot with discord.py whose shards ask a Gateway Queue before each IDENTIFY.

The same with disnake, nextcord and py-cord, and with any client or bot class of theirs.
"""

import logging
import os

import discord

from gateway_queue.client.discord_py import QueuedIdentify


class MyBot(QueuedIdentify, discord.AutoShardedClient):
    async def on_ready(self) -> None:
        logging.getLogger("bot").info("%d shards are ready", len(self.shards))


if __name__ == "__main__":
    logging.getLogger("httpx").setLevel(logging.WARNING)  # otherwise it logs each request
    queue = os.environ.get("GATEWAY_QUEUE_URL", "http://127.0.0.1:8000")
    bot = MyBot(queue=queue, intents=discord.Intents.default())
    bot.run(os.environ["DISCORD_TOKEN"], root_logger=True)
