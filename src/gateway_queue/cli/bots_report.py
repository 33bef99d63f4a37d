"""Shows the ``/status`` of a server with several bots in a terminal. Pure."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from pydantic import FiniteFloat, StringConstraints
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gateway_queue.cli.report import STYLES, Limits, Version, shown, validated
from gateway_queue.cli.verdict import (
    Pause,
    Verdict,
    counts_of,
    is_stopped,
    verdict,
    verdict_of_all,
)
from gateway_queue.cli.words import number, printable

# Printed as it is, so it must not contain control sequences.
Name = Annotated[str, StringConstraints(pattern=r"^[0-9a-z-]{1,63}$")]


@dataclass(frozen=True, slots=True)
class BotStatus:
    name: Name
    ready: bool
    obstacle: str | None
    paused: Pause | None
    waiting: int
    waiting_slowed: int
    away: int
    covered: int
    all_in_in: FiniteFloat | None
    others_in_in: FiniteFloat | None
    back_in: FiniteFloat | None
    slowed_down: int
    granted: int
    shards: int
    recommended_shards: int | None
    limits: Limits

    def verdict(self, now: datetime) -> Verdict:
        """The verdict on this bot."""
        counts = counts_of(
            self.waiting, self.waiting_slowed, self.away, self.shards, self.recommended_shards
        )
        return verdict(self, counts, now, ready=self.ready)


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


def report(overview: Overview, address: str, now: datetime) -> RenderableType:
    """All bots of the server at this address, those that let nobody in first."""
    title = Text.assemble((f"Gateway Queue {overview.version}", "bold"), f" at {address}")
    verdicts = [(bot, bot.verdict(now)) for bot in overview.bots]
    of_all = verdict_of_all(
        [(bot.name, bot.waiting, its) for bot, its in verdicts],
        overview.waiting,
        overview.unknown_bot_waiting,
        now,
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("Bot", overflow="fold")
    table.add_column("State")
    for name in ("Wait", "Away", "Crash loops", "May be granted", "Let in"):
        table.add_column(name, justify="right")
    for bot, its in sorted(verdicts, key=lambda one: (not is_stopped(one[1]), one[0].name)):
        table.add_row(
            bot.name,
            Text(
                f"{its.headline}\n{its.detail}" if is_stopped(its) else its.headline,
                STYLES[its.state],
            ),
            number(bot.waiting),
            number(bot.away),
            number(bot.slowed_down),
            number(bot.limits.left) if bot.limits.known else "?",
            number(bot.shards),
        )
    faults = [
        Text(f"{printable(fault.file)}: {printable(fault.error)}", "yellow")
        for fault in overview.faults
    ]
    return Group(title, "", shown(of_all), "", table, *faults)
