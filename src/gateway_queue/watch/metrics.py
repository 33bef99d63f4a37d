"""The metrics that are counted as events happen.

Names follow https://prometheus.io/docs/practices/naming/.
"""

from collections import deque

import trio
from prometheus_client import Counter, Histogram, disable_created_metrics

from gateway_queue.queue.events import Event, Granted, InvalidSession, Left, LimitsUnread
from gateway_queue.watch.happened import Happenings

disable_created_metrics()  # type: ignore[no-untyped-call]  # nobody reads them, and they add a third

# Seconds, from an idle bucket to a fleet of hundreds of shards at one grant per 5.5 s.
WAITS = (0.01, 0.1, 1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200)
LATENESSES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


# How many reports of op 9s are kept one by one, for the pages.
REPORTS = 1_000


class _Histogram:
    """A histogram for each bot, and one for all of them together, used if there are many."""

    def __init__(self, name: str, documentation: str, buckets: tuple[float, ...]) -> None:
        self.of_each = Histogram(name, documentation, ["bot"], registry=None, buckets=buckets)
        self.of_all = Histogram(name, documentation, registry=None, buckets=buckets)

    def of(self, bot: str) -> tuple[Histogram, Histogram]:
        """The histograms that observe this bot's events."""
        return self.of_each.labels(bot), self.of_all


class Metrics:
    """The counters and histograms of all bots."""

    def __init__(self) -> None:
        self.grants = Counter(
            "gateway_queue_grants", "Identifies granted.", ["bot", "bucket"], registry=None
        )
        self.abandoned = Counter(
            "gateway_queue_abandoned",
            "Requests whose client left before the grant.",
            ["bot"],
            registry=None,
        )
        self.wait = _Histogram(
            "gateway_queue_wait_seconds",
            "From the first request for a seat to its grant.",
            WAITS,
        )
        self.lateness = _Histogram(
            "gateway_queue_grant_lateness_seconds",
            "From the instant at which a grant was due until it was given.",
            LATENESSES,
        )
        self.refresh_failures = Counter(
            "gateway_queue_limits_refresh_failures",
            "Readings of Discord's session start limit that failed.",
            ["bot"],
            registry=None,
        )
        self.invalid_sessions = Counter(
            "gateway_queue_invalid_sessions",
            "Identifies that clients reported as answered with op 9.",
            ["bot"],
            registry=None,
        )

    def of(self, bot: str) -> "BotMetrics":
        """The metrics of the bot with this name, starting at zero."""
        return BotMetrics(self, bot)

    def forget(self, bot: str) -> None:
        """Drop the metrics of a bot that was removed."""
        for family in (
            self.grants,
            self.abandoned,
            self.wait.of_each,
            self.lateness.of_each,
            self.refresh_failures,
            self.invalid_sessions,
        ):
            family.remove_by_labels({"bot": bot})


class BotMetrics:
    """The counters and histograms of one bot."""

    def __init__(self, metrics: Metrics, bot: str) -> None:
        self._metrics = metrics
        self._bot = bot
        self._abandoned = metrics.abandoned.labels(bot)
        self._refresh_failures = metrics.refresh_failures.labels(bot)
        self._invalid_sessions = metrics.invalid_sessions.labels(bot)
        self._wait = metrics.wait.of(bot)
        self._lateness = metrics.lateness.of(bot)
        # (time of the report, shard)
        self.latest_invalid_sessions: deque[tuple[float, int]] = deque(maxlen=REPORTS)
        self.happenings = Happenings()

    def count(self, event: Event) -> None:
        """Count an event of the queue."""
        self.happenings.note(event)
        match event:
            case Granted():
                self._metrics.grants.labels(self._bot, event.bucket).inc()
                for wait in self._wait:
                    wait.observe(event.waited)
                for lateness in self._lateness:
                    lateness.observe(event.late)
            case Left():
                self._abandoned.inc()
            case LimitsUnread():
                self._refresh_failures.inc()
            case InvalidSession():
                self._invalid_sessions.inc()
                self.latest_invalid_sessions.append((trio.current_time(), event.shard))
