"""Which shards are slowed down because they start over and over again.

Pure: every function takes ``now`` (seconds on one monotonic clock) and returns a value.
No clock, no tasks, no I/O.
"""

import math
import re
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush

from gateway_queue.queue.rules.pace import late

# The first and the longest pause between a looping shard's grants, in seconds. With at most
# 900 s, 16 shards in a loop would use 1,680 session starts a day; with this, 560.
FIRST_PAUSE = 60.0
LONGEST_PAUSE = 3600.0

# A shard's level falls by one for each hour without a grant.
HOUR = 3600.0

# Stands for the shard of requests that name none.
NAMELESS = -1

# The longest window of a rule in seconds; the journal does not reach back any further.
LONGEST_WINDOW = 86_400


@dataclass(frozen=True, slots=True)
class CrashLoop:
    """The rule: more than ``grants`` grants of a shard in ``window`` seconds is a crash loop."""

    grants: int
    window: float

    @classmethod
    def parse(cls, text: str) -> "CrashLoop | None":
        """Parse ``6/600``, or ``off`` as None; raises ValueError for anything else."""
        if text.strip() == "off":
            return None
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text.strip())
        if match is None or not int(match[1]) or not 0 < int(match[2]) <= LONGEST_WINDOW:
            raise ValueError("not of the form 6/600, which is 6 grants in 600 seconds")
        return cls(int(match[1]), float(match[2]))

    def __str__(self) -> str:
        return f"{self.grants}/{self.window:g}"


@dataclass(slots=True)
class Restarts:
    """How often one shard has been granted recently, and how that slows it down.

    A pure function of the shard's grants, which must be passed in order. A grant that breaks
    the rule, or that comes while the level is above 0, raises the level by one. The shard is
    next eligible min(60 * 2^(level-1), 3600) s after its last grant. The level falls by one
    for each hour without a grant.
    """

    rule: CrashLoop
    recent: list[float] = field(default_factory=list)
    level: int = 0
    last: float = -math.inf

    def grant(self, now: float) -> None:
        self.level = self.level_at(now)
        self.last = now
        self.recent.append(now)
        del self.recent[: bisect_right(self.recent, now - self.rule.window)]
        if self.level or len(self.recent) > self.rule.grants:
            self.level += 1

    def level_at(self, now: float) -> int:
        return max(0, self.level - int((now - self.last) // HOUR)) if self.level else 0

    @property
    def eligible_at(self) -> float:
        if not self.level:
            return -math.inf
        pause = FIRST_PAUSE * 2.0 ** min(self.level - 1, 10)
        return late(self.last + min(pause, LONGEST_PAUSE))

    @property
    def forgotten_at(self) -> float:
        """When this shard becomes no different from one that was never granted."""
        return self.last + max(self.rule.window, self.level * HOUR)


class Restarting:
    """All recently granted shards, and which of them are slowed down.

    With ``rule`` None, no shard is slowed down. All requests that name no shard count as one
    shard, None. Instants must be passed in order. The cost of a grant or a query does not
    depend on the number of shards.
    """

    def __init__(self, rule: CrashLoop | None) -> None:
        self._rule = rule
        self._shards: dict[int, Restarts] = {}
        self._slowed: list[tuple[float, int]] = []  # (eligible at, shard), sorted
        self._to_forget: list[tuple[float, int]] = []  # a heap; a shard may have a later entry

    def grant(self, shard: int | None, now: float) -> None:
        if self._rule is None:
            return
        self._forget(now)
        key = _key(shard)
        restarts = self._shards.setdefault(key, Restarts(self._rule))
        self._take_out(key, restarts)
        restarts.grant(now)
        if restarts.level:
            insort(self._slowed, (restarts.eligible_at, key))
        heappush(self._to_forget, (restarts.forgotten_at, key))

    def forgive(self, shard: int | None) -> None:
        """Forget all grants of a shard."""
        restarts = self._shards.pop(_key(shard), None)
        if restarts is not None:
            self._take_out(_key(shard), restarts)

    def eligible_at(self, shard: int | None) -> float:
        """When a shard may be granted again; -inf if it is not in a crash loop."""
        restarts = self._shards.get(_key(shard))
        return restarts.eligible_at if restarts else -math.inf

    def level(self, shard: int | None, now: float) -> int:
        restarts = self._shards.get(_key(shard))
        return restarts.level_at(now) if restarts else 0

    def slowed(self, now: float) -> int:
        """How many shards have to wait before they may be granted again."""
        return len(self._slowed) - bisect_right(self._slowed, (now, math.inf))

    def longest(self, now: float) -> Iterator[int | None]:
        """The shards that have to wait, the longest wait first."""
        for eligible_at, key in reversed(self._slowed):
            if eligible_at <= now:
                break
            yield None if key == NAMELESS else key

    def _take_out(self, key: int, restarts: Restarts) -> None:
        place = bisect_left(self._slowed, (restarts.eligible_at, key))
        if place < len(self._slowed) and self._slowed[place][1] == key:
            del self._slowed[place]

    def _forget(self, now: float) -> None:
        del self._slowed[: bisect_right(self._slowed, (now, math.inf))]
        while self._to_forget and self._to_forget[0][0] <= now:
            _, key = heappop(self._to_forget)
            restarts = self._shards.get(key)
            if restarts is not None and restarts.forgotten_at <= now:
                del self._shards[key]


def _key(shard: int | None) -> int:
    return NAMELESS if shard is None else shard
