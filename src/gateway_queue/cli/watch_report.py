"""Shows a server's ``/dashboard/feed`` in a terminal. Pure."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime

from pydantic import FiniteFloat
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table

from gateway_queue.cli.report import shown, validated
from gateway_queue.cli.verdict import LET_IN, Failure, Pause, Verdict, verdict

BAR = 60  # cells, if the terminal is wide enough


@dataclass(frozen=True, slots=True)
class Limits:
    failure: Failure | None


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of a message that are shown. Times are in seconds."""

    obstacle: str | None
    waiting: int
    covered: int
    beside: int
    all_in_in: FiniteFloat | None
    others_in_in: FiniteFloat | None
    back_in: FiniteFloat | None
    limits: Limits
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

    def verdict(self, now: datetime) -> Verdict:
        """The verdict on the current figures."""
        assert self._summary is not None  # noqa: S101 - something was taken
        noun = "request" if self._summary.beside else "shard"
        return verdict(self._summary, Counter(self._shards), now, noun=noun)

    @property
    def news(self) -> object:
        """A value that stays the same if only time passes."""
        assert self._summary is not None  # noqa: S101 - something was taken
        let_in = sum(letter in LET_IN for letter in self._shards)
        stops = self._summary.obstacle, self._summary.paused and self._summary.paused.reason
        return let_in, len(self._shards), self._summary.waiting, stops

    def shown(self, now: datetime) -> RenderableType:
        """The progress bar and the verdict."""
        let_in = sum(letter in LET_IN for letter in self._shards)
        bar = Table.grid()  # a bar alone does not end its line
        bar.add_row(ProgressBar(max(len(self._shards), 1), let_in, width=BAR))
        return Group(bar, shown(self.verdict(now)))


def data_of(event: list[str]) -> bytes:
    """The data of a server-sent event with these lines."""
    return "".join(line[6:] for line in event if line.startswith("data: ")).encode()
