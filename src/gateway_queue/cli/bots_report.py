"""Shows the ``/status`` of a server with several bots in a terminal. Pure."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import StringConstraints
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gateway_queue.cli.report import Limits, Version, printable, validated

# Printed as it is, so it must not contain control sequences.
Name = Annotated[str, StringConstraints(pattern=r"^[0-9a-z-]{1,63}$")]

# Why a bot is not granted anything, in a word or two.
OBSTACLES = {
    "paused": "paused",
    "limits_unknown": "limits unknown",
    "reserve": "reserve reached",
    "journal": "journal not writable",
    "ending": "ending",
}


@dataclass(frozen=True, slots=True)
class BotStatus:
    name: Name
    ready: bool
    obstacle: str | None
    waiting: int
    away: int
    slowed_down: int
    granted: int
    limits: Limits


@dataclass(frozen=True, slots=True)
class Fault:
    file: str
    error: str


@dataclass(frozen=True, slots=True)
class Overview:
    """The body of ``/status`` if there are several bots."""

    version: Version
    ready: bool
    waiting: int
    unknown_bot_waiting: int
    bots: list[BotStatus]
    faults: list[Fault]


def is_of_several(body: bytes) -> bool:
    """Whether this ``/status`` is about several bots. Raises ValueError if it is not JSON."""
    return "bots" in validated(dict, body)


def parse(body: bytes) -> Overview:
    """Parse the ``/status`` of several bots. Raises ValueError if it is something else."""
    return validated(Overview, body)


def report(overview: Overview, address: str) -> RenderableType:
    """All bots of the server at this address, those that grant nothing first."""
    title = Text.assemble(
        (f"Gateway Queue {overview.version}", "bold"),
        f" at {address}, {len(overview.bots)} bots",
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("Bot", overflow="fold")
    table.add_column("State")
    for name in ("Waiting", "Away", "Slowed", "Left to grant", "Granted in 24h"):
        table.add_column(name, justify="right")
    for bot in sorted(overview.bots, key=lambda bot: (bot.ready and not bot.obstacle, bot.name)):
        table.add_row(
            bot.name,
            _state(bot),
            str(bot.waiting),
            str(bot.away),
            str(bot.slowed_down),
            str(bot.limits.left) if bot.limits.known else "?",
            str(bot.granted),
        )
    notes: list[RenderableType] = [
        Text(f"{printable(fault.file)}: {printable(fault.error)}", "yellow")
        for fault in overview.faults
    ]
    if overview.unknown_bot_waiting:
        unknown = f"{overview.unknown_bot_waiting} waiting for unknown bots"
        notes.append(Text(unknown, "yellow"))
    return Group(title, "", table, *notes)


def _state(bot: BotStatus) -> Text:
    if bot.obstacle is not None:
        return Text(OBSTACLES.get(bot.obstacle, "grants nothing"), "red")
    if not bot.ready:
        return Text("not ready", "red")
    return Text("granting" if bot.waiting else "ready", "green")
