"""Draw what a terminal shows during a launch: ``status.svg`` and ``plan.svg`` in docs/pictures.

    PYTHONPATH=tests:tests/end_to_end python bench/printed.py

Our commands are typed into a terminal: the plan before a bot of 2,000 shards starts at a fake
Discord, and the status when some of them are in. That takes half a minute. Only the port is
another one in the pictures.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import trio
from fake_discord import fake_discord
from harness import running_server
from plots import PICTURES
from rich.ansi import AnsiDecoder
from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI
from shards import shards

SHARDS = 2000
IN_FIRST = 48
LIMITS: dict[str, Any] = {
    "shards": SHARDS,
    "max_concurrency": 16,
    "total": 3000,
    "remaining": 2800,
    "reset_after": 50_000,
}
WIDTH = 92
WATCHED = 2.5  # seconds

# What a terminal obeys: a line is written anew, and the cursor is hidden.
REDRAWN = "\r\x1b[2K"
CURSOR = r"\x1b\[\?25[hl]"

ADDRESS = "http://127.0.0.1:8000"  # as the documentation has it

# Rich's own, less a font from the network, which no picture in a page may load.
SVG = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
    font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
    font-size: {char_height}px;
    line-height: {line_height}px;
}}
.{unique_id}-title {{ font-size: 18px; font-family: sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def shown(arguments: str, url: str) -> str:
    """What a terminal shows at the end of this command; one that watches is ended by Ctrl-C."""
    ours, its = os.openpty()
    environment = {**os.environ, "COLUMNS": str(WIDTH), "TERM": "xterm-256color"}
    command = [sys.executable, "-m", "gateway_queue", *arguments.split(), "--url", url]
    with subprocess.Popen(command, env=environment, stdout=its) as process:
        os.close(its)
        said = os.read(ours, 65536)
        if "--watch" in arguments:
            time.sleep(WATCHED)
            process.send_signal(signal.SIGINT)
        with suppress(OSError):  # so a terminal ends
            while some := os.read(ours, 65536):
                said += some
        os.close(ours)
    last = said.decode().replace("\r\n", "\n").split(REDRAWN)[-1]
    return re.sub(CURSOR, "", last).rstrip().replace(url, ADDRESS)


def draw(name: str, url: str, *commands: str) -> None:
    with Path(os.devnull).open("w") as nowhere:
        console = Console(
            record=True, width=WIDTH, file=nowhere, force_terminal=True, highlight=False
        )
        for number, arguments in enumerate(commands):
            console.print("\n" * (number > 0) + f"[bold]$ gateway-queue {arguments}[/]")
            for line in AnsiDecoder().decode(shown(arguments, url)):
                console.print(line)
        console.print()
    file = PICTURES / f"{name}.svg"
    console.save_svg(
        str(file), title="", code_format=SVG, theme=DIMMED_MONOKAI, unique_id=f"terminal-{name}"
    )


async def main() -> None:
    async with (
        fake_discord(**LIMITS) as discord,
        running_server(
            DISCORD_TOKEN=discord.token, GATEWAY_QUEUE_DISCORD_API=discord.api
        ) as server,
        shards(server.url) as bot,
    ):
        await server.logged("limits_read")
        await trio.to_thread.run_sync(draw, "plan", server.url, f"plan {SHARDS}")
        bot.ask(*range(SHARDS))
        await bot.granted(IN_FIRST)
        status = "status", "status --watch"
        await trio.to_thread.run_sync(draw, "status", server.url, *status)


trio.run(main)
