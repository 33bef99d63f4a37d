"""The bot's session starts: how many are left, which shards are slowed down, and spending one.

All buckets share one `Starts`. Spending a start means writing it to the journal; what cannot
be written is not granted. This module knows the trio clock and the journal, but no tasks, and
nothing about the order or the pace of grants.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
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
from gateway_queue.queue.journal import (
    Journal,
    JournalError,
    JournalLostError,
    Order,
    OrderKind,
    Start,
)
from gateway_queue.queue.rules.allowance import (
    Allowance,
    ReadAllowance,
    SessionStartLimit,
    Usage,
    usage,
)
from gateway_queue.queue.rules.crash_loop import CrashLoop, Restarting
from gateway_queue.queue.rules.last_day import LastDay
from gateway_queue.queue.rules.orders import Orders, Pause, Slower

# For how many seconds a grant may be confirmed.
CONFIRMABLE = 900.0

Obstacle = Literal["paused", "limits_unknown", "reserve", "journal", "engine"]


@dataclass(frozen=True, slots=True)
class Grant:
    """The latest grant of a shard."""

    number: int
    at: float
    confirm: bool


class Starts:
    """The session starts of a bot, across all its buckets.

    ``retry``: seconds after a failed write until the journal is tried again.
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
        self.last_day = LastDay()
        self.restarting = Restarting(crash_loop)
        self._retry = retry
        self._report = report
        self._journal_ready_at = -math.inf  # later: the last write failed; inf: lost
        self._usage = Usage.NORMAL
        self._nameless_are_one = True
        self._latest: dict[int, Grant] = {}  # still confirmable, oldest first
        past_day, forgiven, orders = journal.last_day(), journal.forgiven(), journal.orders()
        now = trio.current_time()
        for past in past_day:
            grant = Grant(past.number, now - past.age, past.confirm)
            is_forgiven = past.shard is not None and past.number <= forgiven.get(past.shard, 0)
            self._remember(past.shard, grant, counts=not is_forgiven)
        self.orders = _restored(orders, now, survive_restart=journal.survives_restart)
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
        """When a start may be spent: ``now`` or earlier if at once, inf if not up to time."""
        return max(
            self.orders.paused_until(now), self._journal_ready_at, self.allowance.more_at(now)
        )

    def obstacle(self, now: float) -> Obstacle | None:
        """Why nothing at all may be granted; None if something may."""
        if self.orders.paused_until(now) > now:
            return "paused"
        if not self.allowance.known:
            return "limits_unknown"
        if self.allowance.more_at(now) > now:
            return "reserve"
        if self._journal_ready_at > now:
            return "journal"
        ledger = self.journal.ledger
        return "engine" if ledger is not None and ledger.is_away else None

    def why_not_ready(self) -> str | None:
        """What an operator has to fix before anything is granted; None if nothing."""
        if not self.allowance.known:
            return "Discord's session start limit is unknown; see the log"
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

    def back_in(self, now: float) -> float:
        """Seconds until session starts become available again."""
        more_at = self.allowance.more_at(now)
        return more_at - now if now < more_at < math.inf else self.allowance.reset_after(now)

    def count_nameless_as_one(self, *, really: bool) -> None:
        """Say whether the crash loop rule treats requests without a shard as one shard.

        It does if there is one bucket. With several, there is no telling which shard asked.
        """
        self._nameless_are_one = really
        if not really:
            self.restarting.forgive(None)

    def forgive(self, shard: int) -> None:
        """Forget a shard's recent grants, so that it is not slowed down. Raises JournalError."""
        self.journal.forgive(shard)
        self.restarting.forgive(shard)

    def latest(self, shard: int, now: float) -> Grant | None:
        """The shard's latest grant; None if that cannot be confirmed any more."""
        grant = self._latest.get(shard)
        return grant if grant and grant.at + CONFIRMABLE > now else None

    def spend(self, starts: Sequence[Start]) -> Sequence[int]:
        """Record grants and return their numbers; none if the journal cannot be written."""
        try:
            numbers = self.journal.record(starts)
        except JournalLostError as error:
            self._lose_journal(error)
            return ()
        except JournalError as error:
            if self._journal_ready_at == -math.inf:
                self._report(JournalFailed(str(error), self._retry))
            self._journal_ready_at = trio.current_time() + self._retry
            return ()
        if self._journal_ready_at > -math.inf:
            self._report(JournalRecovered())
            self._journal_ready_at = -math.inf
        return numbers

    def count(self, shard: int | None, number: int, *, confirm: bool) -> None:
        """Count a grant that was recorded."""
        now = trio.current_time()
        self._remember(shard, Grant(number, now, confirm))
        self._warn_of_crash_loop(shard, now)
        self._watch_usage(now)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep a start from being spent by others, until it is known whether it is."""
        now = trio.current_time()
        self.allowance.spend(now)
        try:
            yield
        finally:
            self.allowance.take_back(now)

    def _lose_journal(self, error: JournalLostError) -> None:
        if self._journal_ready_at < math.inf:
            self._report(JournalLost(str(error)))
            self._journal_ready_at = math.inf

    def _remember(self, shard: int | None, grant: Grant, *, counts: bool = True) -> None:
        """Count a grant; ``counts``: whether the crash loop rule counts it, too."""
        self.allowance.spend(grant.at)
        self.last_day.grant(shard, grant.at)
        if counts and (shard is not None or self._nameless_are_one):
            self.restarting.grant(shard, grant.at)
        if shard is not None:
            self._forget_unconfirmable(grant.at)
            latest = self._latest.get(shard)
            # If the clock was set back, the journal may list an older grant last.
            if latest is None or grant.number > latest.number:
                self._latest.pop(shard, None)
                self._latest[shard] = grant

    def _forget_unconfirmable(self, now: float) -> None:
        for shard, grant in list(islice(self._latest.items(), 2)):
            if grant.at + CONFIRMABLE <= now:
                del self._latest[shard]

    def _warn_of_crash_loop(self, shard: int | None, now: float) -> None:
        eligible_at = self.restarting.eligible_at(shard)
        if eligible_at > now:
            level = self.restarting.level(shard, now)
            self._report(CrashLooping(shard, level, eligible_at - now))

    def _watch_usage(self, now: float) -> None:
        """Report whenever half of the starts are used or the reserve is reached."""
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


def _restored(orders: Mapping[OrderKind, Order], now: float, *, survive_restart: bool) -> Orders:
    """The operator's orders from before this start, or from before this bot crashed."""
    restored = Orders()
    if pause := orders.get("pause"):
        since, until = now - pause.age, now + pause.left
        restored.pause = Pause(since, until, pause.value, survive_restart)
    if slower := orders.get("slower"):
        since, until, interval = now - slower.age, now + slower.left, float(slower.value)
        restored.slower = Slower(since, until, interval, survive_restart)
    return restored
