"""Logs how a process's shards are waiting: one line for all of them, and not often.

There is one News for each queue that the process asks. No I/O except the log.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakValueDictionary

log = logging.getLogger("gateway_queue.client")

SAY_EVERY = 10.0  # at least this many seconds between two lines about waiting shards


@dataclass(frozen=True, slots=True)
class Standing:
    """The standing of a waiting shard.

    ``position`` is 1 for the next of its bucket. ``expected_in`` is in seconds, None if that
    cannot be known. ``reason`` is one of those in docs/http.md, such as ``interval``.
    """

    position: int
    expected_in: float | None
    reason: str


@dataclass(eq=False, slots=True)
class Request:
    """One request of this process, including its repetitions."""

    shard: int
    expected_at: float | None = None


class News:
    def __init__(self) -> None:
        self._waiting: set[Request] = set()
        self._failing: set[Request] = set()
        self.away = False  # according to the last line logged
        self._next_at = 0.0

    @contextmanager
    def waiting(self, shard: int) -> Iterator[Request]:
        with self.asking(shard) as request:
            self._waiting.add(request)
            try:
                yield request
            finally:
                self._waiting.discard(request)

    @contextmanager
    def asking(self, shard: int) -> Iterator[Request]:
        request = Request(shard)
        try:
            yield request
        finally:
            self._failing.discard(request)

    def fails(self, request: Request, why: object) -> None:
        """Warn that the queue does not answer, once for all who are asking it."""
        if self.away:
            log.debug("shard %d got no answer: %s", request.shard, why)
        else:
            log.warning("asking the queue again until it answers: %s", why)
        self.away = True
        self._failing.add(request)

    def answers(self, request: Request) -> bool:
        """Whether it failed before. Logs the recovery once all affected requests succeed."""
        had_failed = request in self._failing
        self._failing.discard(request)
        if self.away and not self._failing:
            log.info("the queue answers again")
            self.away = False
        return had_failed

    def stands(self, request: Request, standing: Standing) -> None:
        """Log this shard's standing, or a summary if many wait, unless that was just logged."""
        now = time.monotonic()
        wait = standing.expected_in
        request.expected_at = None if wait is None else now + wait
        if now < self._next_at:
            return
        self._next_at = now + SAY_EVERY
        expected = [each.expected_at for each in self._waiting if each.expected_at is not None]
        next_in = max(0.0, min(expected) - now) if expected else None
        log.info("%s", wording(request.shard, standing, len(self._waiting), next_in))


_by_address: WeakValueDictionary[str, News] = WeakValueDictionary()


def news_of(address: str) -> News:
    """The News shared by everybody in this process who asks this queue."""
    return _by_address.setdefault(address, News())


def wording(shard: int, standing: Standing, number: int, next_in: float | None) -> str:
    """A shard's standing in words; if ``number`` wait, when the next of them has its turn."""
    why = "" if standing.reason == "interval" else f" ({standing.reason.replace('_', ' ')})"
    if number > 1:
        when = "" if next_in is None else f"; the next in {about(next_in)}"
        return f"{number} shards wait{when}{why}"
    when = "" if standing.expected_in is None else f", {about(standing.expected_in)}"
    return f"shard {shard}: {ordinal(standing.position)} in line{when}{why}"


def ordinal(number: int) -> str:
    teen = 10 < number % 100 < 20
    return f"{number}{'th' if teen else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"


def about(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"about {seconds / length:.0f} {unit}"
    return f"about {max(1, round(seconds))} s"
