"""Shows a server's ``/plan`` in a terminal.

Pure: turns the JSON into what rich can print; no clock, no terminal, no I/O.
"""

from dataclasses import dataclass
from datetime import datetime

from pydantic import FiniteFloat
from rich.console import Group, RenderableType
from rich.text import Text

from gateway_queue.cli.report import validated
from gateway_queue.cli.words import agree, clock, length, many, number


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
    obstacle: str | None
    missing: int
    limits: Limits


def parse(body: bytes) -> Plan:
    """Parse the body of ``/plan``. Raises ValueError if it is something else."""
    return validated(Plan, body)


def report(plan: Plan, where: str, now: datetime) -> RenderableType:
    """The report about a plan; ``where`` says where it was made."""
    title = Text.assemble((f"Plan for {many(plan.shards, 'shard')}", "bold"), f" {where}")
    pace = f"{many(plan.buckets, 'bucket')}, one shard every {plan.interval:g} s in each."
    limits = plan.limits
    starts = (
        f"{number(limits.left)} of {number(limits.total)} session starts may be granted,"
        f" {number(limits.reserve)} are in reserve."
    )
    style = "red" if plan.missing else "yellow" if plan.all_in_in is None else "green"
    return Group(title, "", pace, starts, "", Text(" ".join(sentences(plan, now)), style))


def sentences(plan: Plan, now: datetime) -> list[str]:
    """How the launch will go. The operator's page says the same (``watch/page/plan.js``)."""
    takes = f"{agree(plan.shards, 'take')} {length(plan.takes)}"
    said = [f"{many(plan.shards, 'shard')} in {many(plan.buckets, 'bucket')} {takes}."]
    if plan.waiting:
        said.append(f"{number(plan.waiting)} {agree(plan.waiting, 'wait')} before them.")
    if plan.all_in_in is not None:
        at = clock(plan.all_in_in, now)
        said.append(f"If they ask now, all are in by {at}, in {length(plan.all_in_in)}.")
    if plan.missing:
        said.append(_missing(plan, now))
        return said
    spare = number(plan.limits.left - plan.shards - plan.waiting)
    said.append(f"There are enough session starts, with {spare} to spare.")
    if plan.all_in_in is None:
        why = "an operator has paused it" if plan.obstacle == "paused" else "nobody is let in now"
        said.append(f"The time is unknown, because {why}.")
    return said


def _missing(plan: Plan, now: datetime) -> str:
    limits, missing = plan.limits, plan.missing
    back = "they are back" if limits.source == "discord" else "the first is back"
    return (
        f"There are not enough session starts: {number(missing)}"
        f" {'is' if missing == 1 else 'are'} missing; {back} at"
        f" {clock(limits.reset_in, now)}, in {length(limits.reset_in)}."
    )
