"""How many session starts are left, according to Discord or to our own count.

Pure: every function takes ``now`` (seconds on one monotonic clock) and returns a value.
No clock, no tasks, no I/O. Rounding is always towards later.
"""

import math
import re
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from enum import IntEnum
from typing import ClassVar, Protocol, Self

from gateway_queue.queue.rules.pace import late

# Discord counts session starts per 24 hours:
# https://discord.com/developers/docs/events/gateway#session-start-limit-object
DAY = 86_400.0

# How far Discord's count may lag behind the identifies we allowed, in seconds. Grants this
# shortly before a reading was sent are subtracted from it, although it may include them.
READING_LAG = 60.0

# How often, in seconds, the limits are read when few starts are left: others may use the token.
NEAR_RESERVE_REFRESH = 30.0

# Seconds: just after a reset, Discord's answer may still show the old window.
AFTER_RESET = 1.0
STALE_REFRESH = 5.0

# More buckets than any bot has, so that a nonsensical answer cannot start millions of tasks.
MOST_BUCKETS = 10_000


@dataclass(frozen=True, slots=True)
class SessionStartLimit:
    """Discord's session start limit at the time of one reading.

    ``reset_after`` is in seconds (Discord sends milliseconds).
    https://discord.com/developers/docs/events/gateway#session-start-limit-object
    Raises ValueError for impossible numbers; the message says what is wrong.
    """

    total: int
    remaining: int
    reset_after: float
    max_concurrency: int

    def __post_init__(self) -> None:
        if not 1 <= self.max_concurrency <= MOST_BUCKETS:
            raise ValueError(f"max_concurrency is {self.max_concurrency}, not 1 to {MOST_BUCKETS}")
        if not 0 <= self.remaining <= self.total:
            raise ValueError(f"remaining is {self.remaining} of a total of {self.total}")
        if not 0 <= self.reset_after < math.inf:
            raise ValueError(f"reset_after is {self.reset_after} seconds")


@dataclass(frozen=True, slots=True)
class Reserve:
    """Session starts held in reserve: a number, or a percentage of the total."""

    amount: int
    is_percentage: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``50`` or ``5%`` (at most ``100%``); raises ValueError for anything else."""
        match = re.fullmatch(r"([0-9]{1,9})(%?)", text.strip())
        if match is None or (match[2] and int(match[1]) > 100):
            raise ValueError("neither a whole number nor a percentage from 0% to 100%")
        return cls(int(match[1]), is_percentage=bool(match[2]))

    def of(self, total: int) -> int:
        if self.is_percentage:
            return -(-total * self.amount // 100)
        return self.amount

    def __str__(self) -> str:
        return f"{self.amount}%" if self.is_percentage else str(self.amount)


class Usage(IntEnum):
    """How many of the day's session starts are used; the last two are worth an alert."""

    NORMAL = 0
    HALF_USED = 1
    RESERVE_REACHED = 2


class Allowance(Protocol):
    """How many session starts may still be granted."""

    read_from_discord: ClassVar[bool]

    @property
    def known(self) -> bool: ...
    @property
    def total(self) -> int: ...
    @property
    def reserved(self) -> int: ...
    def remaining(self, now: float) -> int:
        """Session starts that Discord still allows, including the reserve."""
        ...

    def more_at(self, now: float) -> float:
        """When a start may be granted: ``now`` or earlier if at once, inf if a reading decides."""
        ...

    def reset_after(self, now: float) -> float:
        """Seconds until session starts become available again."""
        ...

    def spend(self, now: float) -> None: ...
    def take_back(self, spent_at: float) -> None:
        """A start that was spent at that instant was not one."""
        ...


@dataclass(slots=True)
class ReadAllowance:
    """The session starts that remain according to Discord, minus those granted since.

    ``grants`` holds the instants of grants that a reading may not include yet. Nothing is
    reset by the clock: ``remaining`` only rises when a reading says so.
    """

    read_from_discord: ClassVar[bool] = True

    reserve: Reserve
    grants: deque[float] = field(default_factory=deque)
    limit: SessionStartLimit | None = None
    sent_at: float = -math.inf

    def read(self, limit: SessionStartLimit, sent_at: float) -> None:
        """Take the limit from a request that was sent at ``sent_at``."""
        self.limit, self.sent_at = limit, sent_at
        while self.grants and self.grants[0] < sent_at - READING_LAG:
            self.grants.popleft()

    def withdraw(self) -> None:
        """Forget the limit, because it does not apply any more."""
        self.limit = None

    @property
    def known(self) -> bool:
        return self.limit is not None

    @property
    def total(self) -> int:
        return self.limit.total if self.limit else 0

    @property
    def reserved(self) -> int:
        return self.reserve.of(self.total)

    def remaining(self, now: float) -> int:  # noqa: ARG002 - a reading decides, not the clock
        return max(0, self.limit.remaining - len(self.grants)) if self.limit else 0

    def more_at(self, now: float) -> float:
        return now if self.known and self.remaining(now) > self.reserved else math.inf

    def reset_after(self, now: float) -> float:
        return max(0.0, self.sent_at + self.limit.reset_after - now) if self.limit else math.inf

    def spend(self, now: float) -> None:
        self.grants.append(now)

    def take_back(self, spent_at: float) -> None:
        with suppress(ValueError):  # a reading shows by now that it was none
            self.grants.remove(spent_at)

    def read_again_at(self, now: float, refresh: float) -> float:
        """When to read the limit next, if it is normally read every ``refresh`` seconds."""
        if self.limit is None:
            return now
        if self.remaining(now) - self.reserved <= self.total // 20:
            refresh = min(refresh, NEAR_RESERVE_REFRESH)
        again_at = self.sent_at + refresh
        if self.limit.remaining < self.limit.total:
            reset_at = self.sent_at + max(self.limit.reset_after, STALE_REFRESH - AFTER_RESET)
            again_at = min(again_at, reset_at + AFTER_RESET)
        return again_at


@dataclass(slots=True)
class CountedAllowance:
    """Without a token: ``total`` session starts in any 24 hours, which we count ourselves."""

    read_from_discord: ClassVar[bool] = False

    reserve: Reserve
    total: int
    grants: deque[float] = field(default_factory=deque)
    known: bool = True

    @property
    def reserved(self) -> int:
        return self.reserve.of(self.total)

    def remaining(self, now: float) -> int:
        while self.grants and late(self.grants[0] + DAY) <= now:
            self.grants.popleft()
        return max(0, self.total - len(self.grants))

    def more_at(self, now: float) -> float:
        if self.remaining(now) > self.reserved:
            return now
        too_many = len(self.grants) - (self.total - self.reserved)
        return late(self.grants[too_many] + DAY) if too_many < len(self.grants) else math.inf

    def reset_after(self, now: float) -> float:
        return max(0.0, self.grants[0] + DAY - now) if self.grants else 0.0

    def spend(self, now: float) -> None:
        self.grants.append(now)

    def take_back(self, spent_at: float) -> None:
        self.grants.remove(spent_at)


def usage(allowance: Allowance, now: float) -> Usage:
    """The level that the use of session starts has reached."""
    remaining = allowance.remaining(now)
    if remaining <= allowance.reserved:
        return Usage.RESERVE_REACHED
    if remaining <= allowance.total // 2:
        return Usage.HALF_USED
    return Usage.NORMAL
