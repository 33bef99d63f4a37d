"""The client: asks a Gateway Queue before each IDENTIFY, under asyncio and trio alike.

``waiting.py``     waits for a shard's turn, and confirms its IDENTIFY
``news.py``        logs the positions of a process's shards, and whether the queue answers
``discord_py.py``  integrates both into discord.py, disnake, nextcord and py-cord
"""

from gateway_queue.client.news import Standing
from gateway_queue.client.waiting import GatewayQueue, Grant, Outcome, RefusedError

__all__ = ["GatewayQueue", "Grant", "Outcome", "RefusedError", "Standing"]
