"""Watches a storm, and judges it.

Whether a grant came too early is judged by the kernel's time stamps at the clients, and by
nothing that the server says. The one thing it is believed is when it had heard that there are
fewer buckets; until then only those shards have to keep their distance that share a bucket however
many there are.
"""

import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

import trio

# Who was told that there are fewer buckets keeps to it after so many seconds.
TOLD_WITHIN = 1.0

# A grant that was in hand when something went wrong is given within so many seconds.
IN_HAND = 0.5

# A fault is over for those who wait after so many seconds.
CALM_AFTER = 4.0

# Who came so much later than another must not be granted before it.
CLEARLY_LATER = 1.5


@dataclass
class Grant:
    shard: int
    asked_at: float  # first, and not earlier
    confirms: bool = False
    number: int = 0
    sent_at: float = math.inf  # the first request was on its way
    at: float = 0.0  # when the kernel received the answer
    has_stayed: bool = True  # all the time
    confirmed_at: float = math.inf  # or later


@dataclass
class Fault:
    what: str
    at: float
    goes_on_at: float = math.inf  # from when on buckets can be expected to go on
    over_at: float = math.inf  # all is as it was

    def end(self) -> None:
        self.over_at = time.time()
        self.goes_on_at = min(self.goes_on_at, self.over_at)


@dataclass(frozen=True, slots=True)
class Rules:
    """The spacing that clients are promised, and by how much the witness may be wrong."""

    interval: float
    hold: float  # after a grant that is to be confirmed, until that is done
    after_confirmation: float
    exact: float


