"""Draw when the shards of a bot get in whose processes ask the queue, and when they do not.

    PYTHONPATH=tests:tests/end_to_end python bench/timeline.py

Four processes with discord.py, of two shards each, start at a fake Discord that holds them to the
limit: one IDENTIFY every five seconds, any other is answered with an op 9. In a second run beside
it they have our mixin and ask a queue. Both end when all shards are in, after less than a minute.
The picture, ``docs/pictures/timeline.svg``, is what the fake Discord recorded.
"""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio
from fake_discord import fake_discord
from harness import running, running_server
from matplotlib.figure import Figure
from plots import BLUE, GREY, ORANGE, key, save

if TYPE_CHECKING:
    from fake_discord import Identify
    from matplotlib.axes import Axes

BOT = Path(__file__).parents[1] / "tests" / "end_to_end" / "bots" / "discord_py_bot.py"
SHARDS, EACH = 8, 2
BOUND = 300.0

# As far away as a real one: an IDENTIFY takes 0.05 to 0.1 s, and so does its answer.
DISCORD: dict[str, Any] = {"shards": SHARDS, "latency": 0.05, "jitter": 0.05}

WITHOUT, WITH = "Without the queue", "With the queue"


async def launch(*, queued: bool) -> list[Identify]:
    """What the fake Discord got, up to the IDENTIFY that brings the last shard in."""
    async with fake_discord(**DISCORD) as discord, AsyncExitStack() as stack:
        queue = "none"
        if queued:
            access = {"DISCORD_TOKEN": discord.token, "GATEWAY_QUEUE_DISCORD_API": discord.api}
            queue = (await stack.enter_async_context(running_server(**access))).url
        for first in range(0, SHARDS, EACH):
            bot = running(
                *(sys.executable, str(BOT), f"--discord={discord.url}", f"--queue={queue}"),
                f"--shards={','.join(map(str, range(first, first + EACH)))}",
                f"--shard-count={SHARDS}",
                DISCORD_TOKEN=discord.token,
            )
            await stack.enter_async_context(bot)
        with trio.fail_after(BOUND):
            await discord.wait_ready(SHARDS)
        return discord.identifies


def draw(axes: Axes, title: str, identifies: list[Identify], until: float) -> None:
    began_at = identifies[0].at
    for identify in identifies:
        at, y = identify.at - began_at, identify.shard
        if identify.accepted:
            axes.hlines(y, at, until, color=BLUE, linewidth=7, label="is in")
        else:
            axes.plot(at, y, "x", color=ORANGE, markersize=6, label="op 9")
    refused = sum(not identify.accepted for identify in identifies)
    axes.set_title(f"{title}: {refused or 'no'} op 9{'s' * (refused > 1)}", loc="left")
    axes.set_ylabel("shard")
    axes.set_yticks(range(SHARDS))
    axes.set_ylim(SHARDS - 0.5, -0.5)
    axes.set_xlim(-0.5, until)
    for first in range(EACH, SHARDS, EACH):
        axes.axhline(first - 0.5, color=GREY, linewidth=0.5)


async def main() -> None:
    runs: dict[str, list[Identify]] = {}

    async def run(title: str, *, queued: bool) -> None:
        runs[title] = await launch(queued=queued)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(run, WITHOUT, queued=False))
        nursery.start_soon(partial(run, WITH, queued=True))

    figure = Figure(figsize=(7, 4.6), layout="constrained")
    plots = figure.subplots(2, sharex=True)
    until = max(record[-1].at - record[0].at for record in runs.values()) + 3
    for axes, title in zip(plots, (WITHOUT, WITH), strict=True):
        draw(axes, title, runs[title], until)
    plots[1].set_xlabel("seconds since the first IDENTIFY")
    figure.legend(*key(plots[0]), loc="upper right", ncols=2)
    save(figure, "timeline")


trio.run(main)
