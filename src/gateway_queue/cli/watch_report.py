"""Shows a server's ``/dashboard/feed`` in a terminal. Pure.

It uses the same words as the operator's page (``watch/page/verdict.js``).
"""

from collections import Counter
from dataclasses import dataclass

from pydantic import FiniteFloat
from rich.progress_bar import ProgressBar
from rich.table import Table

from gateway_queue.cli.report import Pause, length, many, validated

LET_IN = "ij"  # just now, and earlier
CRASH_LOOP = "c"

BAR = 40  # cells


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of a message that are shown. Times are in seconds."""

    obstacle: str | None
    waiting: int
    covered: int
    beside: int
    all_in_in: FiniteFloat | None
    others_in_in: FiniteFloat | None
    paused: Pause | None = None


@dataclass(frozen=True, slots=True)
class _Message:
    summary: Summary
    shards: str | None = None
    changed: dict[str, list[int]] | None = None


class Watched:
    """The state that the feed has reported so far."""

    def __init__(self) -> None:
        self._shards: list[str] = []
        self._summary: Summary | None = None

    def take(self, data: bytes) -> None:
        """Apply a message. Raises ValueError if it is malformed."""
        message = validated(_Message, data)
        self._summary = message.summary
        if message.shards is not None:
            self._shards = list(message.shards)
        for letter, shards in (message.changed or {}).items():
            for shard in shards:
                self._shards[shard] = letter

    @property
    def headline(self) -> str:
        """A summary in a few words, which do not change just because time passes."""
        summary, slowed = self._known, Counter(self._shards)[CRASH_LOOP]
        wait = self._wait(summary.waiting)
        if summary.paused:
            return f"Paused, {wait if summary.waiting else 'nobody waits'}"
        if summary.obstacle:
            return f"{wait}, nobody is let in" if summary.waiting else "Nobody can be let in"
        if not summary.waiting:
            return "Everyone is in" if self._let_in == self._total > 0 else "Nobody waits"
        if summary.covered < summary.waiting:
            return f"{summary.covered} of {many(summary.waiting, self._noun)} can get in"
        if slowed >= summary.waiting:
            return f"Everyone else is in, {many(slowed, 'shard')} in a crash loop"
        return self._wait(summary.waiting - slowed)

    @property
    def line(self) -> str:
        """The headline, and how many are in."""
        return f"{self.headline}; {self._let_in} of {self._total} are in"

    @property
    def within(self) -> float | None:
        """Seconds until all are in, except those in a crash loop; None if unknown."""
        summary = self._known
        return summary.others_in_in if summary.waiting else None

    def __rich__(self) -> Table:
        row = Table.grid(padding=(0, 1))
        left = "" if self.within is None else f"all in in {length(self.within)}"
        bar = ProgressBar(max(self._total, 1), self._let_in, width=BAR)
        row.add_row(bar, self.line, left)
        return row

    @property
    def _known(self) -> Summary:
        assert self._summary is not None  # noqa: S101 - something was taken
        return self._summary

    @property
    def _let_in(self) -> int:
        return sum(letter in LET_IN for letter in self._shards)

    @property
    def _total(self) -> int:
        return len(self._shards)

    @property
    def _noun(self) -> str:
        return "request" if self._known.beside else "shard"

    def _wait(self, number: int) -> str:
        return f"{many(number, self._noun)} {'waits' if number == 1 else 'wait'}"


def data_of(event: list[str]) -> bytes:
    """The data of a server-sent event with these lines."""
    return "".join(line[6:] for line in event if line.startswith("data: ")).encode()
