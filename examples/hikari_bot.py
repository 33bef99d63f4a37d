"""A bot with hikari whose shards ask a Gateway Queue before each IDENTIFY.

hikari has no place for that, so this takes private methods of its shard (as of 2.7).
"""

import asyncio
import os
import time
from typing import Any

import hikari
from hikari.impl import shard

from gateway_queue.client import GatewayQueue, Grant, Outcome

IDENTIFY = 2  # the gateway's op code
TURN_LASTS = 4.0  # seconds: the turn keeps its bucket closed for 10, and Discord requires 5


class QueuedShard(shard.GatewayShardImpl):
    queue: GatewayQueue
    grant: Grant | None = None  # until Discord has answered the IDENTIFY
    turn_at: float

    async def _ask(self) -> None:
        self.grant = await self.queue.wait(self.id, confirm=True)
        self.turn_at = time.monotonic()

    async def _connect(self) -> Any:
        if self._seq is None:  # there is no session to RESUME
            await self._ask()
        tasks = await super()._connect()
        if self.is_connected:  # READY has come
            self._confirm("ready")
        self.grant = None
        return tasks

    async def _send_json(self, data: Any, *, priority: bool = False) -> None:
        identify = data["op"] == IDENTIFY
        if identify and time.monotonic() - self.turn_at > TURN_LASTS:
            await self._ask()  # connecting took too long
        await super()._send_json(data, priority=priority)
        if identify:
            self._confirm("identified")

    def _confirm(self, outcome: Outcome) -> None:
        if self.grant is not None:
            confirmation = self.queue.confirm(self.grant, outcome)
            self.confirming = asyncio.create_task(confirmation)  # the queue may be down


QueuedShard.queue = GatewayQueue(os.environ.get("GATEWAY_QUEUE_URL", "http://127.0.0.1:8000"))
shard.GatewayShardImpl = QueuedShard  # type: ignore[misc] # GatewayBot looks it up by this name

if __name__ == "__main__":
    hikari.GatewayBot(os.environ["DISCORD_TOKEN"]).run()
