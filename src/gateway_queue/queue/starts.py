"""The bot's session starts: how many are left, which shards are slowed down, and spending one.

All buckets share one `Starts`. To spend a start is to write it into the journal; what
cannot be written is not granted. This module knows the trio clock and the journal, but no
task and nothing of the order or the pace of grants.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import trio

from gateway_queue.queue.events import (
    CrashLooping,
    JournalFailed,
    JournalLost,
    JournalRecovered,
    Report,
    UsageRose,
)
from gateway_queue.queue.journal import Journal, JournalError, JournalLostError
from gateway_queue.queue.rules.allowance import (
    Allowance,
    ReadAllowance,
    SessionStartLimit,
    Usage,
    usage,
)
from gateway_queue.queue.rules.crash_loop import CrashLoop, Restarts

# How long a grant may be confirmed.
CONFIRMABLE = 900.0

Obstacle = Literal["limits_unknown", "reserve", "journal"]


@dataclass(frozen=True, slots=True)
class Grant:
    """The latest grant of a shard."""

    number: int
    at: float
    confirm: bool


class Starts:
    """What may be started, across all buckets.

    ``retry`` is how many seconds after a failed write the journal is tried again.
    """

    def __init__(
        self,
        *,
        allowance: Allowance,
        journal: Journal,
        crash_loop: CrashLoop | None,
        retry: float,
        report: Report,
    ) -> None:
        self.allowance = allowance
        self.journal = journal
        self._crash_loop = crash_loop
        self._retry = retry
        self._report = report
        self._journal_ready_at = -math.inf  # later: the last write failed; inf: lost
        self._usage = Usage.NORMAL
        self._restarts: dict[int, Restarts] = {}
        self._latest: dict[int, Grant] = {}
        past_day = journal.last_day()
        now = trio.current_time()
        for past in past_day:
            self.allowance.spend(now - past.age)
            if past.shard is not None:
                self._remember(past.shard, Grant(past.number, now - past.age, past.confirm))
        self._watch_usage(now)

    def read(self, limit: SessionStartLimit, sent_at: float) -> None:
        """Take Discord's session start limit from a request that was sent at ``sent_at``."""
        if not isinstance(self.allowance, ReadAllowance):
            raise TypeError("the session starts are counted here, not read from Discord")
        self.allowance.read(limit, sent_at)
        self._watch_usage(trio.current_time())

    def left(self, now: float) -> int:
        """How many starts may be granted now."""
        return max(0, self.allowance.remaining(now) - self.allowance.reserved)

    def more_at(self, now: float) -> float:
        """When a start may be spent: ``now`` or earlier if one may, inf if the clock can't tell."""
        return max(self._journal_ready_at, self.allowance.more_at(now))

    def obstacle(self, now: float) -> Obstacle | None:
        """Why nothing at all may be started."""
        if not self.allowance.known:
            return "limits_unknown"
        if self.allowance.more_at(now) > now:
            return "reserve"
        return "journal" if self._journal_ready_at > now else None

    def why_not_ready(self) -> str | None:
        """What an operator has to mend before anything is granted; None if nothing."""
        if not self.allowance.known:
            return "Discord's session start limit is not known; the log says why"
        try:
            if self._journal_ready_at > -math.inf:
                self.journal.check()
            else:
                self.journal.check_owner()
        except JournalLostError as error:
            self._lose_journal(error)
            return str(error)
        except JournalError as error:
            return str(error)
        return None

    def eligible_at(self, shard: int | None) -> float:
        """When a shard may be granted again: later than now if it is in a crash loop."""
        restarts = self._restarts.get(shard) if shard is not None else None
        return restarts.eligible_at if restarts else -math.inf

    def slowed(self, now: float) -> Iterator[tuple[int, Restarts]]:
        """The shards that are in a crash loop, and have to wait for it."""
        for shard, restarts in self._restarts.items():
            if restarts.eligible_at > now:
                yield shard, restarts

    def latest(self, shard: int, now: float) -> Grant | None:
        """The shard's latest grant, if it may still be confirmed."""
        grant = self._latest.get(shard)
        return grant if grant and grant.at + CONFIRMABLE > now else None

    def spend(self, shard: int | None, bucket: int, *, confirm: bool) -> int | None:
        """Record a grant and return its number; None if the journal cannot be written."""
        try:
            number = self.journal.record(shard, bucket, confirm=confirm)
        except JournalLostError as error:
            self._lose_journal(error)
            return None
        except JournalError as error:
            if self._journal_ready_at == -math.inf:
                self._report(JournalFailed(str(error), self._retry))
            self._journal_ready_at = trio.current_time() + self._retry
            return None
        if self._journal_ready_at > -math.inf:
            self._report(JournalRecovered())
            self._journal_ready_at = -math.inf
        now = trio.current_time()
        self.allowance.spend(now)
        if shard is not None:
            self._remember(shard, Grant(number, now, confirm))
            self._warn_of_crash_loop(shard, now)
        self._watch_usage(now)
        return number

    def _lose_journal(self, error: JournalLostError) -> None:
        if self._journal_ready_at < math.inf:
            self._report(JournalLost(str(error)))
            self._journal_ready_at = math.inf

    def _remember(self, shard: int, grant: Grant) -> None:
        latest = self._latest.get(shard)
        if latest is None or grant.number > latest.number:
            self._latest[shard] = grant
        if self._crash_loop is not None:
            self._restarts.setdefault(shard, Restarts(self._crash_loop)).grant(grant.at)

    def _warn_of_crash_loop(self, shard: int, now: float) -> None:
        eligible_at = self.eligible_at(shard)
        if eligible_at > now:
            self._report(CrashLooping(shard, self._restarts[shard].level, eligible_at - now))

    def _watch_usage(self, now: float) -> None:
        """Report each time half of the starts are used, or the reserve is reached."""
        if not self.allowance.known:
            return
        level = usage(self.allowance, now)
        if level > self._usage:
            self._report(
                UsageRose(
                    level,
                    remaining=self.allowance.remaining(now),
                    total=self.allowance.total,
                    reserve=self.allowance.reserved,
                    reset_after=self.allowance.reset_after(now),
                )
            )
        self._usage = level
