"""What is counted as it happens. Names follow https://prometheus.io/docs/practices/naming/."""

from collections import deque

import trio
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics

from gateway_queue.queue.events import Event, Granted, InvalidSession, Left, LimitsUnread

disable_created_metrics()  # type: ignore[no-untyped-call]  # a third more lines, which nobody reads

# From an idle bucket to a fleet of hundreds at one grant per 5.5 s.
WAITS = (0.01, 0.1, 1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200)
LATENESSES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


# How many reports of op 9s are remembered singly, for those who look at them.
REPORTS = 1_000


class Metrics:
    """The counters and histograms of one queue."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.grants = Counter(
            "gateway_queue_grants", "Identifies granted.", ["bucket"], registry=self.registry
        )
        self.abandoned = Counter(
            "gateway_queue_abandoned",
            "Requests whose client left before the grant.",
            registry=self.registry,
        )
        self.wait = Histogram(
            "gateway_queue_wait_seconds",
            "From the first request for a seat to its grant.",
            buckets=WAITS,
            registry=self.registry,
        )
        self.lateness = Histogram(
            "gateway_queue_grant_lateness_seconds",
            "From the instant at which a grant could be given until it was.",
            buckets=LATENESSES,
            registry=self.registry,
        )
        self.refresh_failures = Counter(
            "gateway_queue_limits_refresh_failures",
            "Readings of Discord's session start limit that failed.",
            registry=self.registry,
        )
        self.invalid_sessions = Counter(
            "gateway_queue_invalid_sessions",
            "Identifies that clients reported as answered with op 9.",
            registry=self.registry,
        )
        # When they were reported, and of which shards.
        self.latest_invalid_sessions: deque[tuple[float, int]] = deque(maxlen=REPORTS)

    def count(self, event: Event) -> None:
        """Count what the queue reports."""
        match event:
            case Granted():
                self.grants.labels(event.bucket).inc()
                self.wait.observe(event.waited)
                self.lateness.observe(event.late)
            case Left():
                self.abandoned.inc()
            case LimitsUnread():
                self.refresh_failures.inc()
            case InvalidSession():
                self.invalid_sessions.inc()
                self.latest_invalid_sessions.append((trio.current_time(), event.shard))
