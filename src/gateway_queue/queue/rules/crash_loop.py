"""Which shards are slowed down: those that start again and again.

Pure: every function takes ``now`` (seconds on one monotonic clock) and returns a value.
No clock, no task, no I/O.
"""

import math
import re
from collections import deque
from dataclasses import dataclass, field

from gateway_queue.queue.rules.pace import late

# The pauses between a looping shard's grants: the first, and the longest. A longest of 900 s
# would let 16 shards in a loop use 1,680 session starts a day; this one, 560.
FIRST_PAUSE = 60.0
LONGEST_PAUSE = 3600.0

# A shard's level falls by one for each hour without a grant.
HOUR = 3600.0

# The longest window of a rule, which is as far back as the journal reaches.
LONGEST_WINDOW = 86_400


@dataclass(frozen=True, slots=True)
class CrashLoop:
    """A shard granted more than ``grants`` times in ``window`` seconds is in a crash loop."""

    grants: int
    window: float

    @classmethod
    def parse(cls, text: str) -> "CrashLoop | None":
        """None for ``off``; raises ValueError unless ``text`` is like ``6/600``."""
        if text.strip() == "off":
            return None
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text.strip())
        if match is None or not int(match[1]) or not 0 < int(match[2]) <= LONGEST_WINDOW:
            raise ValueError("not like 6/600, which is 6 grants in 600 seconds")
        return cls(int(match[1]), float(match[2]))

    def __str__(self) -> str:
        return f"{self.grants}/{self.window:g}"


@dataclass(slots=True)
class Restarts:
    """How often one shard has been granted lately, and what that costs it.

    A pure function of the shard's grants, which are fed in order. A grant beyond the rule,
    or while there still is a level, raises the level; the shard is next eligible
    min(60 * 2^(level-1), 3600) s after its last grant; the level falls for every hour
    without one.
    """

    rule: CrashLoop
    recent: deque[float] = field(default_factory=deque)
    level: int = 0
    last: float = -math.inf

    def grant(self, now: float) -> None:
        if self.level:
            self.level = max(0, self.level - int((now - self.last) // HOUR))
        self.last = now
        self.recent.append(now)
        while self.recent[0] <= now - self.rule.window:
            self.recent.popleft()
        if self.level or len(self.recent) > self.rule.grants:
            self.level += 1

    @property
    def eligible_at(self) -> float:
        if not self.level:
            return -math.inf
        pause = FIRST_PAUSE * 2.0 ** min(self.level - 1, 10)
        return late(self.last + min(pause, LONGEST_PAUSE))
