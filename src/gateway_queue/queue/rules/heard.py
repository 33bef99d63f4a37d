"""When the buckets may grant, as far as a replica knows that only hears of the grants.

Pure: every method takes ``now`` (seconds on this replica's monotonic clock). No clock, no
task, no I/O.

By the time it begins to lead, a replica has heard of every grant of earlier leaders. A grant was
recorded before it could be heard of, and its answer was written within the window after that, or
never. So counting from when it was heard of may be late, but is never early: nothing is assumed
about other clocks, or about how long messages take.
"""

import math
from dataclasses import dataclass, field

from gateway_queue.queue.rules.pace import late

# For how many seconds after it began to take a grant a replica may write its answer.
WINDOW = 1.0


@dataclass(slots=True)
class _Bucket:
    opens_at: float
    number: int = 0  # of the latest grant
    is_given: bool = False  # its answer was written


@dataclass(slots=True)
class _Bot:
    """The buckets of a bot, since their number last changed."""

    count: int
    buckets: dict[int, _Bucket] = field(default_factory=dict)  # those that it has heard of
    others_open_at: float = -math.inf
    are_others_known: bool = False  # otherwise nothing is known of them, either

    @property
    def all_known(self) -> bool:
        return self.are_others_known or len(self.buckets) == self.count

    @property
    def all_open_at(self) -> float:
        """When the last bucket opens, of those about which something is known."""
        others = -math.inf if len(self.buckets) == self.count else self.others_open_at
        return max((others, *(bucket.opens_at for bucket in self.buckets.values())))


class Heard:
    """What was heard about all bots' buckets since an instant; what was before is unknown."""

    def __init__(self, now: float) -> None:
        self._since = now
        self._bots: dict[str, _Bot] = {}

    def forget(self, until: float) -> None:
        """Treat everything until then as unknown."""
        self._since = max(self._since, until)
        self._bots.clear()

    def taken(
        self, bot: str, bucket: int, count: int, number: int, seconds: float, now: float
    ) -> None:
        """A grant was taken; its bucket, one of ``count``, opens ``seconds`` after the answer."""
        opens_at = late(now + WINDOW + seconds)
        self._of(bot, count).buckets[bucket] = _Bucket(opens_at, number)

    def written(
        self, bot: str, bucket: int, count: int, number: int, seconds: float, now: float
    ) -> None:
        """The answer of a grant was written."""
        known = self._of(bot, count).buckets.get(bucket)
        if known is not None and known.number == number:
            known.opens_at = min(known.opens_at, late(now + seconds))
            known.is_given = True

    def moved(
        self, bot: str, bucket: int, count: int, number: int, seconds: float, now: float
    ) -> None:
        """Its client confirmed this grant, and the bucket opens in so many seconds.

        If it is not the latest of its bucket, that can only postpone the opening.
        """
        known = self._of(bot, count).buckets.get(bucket)
        if known is not None:
            is_latest = known.number == number
            opens_at = late(now + seconds)
            known.opens_at = opens_at if is_latest else max(known.opens_at, opens_at)

    def given(self, bot: str) -> set[int]:
        """The numbers of those grants whose answers were written, of the latest of all buckets."""
        known = self._bots.get(bot)
        buckets = known.buckets.values() if known else ()
        return {bucket.number for bucket in buckets if bucket.is_given}

    def opens_at(self, bot: str, bucket: int, count: int, unknown: float) -> float:
        """When one of ``count`` buckets may grant. ``unknown``: how long after an unknown past."""
        after_the_unknown = late(self._since + WINDOW + unknown)
        known = self._bots.get(bot)
        if known is None:
            return after_the_unknown
        if known.count == count and bucket in known.buckets:
            return known.buckets[bucket].opens_at
        opens_at = known.others_open_at if known.count == count else known.all_open_at
        all_known = known.are_others_known if known.count == count else known.all_known
        return opens_at if all_known else max(opens_at, after_the_unknown)

    def _of(self, bot: str, count: int) -> _Bot:
        """The buckets of a bot; if their number changed, each may have shards of any old one."""
        known = self._bots.get(bot)
        if known is None:
            known = self._bots[bot] = _Bot(count)
        elif known.count != count:
            known = self._bots[bot] = _Bot(
                count, others_open_at=known.all_open_at, are_others_known=known.all_known
            )
        return known
