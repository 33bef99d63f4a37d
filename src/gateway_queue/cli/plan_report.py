"""Shows a server's ``/plan`` in a terminal.

Pure: turns the JSON into what rich can print; no clock, no terminal, no I/O.
"""

from dataclasses import dataclass

from pydantic import FiniteFloat
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gateway_queue.cli.report import length, many, validated


@dataclass(frozen=True, slots=True)
class Limits:
    source: str
    total: int
    remaining: int
    reserve: int
    reset_in: FiniteFloat

    @property
    def left(self) -> int:
        """How many may still be granted."""
        return max(0, self.remaining - self.reserve)


@dataclass(frozen=True, slots=True)
class Plan:
    """The parts of ``/plan`` that are shown. Times are in seconds."""

    shards: int
    buckets: int
    interval: FiniteFloat
    takes: FiniteFloat
    waiting: int
    all_in_in: FiniteFloat | None
    missing: int
    limits: Limits


def parse(body: bytes) -> Plan:
    """Parse the body of ``/plan``. Raises ValueError if it is something else."""
    return validated(Plan, body)


def report(plan: Plan, where: str) -> RenderableType:
    """The report about a plan; ``where`` says where it was made."""
    facts = Table.grid(padding=(0, 3))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row(
        "Pace", f"{many(plan.buckets, 'bucket')}, {plan.interval:g}s between grants in each"
    )
    facts.add_row("These take", length(plan.takes))
    facts.add_row("Before them", f"{plan.waiting} waiting" if plan.waiting else "nobody waits")
    facts.add_row("All of these in", _all_in(plan))
    facts.add_row("Session starts", _starts(plan))
    title = Text.assemble((f"Plan for {many(plan.shards, 'shard')}", "bold"), f" {where}")
    return Group(title, "", facts)


def _all_in(plan: Plan) -> Text:
    if plan.all_in_in is not None:
        return Text(length(plan.all_in_in))
    if plan.missing:
        return Text("unknown: there are not enough session starts left", "yellow")
    return Text("unknown: nothing is granted at the moment; see gateway-queue status", "yellow")


def _starts(plan: Plan) -> RenderableType:
    limits = plan.limits
    needed = f"{plan.shards + plan.waiting} needed, {limits.left} left"
    if limits.source == "discord":
        rule, back = f"of {limits.total} by Discord's count", "reset in"
    else:
        rule, back = f"of {limits.total} in any 24 hours", "the next comes back in"
    rule = f"{rule}, {limits.reserve} in reserve"
    if not plan.missing:
        return Group(Text(f"enough: {needed}", "green"), rule)
    missing = Text(f"{plan.missing} missing: {needed}", "red")
    return Group(missing, f"{rule}; {back} {length(limits.reset_in)}")
