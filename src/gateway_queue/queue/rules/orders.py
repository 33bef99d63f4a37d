"""The orders that an operator may give to all buckets: a pause, and a slower pace.

Pure: takes ``now`` in seconds. No clock, no tasks, no I/O. An order never makes a grant
earlier than it would be without the order.
"""

import math
from dataclasses import dataclass

from gateway_queue.queue.rules.pace import Spacing


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing is granted from ``since`` until ``until``; inf: until somebody resumes.

    ``survives_restart``: whether it still applies after a restart.
    """

    since: float
    until: float
    reason: str
    survives_restart: bool


@dataclass(frozen=True, slots=True)
class Slower:
    """From ``since`` until ``until``, grants of a bucket are at least ``interval`` apart."""

    since: float
    until: float
    interval: float
    survives_restart: bool


@dataclass(slots=True)
class Orders:
    """The latest orders, until they are withdrawn or expire."""

    pause: Pause | None = None
    slower: Slower | None = None

    def paused_until(self, now: float) -> float:
        """When the pause ends: ``now`` or earlier if there is none, inf if it is open-ended."""
        return self.pause.until if self.pause else now

    def spacing(self, configured: Spacing) -> Spacing:
        """The seconds between grants, never less than what is configured."""
        return configured.at_least(self.slower.interval) if self.slower else configured

    @property
    def next_end_at(self) -> float:
        """When the next order expires; inf if none does."""
        orders = (self.pause, self.slower)
        return min((order.until for order in orders if order), default=math.inf)

    def end(self, now: float) -> list[Pause | Slower]:
        """Remove and return the orders that have expired."""
        ended: list[Pause | Slower] = []
        if self.pause and self.pause.until <= now:
            ended.append(self.pause)
            self.pause = None
        if self.slower and self.slower.until <= now:
            ended.append(self.slower)
            self.slower = None
        return ended
