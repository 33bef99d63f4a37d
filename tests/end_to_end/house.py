"""Replicas as processes, each with a port, a clock and a link to the engine of its own."""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio
from background import background
from clocks import Clock
from engines import Server
from fake_discord import FakeDiscord
from harness import DEFAULTS, Program, free_port, running, server_with
from links import Link
from witness import Witness

OPERATOR_KEY = "sesame-51b0"


class Replica:
    """One of them; ``program`` is its process, if it is to run."""

    def __init__(self, name: str, engine: Server, folder: Path) -> None:
        self.name = name
        self.port = free_port()
        self.link = Link(free_port(), engine.socket)
        self.clock = Clock(folder / f"{name}.clock")
        self.program: Program | None = None
        self.is_struck = False  # something happens to it already

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "PORT": self.port,
            "GATEWAY_QUEUE_REDIS": f"redis://127.0.0.1:{self.link.port}",
            "GATEWAY_QUEUE_REPLICA": self.name,
            **self.clock.environment,
        }


@dataclass
class House:
    """All of them. What ends by itself is noted, and started again."""

    replicas: list[Replica]
    discord: FakeDiscord
    witness: Witness
    nursery: trio.Nursery
    changes: tuple[str, ...]
    leader: Replica | None = None  # who was the last to say that it leads

    def __post_init__(self) -> None:
        self.settings: dict[str, Any] = {
            **DEFAULTS,
            "DISCORD_TOKEN": self.discord.token,
            "GATEWAY_QUEUE_DISCORD_API": self.discord.api,
            "GATEWAY_QUEUE_JOURNAL": None,
            "GATEWAY_QUEUE_INTERVAL": self.witness.rules.interval,
            "GATEWAY_QUEUE_REFRESH": 15,
            "GATEWAY_QUEUE_CRASH_LOOP": "off",
            "GATEWAY_QUEUE_SHUTDOWN_GRACE": 1,
            "GATEWAY_QUEUE_OPERATOR_KEY": OPERATOR_KEY,
            "GATEWAY_QUEUE_LOG_LEVEL": "info",
        }

    async def open(self) -> None:
        """Start all of them."""
        async with trio.open_nursery() as starting:
            for replica in self.replicas:
                await self.nursery.start(replica.link.run)
                starting.start_soon(self.start, replica)

    async def start(self, replica: Replica) -> None:
        """Start a replica, and wait until it listens."""
        await self.nursery.start(self._run, replica)

    async def kill(self, replica: Replica) -> None:
        program, replica.program = replica.program, None
        assert program is not None
        await program.kill()

    async def end(self, replica: Replica) -> None:
        """Have it end in peace."""
        program, replica.program = replica.program, None
        assert program is not None
        if returncode := await program.stop():
            self.witness.crashed.append(f"{replica.name} ended with {returncode} after SIGTERM")

    async def _run(
        self, replica: Replica, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        environment = self.settings | replica.settings
        async with running(*server_with(*self.changes), **environment) as program:
            await program.logged("listening", within=math.inf)
            replica.program = program
            task_status.started()
            async with background() as nursery:
                nursery.start_soon(self._listen, replica, program)
                returncode = await program.ended(within=math.inf)
        if replica.program is program:
            replica.program = None
            self.witness.crashed.append(f"{replica.name} ended with {returncode}")
            self.nursery.start_soon(self.start, replica)

    async def _listen(self, replica: Replica, program: Program) -> None:
        """Take what it says of itself and of Discord, until it ends."""
        async for line in program.said():
            match line["event"]:
                case "leading":
                    self.leader = replica
                    self.witness.led_at.append(time.time())
                case "buckets_changed":
                    is_news = line["buckets"] == self.discord.max_concurrency
                    self.witness.replicas_heard(line["buckets"] if is_news else None)
