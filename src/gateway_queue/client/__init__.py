"""The client: asks a Gateway Queue before each IDENTIFY, under asyncio and trio alike.

``waiting.py``     waits for a shard's turn, and confirms its IDENTIFY
``discord_py.py``  does so for bots with discord.py, disnake, nextcord and py-cord
"""

from gateway_queue.client.waiting import GatewayQueue, RefusedError, Standing

__all__ = ["GatewayQueue", "RefusedError", "Standing"]