@dataclass
class Witness:
    """What happened."""

    rules: Rules
    most_buckets: int
    grants: list[Grant] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    crashed: list[str] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)  # shards
    waiting: dict[int, float] = field(default_factory=dict)  # shard: since when
    led_at: list[float] = field(default_factory=list)  # when another replica began to lead
    _buckets: list[tuple[float, int]] = field(default_factory=list)  # since when it is certain

    # What it sees ---------------------------------------------------------------------

    def begin(self, what: str) -> Fault:
        self.faults.append(Fault(what, time.time()))
        return self.faults[-1]

    def replicas_heard(self, buckets: int | None) -> None:
        """They were told how many buckets there are; None: not, or not what holds now."""
        if buckets is None:
            self._buckets.append((time.time(), self.most_buckets))
        else:
            self._buckets.append((time.time() + TOLD_WITHIN, buckets))

    async def all_went_on(self, within: float) -> None:
        """Wait until all buckets have granted anew where somebody waits, as no fault lasts."""
        since = time.time() + IN_HAND
        with trio.move_on_after(within):
            while not self._have_gone_on(since):  # noqa: ASYNC110 - it tells nobody
                await trio.sleep(0.05)

    def _have_gone_on(self, since: float) -> bool:
        gone_on = {grant.shard % self.most_buckets for grant in self.grants if grant.at > since}
        waiting = {shard % self.most_buckets for shard, at in self.waiting.items() if at < since}
        return waiting <= gone_on

    # What it makes of that ------------------------------------------------------------

    @property
    def is_right(self) -> bool:
        return not (self.early or self.lost or self.overtaken or self.crashed)

    @property
    def early(self) -> list[tuple[Grant, Grant]]:
        """Who was granted too early, after the one before in its bucket."""
        return [
            (soon, late)
            for soon, late in self._pairs()
            if late.at < self._opens_at(soon) - self.rules.exact
        ]

    @property
    def overtaken(self) -> list[tuple[Grant, Grant]]:
        """Who was granted after somebody who came later, while nothing was wrong; and that one."""
        return [
            (grant, before)
            for grant, before in self._in_calm()
            if before is not None and before.asked_at > grant.sent_at + CLEARLY_LATER
        ]

    def lateness(self) -> dict[str, list[float]]:
        """By the kinds of fault, and for each that came alone, that of the slowest bucket."""
        found: dict[str, list[float]] = defaultdict(list)
        pairs = list(self._pairs())
        for fault in self.faults:
            slowest, ended_at = 0.0, fault.over_at
            for soon, late in pairs:
                if soon.at < fault.over_at + IN_HAND and late.at > fault.at:
                    opened_at = max(self._opens_at(soon), fault.goes_on_at, late.asked_at)
                    slowest = max(slowest, late.at - opened_at)
                    ended_at = max(ended_at, late.at)
            if not any(
                other is not fault and other.at < ended_at and other.over_at > fault.at
                for other in self.faults
            ):
                found[fault.what].append(slowest)
        return found

    def report(self) -> str:
        overtaken = [
            f"shard {late.shard} came at {late.sent_at:.3f} and was granted at {late.at:.3f}, after"
            f" shard {soon.shard}, which came {soon.asked_at - late.sent_at:.3f} s later"
            for late, soon in self.overtaken
        ]
        counts = (
            f"{len(self.grants)} grants, {len(self.faults)} faults: early {len(self.early)},"
            f" lost {len(self.lost)}, overtaken {len(overtaken)}, crashed {len(self.crashed)}"
        )
        calm = len(list(self._in_calm()))
        spare = min((late.at - self._opens_at(soon) for soon, late in self._pairs()), default=0.0)
        about = f"{calm} waited while nothing was wrong; nearest to early: {spare:.3f} s"
        early = [
            f"shard {late.shard} was early by {self._opens_at(soon) - late.at:.3f} s: granted at"
            f" {late.at:.3f}, {late.at - soon.at:.3f} s after shard {soon.shard}"
            + (f", confirmed after {soon.confirmed_at - soon.at:.3f} s" * soon.confirms)
            for soon, late in self.early
        ]
        lost = [f"shard {shard} was lost" for shard in self.lost]
        return "\n  ".join([counts, about, *early, *lost, *overtaken, *self.crashed])

    def _pairs(self) -> Iterator[tuple[Grant, Grant]]:
        """The grants with those that came next in their buckets."""
        grants = sorted(self.grants, key=lambda grant: grant.at)
        latest: dict[int, Grant] = {}  # of each bucket, were there as many as there ever are
        for late in grants:
            buckets = self._buckets_at(late.at)
            before = [
                grant for shard, grant in latest.items() if (shard - late.shard) % buckets == 0
            ]
            if before:
                yield max(before, key=lambda grant: grant.at), late
            latest[late.shard % self.most_buckets] = late

    def _buckets_at(self, at: float) -> int:
        return next((n for since, n in reversed(self._buckets) if since <= at), self.most_buckets)

    def _opens_at(self, grant: Grant) -> float:
        if not grant.confirms:
            return grant.at + self.rules.interval
        confirmed_at = grant.confirmed_at + self.rules.after_confirmation
        return min(grant.at + self.rules.hold, confirmed_at)

    def _in_calm(self) -> Iterator[tuple[Grant, Grant | None]]:
        """Who waited while nothing was wrong; and who came last of those granted before.

        A client that comes back before its replica has said that it left is a second one of its
        shard, whose place is left over for the next time. So that next time proves nothing.
        """
        last: dict[int, Grant] = {}  # of each bucket
        came_back: set[int] = set()
        for grant in sorted(self.grants, key=lambda grant: grant.at):
            bucket = grant.shard % self.most_buckets
            before = last.get(bucket)
            if grant.has_stayed and self._is_calm(grant.asked_at, grant.at):
                yield grant, before
            is_later = before is None or before.asked_at < grant.asked_at
            if is_later and grant.shard not in came_back:
                last[bucket] = grant
            if grant.has_stayed:
                came_back.discard(grant.shard)
            else:
                came_back.add(grant.shard)

    def _is_calm(self, since: float, until: float) -> bool:
        """Whether nothing was wrong between these instants, nor shortly before.

        A replica that is silent for a second, as its machine is too busy, is no longer followed.
        """
        wrong = [(fault.at, fault.over_at) for fault in self.faults]
        wrong += [(at, at) for at in self.led_at]
        return not any(at < until and since < over_at + CALM_AFTER for at, over_at in wrong)


def table(seen: Sequence[Witness]) -> str:
    """By the kind of fault: how often, how often alone, and how late the slowest bucket was then.

    That is the median of all times, and the worst; late is what comes after the bucket could
    have opened, had nothing been wrong, or after the end of a fault that nobody can bear.
    """
    times = Counter(fault.what for witness in seen for fault in witness.faults)
    late: dict[str, list[float]] = defaultdict(list)
    for witness in seen:
        for what, seconds in witness.lateness().items():
            late[what] += seconds
    lines = [f"{'fault':<25}{'times':>7}{'alone':>7}{'median':>9}{'max':>9}"]
    for what in sorted(times):
        alone = late[what]
        figures = f"{median(alone):7.2f} s{max(alone):7.2f} s" if alone else ""
        lines.append(f"{what:<25}{times[what]:>7}{len(alone):>7}{figures}")
    return "\n".join(lines)
