"""What an operator may order of all buckets: a pause, and a slower pace.

Pure: takes ``now`` in seconds; no clock, no task, no I/O. An order never lets anything be
granted earlier than it would have been without.
"""

import math
from dataclasses import dataclass

from gateway_queue.queue.rules.pace import Spacing


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing is granted from ``since`` until ``until``; inf: until somebody resumes.

    ``survives_restart``: it does so after a restart, too.
    """

    since: float
    until: float
    reason: str
    survives_restart: bool


@dataclass(frozen=True, slots=True)
class Slower:
    """From ``since`` until ``until`` a grant keeps others off its bucket for ``interval``."""

    since: float
    until: float
    interval: float
    survives_restart: bool


@dataclass(slots=True)
class Orders:
    """The orders that were given last, until they are taken back or have ended."""

    pause: Pause | None = None
    slower: Slower | None = None

    def paused_until(self, now: float) -> float:
        """When a pause is over: ``now`` or earlier if there is none, inf if somebody decides."""
        return self.pause.until if self.pause else now

    def spacing(self, configured: Spacing) -> Spacing:
        """The seconds between grants, never less than those that are configured."""
        return configured.at_least(self.slower.interval) if self.slower else configured

    @property
    def next_end_at(self) -> float:
        """When the next order ends by itself; inf if none does."""
        orders = (self.pause, self.slower)
        return min((order.until for order in orders if order), default=math.inf)

    def end(self, now: float) -> list[Pause | Slower]:
        """Take out the orders whose time is over."""
        ended: list[Pause | Slower] = []
        if self.pause and self.pause.until <= now:
            ended.append(self.pause)
            self.pause = None
        if self.slower and self.slower.until <= now:
            ended.append(self.slower)
            self.slower = None
        return ended
