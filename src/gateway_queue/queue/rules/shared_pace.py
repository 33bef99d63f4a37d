"""When a bucket that several replicas grant may grant, as one replica knows it.

Pure: every method takes ``now`` (seconds on this replica's monotonic clock). No clock, no
task, no I/O.

Whatever happens to such a bucket gives it a new *version*, in one place that all replicas
reach. To claim a grant is to say which version one knows; it fails if that is not the latest.
So a replica that has known a version for a whole interval, on its own clock, may claim: if
that succeeds, nobody else was granted meanwhile. Nothing is assumed of other clocks, of how
long news take, or of whether they come at all.
"""

import math
from dataclasses import dataclass, field
from typing import Literal, Self

from gateway_queue.queue.rules.pace import late

# What made a version, or what was heard of it later:
# - "standing": this is how the bucket stands, whatever happened before.
# - "claimed": a grant was claimed, and its answer is about to be written.
# - "handed_over": the answer has been written. The only one that makes no new version.
# - "given_back": the claim that made the version before never became an answer.
# - "forestalled": a claim of unknown fate was made impossible; nothing was granted.
# - "confirmed": the client has identified; the bucket opens as long after that as told.
# - "put_off": the bucket opens that long after this, or when it would have, if that is later.
What = Literal[
    "standing", "claimed", "handed_over", "given_back", "forestalled", "confirmed", "put_off"
]


@dataclass(frozen=True, slots=True)
class News:
    """What a replica hears of a bucket.

    ``before`` is the version that this one followed. ``keep``: seconds that are enough from
    now on, whatever happened earlier, if the latest grant was ``written``; otherwise its
    window comes on top. ``after`` is how long a bucket is put off from now on.
    """

    version: int
    before: int
    what: What
    keep: float
    written: bool
    after: float = 0.0


@dataclass(slots=True)
class SharedPace:
    """When one bucket may grant: the latest version, and since when it is surely the latest.

    ``window`` is how many seconds after a claim was sent its answer may still be written. A
    replica that is later gives the claim back, and the others count on that.
    """

    version: int
    opens_at: float
    window: float
    in_hand: dict[int, float] = field(default_factory=dict)  # claim's version: seconds to keep
    _before_claim: tuple[int, float] | None = None  # a claim's version; `opens_at` without it

    @classmethod
    def of(cls, news: News, now: float, window: float) -> Self:
        """The pace of a bucket of which nothing was known before these news."""
        pace = cls(news.version, math.inf, window)
        pace.learn(news, now)
        return pace

    @property
    def ready_at(self) -> float:
        """The instant from which a claim may be sent; unknown while a grant is in hand."""
        return math.inf if self.in_hand else self.opens_at

    def learn(self, news: News, now: float) -> None:
        """Take what is heard now. It may be old, come twice, or leave a gap."""
        if news.version < self.version:
            return
        # What happened of which we know nothing happened before now, or, if it is a grant whose
        # answer is not written yet, will have happened at the end of its window.
        enough = late(now + news.keep + (0.0 if news.written else self.window))
        if news.version == self.version:
            self.opens_at = min(self.opens_at, enough)
            return
        opens_at = self.opens_at
        if news.before != self.version:
            self.opens_at = enough
        elif news.what == "claimed":
            self._before_claim = news.version, opens_at
            self.opens_at = enough
        elif news.what == "given_back":
            self.opens_at = self._without_the_claim(enough)
        elif news.what == "put_off":
            self.opens_at = max(opens_at, late(now + news.after))
        elif news.what != "forestalled":
            self.opens_at = enough
        self.version = news.version

    def claimed(self, version: int, seconds: float) -> None:
        """A claim of ours was granted; its answer is in hand, then to be kept for so long."""
        self.in_hand[version] = seconds

    def handed_over(self, version: int, now: float) -> None:
        """The answer of a claim of ours, which made that version, has been written."""
        opens_at = late(now + self.in_hand.pop(version))
        # Of later versions we know that they came after the claim, and not after the answer.
        self.opens_at = opens_at if version >= self.version else max(self.opens_at, opens_at)
        self.version = max(self.version, version)

    def given_back(self, version: int) -> None:
        """A claim of ours is given back: its answer was not written, and never will be."""
        del self.in_hand[version]

    def _without_the_claim(self, otherwise: float) -> float:
        if self._before_claim is None or self._before_claim[0] != self.version:
            return otherwise
        return self._before_claim[1]
