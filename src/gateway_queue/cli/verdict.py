"""Sums up all the figures in words. Pure.

The operator's page says the same (``watch/page/verdict.js``, ``overview.js``): one table of cases,
``tests/verdicts.py``, holds both to it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from pydantic import FiniteFloat

from gateway_queue.cli.words import agree, clock, length, many, number, printable

State = Literal["ready", "busy", "paused", "stopped"]

# How many shards are in each state, by the letters of the feed.
Counts = Mapping[str, int]
LET_IN = "ij"  # earlier, and just now
WAITING, AWAY, CRASH_LOOP, REFUSED, NOT_ASKED = "wacx."

MOST_NAMES = 5  # in one sentence

# What cannot record grants, and what to check, by the obstacle.
RECORDERS = {
    "journal": ("The journal cannot be written.", "its disk"),
    "engine": ("Redis cannot be used.", "that Redis is up"),
}


@dataclass(frozen=True, slots=True)
class Failure:
    error: str
    age: FiniteFloat


@dataclass(frozen=True, slots=True)
class Pause:
    reason: str | None
    began_ago: FiniteFloat
    ends_in: FiniteFloat | None
    survives_restart: bool


class Limits(Protocol):
    @property
    def failure(self) -> Failure | None: ...


class Figures(Protocol):
    """The figures that the feed, ``/status`` and the overview of several bots share."""

    @property
    def obstacle(self) -> str | None: ...
    @property
    def paused(self) -> Pause | None: ...
    @property
    def waiting(self) -> int: ...
    @property
    def covered(self) -> int: ...
    @property
    def all_in_in(self) -> float | None: ...
    @property
    def others_in_in(self) -> float | None: ...
    @property
    def back_in(self) -> float | None: ...
    @property
    def limits(self) -> Limits: ...


@dataclass(frozen=True, slots=True)
class Banner:
    """What blocks all grants, and the one thing to do about it."""

    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """``within``: seconds until all are in, except those in a crash loop; None if unknown."""

    state: State
    headline: str
    detail: str
    within: float | None = None
    banner: Banner | None = None


def counts_of(waiting: int, slowed: int, away: int, shards: int, recommended: int | None) -> Counts:
    """How many shards are in each state, from the totals of ``/status``.

    These do not say which of the waiting shards had a turn before, so all count as waiting.
    """
    total = max(recommended or 0, shards, waiting + away)
    others = total - waiting - away
    let_in = min(others, shards)
    return Counter(
        {
            LET_IN[0]: let_in,
            WAITING: waiting - slowed,
            CRASH_LOOP: slowed,
            AWAY: away,
            NOT_ASKED: others - let_in,
        }
    )


def verdict(
    figures: Figures, counts: Counts, now: datetime, *, ready: bool = True, noun: str = "shard"
) -> Verdict:
    """The verdict on a bot; ``noun`` names what is waiting."""
    waiting = figures.waiting
    obstacle = figures.obstacle or (None if ready else "not_ready")
    if figures.paused:
        return _paused(figures, figures.paused, now, noun)
    if obstacle:
        detail, banner = stops(figures, obstacle, now)
        stopped = f"{_wait(waiting, noun)}, nobody is let in" if waiting else "Nobody can be let in"
        return Verdict("stopped", stopped, detail, banner=banner)
    if not waiting:
        return _nobody_waits(counts)
    if figures.covered < waiting:
        return _too_few_starts(figures, now, noun)
    return _all_get_in(figures, counts, now, noun)


def _all_get_in(figures: Figures, counts: Counts, now: datetime, noun: str) -> Verdict:
    waiting, slowed = figures.waiting, counts.get(CRASH_LOOP, 0)
    if slowed >= waiting:
        last = figures.all_in_in
        detail = f"{many(slowed, 'shard')} in a crash loop {agree(slowed, 'wait')}"
        if last is not None:
            detail += f", the last until {clock(last, now)}, for {length(last)}"
        return Verdict("busy", "Everyone else is in", f"{detail}.", last)
    later = f"; {number(slowed)} in a crash loop {agree(slowed, 'come')} later" if slowed else ""
    wait, within = _wait(waiting - slowed, noun), figures.others_in_in
    if within is None:
        detail = f"How long it takes is unknown. {_are_in(counts)}{later}."
        return Verdict("busy", wait, detail)
    detail = f"In {length(within)}. {wait}, {_are_in(counts)}{later}."
    return Verdict("busy", f"Everyone is in by {clock(within, now)}", detail, within)


def _nobody_waits(counts: Counts) -> Verdict:
    total = sum(counts.values())
    if not total:
        return Verdict("ready", "Nobody waits", "No shard has asked in the last 24 hours.")
    if _let_in(counts) == total:
        were = f"{'was' if total == 1 else 'were'} let in"
        return Verdict("ready", "Everyone is in", f"{many(total, 'shard')} asked and {were}.")
    states = {
        NOT_ASKED: "not asked yet",
        AWAY: "away",
        REFUSED: "refused by Discord (op 9)",
    }
    others = ", ".join(
        f"{number(counts[letter])} {what}" for letter, what in states.items() if counts.get(letter)
    )
    return Verdict("ready", "Nobody waits", f"{_are_in(counts)}; {others}.")


def _too_few_starts(figures: Figures, now: datetime, noun: str) -> Verdict:
    missing, back = figures.waiting - figures.covered, figures.back_in or 0.0
    return Verdict(
        "busy",
        f"{number(figures.covered)} of {many(figures.waiting, noun)} can get in",
        f"Then the session starts are used up, and {number(missing)} {agree(missing, 'wait')}"
        f" until {clock(back, now)}, for {length(back)}.",
    )


def _paused(figures: Figures, pause: Pause, now: datetime, noun: str) -> Verdict:
    reason = f": {printable(pause.reason)}" if pause.reason else ""
    until = "It lasts until somebody resumes."
    if pause.ends_in is not None:
        until = f"Until {clock(pause.ends_in, now)}, for {length(pause.ends_in)}."
    text = [f"An operator paused the queue at {clock(-pause.began_ago, now)}{reason}.", until]
    if not pause.survives_restart:
        text.append("A restart of the server would end it.")
    if figures.obstacle and figures.obstacle != "paused":
        text.append(f"Also: {stops(figures, figures.obstacle, now)[1].title}")
    return Verdict(
        "paused",
        f"Paused, {_wait(figures.waiting, noun) if figures.waiting else 'nobody waits'}",
        "Nobody is let in. Waiting shards keep their places.",
        banner=Banner("Granting is paused.", " ".join(text)),
    )


def stops(figures: Figures, obstacle: str, now: datetime) -> tuple[str, Banner]:
    """What blocks all grants: in short, and with what to do."""
    match obstacle:
        case "limits_unknown":
            failure = figures.limits.failure
            why = "They are being read; nothing is granted until then."
            if failure:
                error = printable(failure.error)
                why = f"The last reading failed {length(failure.age)} ago: {error}"
            return (
                "Discord has not said how many session starts are left.",
                Banner("Discord's limits are unknown.", why),
            )
        case "reserve":
            back = figures.back_in or 0.0
            return (
                "All session starts except the reserve are used.",
                Banner(
                    "The reserve is reached.",
                    "Nothing is granted until session starts come back at"
                    f" {clock(back, now)}, in {length(back)}. Connected shards stay connected."
                    " Find what restarts before you lower the reserve.",
                ),
            )
        case "journal" | "engine":
            title, check = RECORDERS[obstacle]
            text = f"Nothing is granted until it can. See the server's log, and check {check}."
            return "Grants cannot be recorded.", Banner(title, text)
        case "not_ready":
            return (
                "It crashed, and restarts by itself.",
                Banner("The bot is not ready.", "The server's log says why."),
            )
        case "ending":
            return (
                "Clients ask again by themselves, and the next server answers.",
                Banner(
                    "The server is ending.",
                    "Waiting shards are granted for the rest of the grace period.",
                ),
            )
        case _:
            return (
                "The reason is unknown here.",
                Banner("Nothing is granted.", printable(obstacle)),
            )


def verdict_of_all(
    bots: Sequence[tuple[str, int, Verdict]], waiting: int, strangers: int, now: datetime
) -> Verdict:
    """The verdict on all bots, each given by its name, how many wait for it, and its verdict.

    ``strangers``: requests for unknown bots.
    """
    stopped = [name for name, _, its in bots if is_stopped(its)]
    withins = [its.within for _, wait, its in bots if wait]
    detail = ["Nobody waits."]
    if waiting:
        detail = [f"{_wait(waiting, 'shard')} at {many(len(withins), 'bot')}."]
    if stopped:
        detail.append(f"Stopped: {_names(stopped)}.")
    if strangers:
        wait = _wait(strangers, "request")
        detail.append(f"{wait} for bots that this server does not have.")
    said = " ".join(detail)
    if stopped:
        let = f"{'lets' if len(stopped) == 1 else 'let'} nobody in"
        headline = f"{number(len(stopped))} of {many(len(bots), 'bot')} {let}"
        return Verdict("stopped", headline, said)
    if not waiting:
        return Verdict("ready", many(len(bots), "bot"), said)
    known = [within for within in withins if within is not None]
    if len(known) < len(withins):
        return Verdict("busy", many(len(bots), "bot"), said)
    within = max(known, default=0.0)
    return Verdict("busy", f"Everyone is in by {clock(within, now)}", said, within)


def is_stopped(its: Verdict) -> bool:
    """Whether the bot lets nobody in."""
    return its.state in {"stopped", "paused"}


def _names(names: list[str]) -> str:
    shown, more = ", ".join(names[:MOST_NAMES]), len(names) - MOST_NAMES
    return f"{shown} and {number(more)} more" if more > 0 else shown


def _wait(waiting: int, noun: str) -> str:
    return f"{many(waiting, noun)} {agree(waiting, 'wait')}"


def _let_in(counts: Counts) -> int:
    return sum(counts.get(letter, 0) for letter in LET_IN)


def _are_in(counts: Counts) -> str:
    let_in = _let_in(counts)
    is_in = f"{'is' if let_in == 1 else 'are'} in"
    return f"{number(let_in)} of {number(sum(counts.values()))} {is_in}"
