"""The text of ``/metrics``: what was counted, and how things stand at this moment.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from collections.abc import Iterable, Iterator
from itertools import chain

import trio
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway_queue import __version__, log
from gateway_queue.queue.queue import Queue
from gateway_queue.queue.rules.allowance import ReadAllowance
from gateway_queue.watch.metrics import Metrics


async def page(queue: Queue, metrics: Metrics) -> bytes:
    """The body of ``/metrics``, made in slices so that no grant waits for all of it."""
    text = b""
    for family in chain(metrics.registry.collect(), _now(queue)):
        slice_ = CollectorRegistry()
        slice_.register(_One(family))
        text += generate_latest(slice_)
        await trio.lowlevel.checkpoint()
    return text


class _One(Collector):
    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        yield self._family


def _now(queue: Queue) -> Iterator[Metric]:
    now = trio.current_time()
    starts, allowance = queue.starts, queue.starts.allowance
    waiting = GaugeMetricFamily(
        "gateway_queue_waiting", "Requests that wait, whose clients are here.", labels=["bucket"]
    )
    away = GaugeMetricFamily(
        "gateway_queue_away", "Seats kept for clients that left.", labels=["bucket"]
    )
    for bucket in queue.buckets:
        waiting.add_metric([str(bucket.index)], bucket.line.waiting)
        away.add_metric([str(bucket.index)], bucket.line.away)
    yield waiting
    yield away
    yield _gauge(
        "slowed_shards", "Shards that wait for their crash loop.", starts.restarting.slowed(now)
    )
    yield _gauge(
        "ready",
        "1 if limits are known and the journal can be written.",
        starts.why_not_ready() is None,
    )
    if allowance.known:
        yield _gauge("session_start_limit", "Session starts a day.", allowance.total)
        yield _gauge(
            "session_starts_remaining",
            "Session starts left, the reserve among them.",
            allowance.remaining(now),
        )
        yield _gauge(
            "session_starts_reserved", "Session starts that are never granted.", allowance.reserved
        )
        yield _gauge(
            "session_starts_reset_seconds",
            "Seconds until session starts come back.",
            allowance.reset_after(now),
        )
        yield _gauge(
            "limits_age_seconds",
            "Seconds since Discord was asked for the limits that are in use.",
            now - allowance.sent_at if isinstance(allowance, ReadAllowance) else 0,
        )
    yield CounterMetricFamily(
        "gateway_queue_log_lines_dropped",
        "Log lines that nobody read in time, or that could not be written.",
        value=log.writer.dropped,
    )
    info = GaugeMetricFamily(
        "gateway_queue_build_info", "Always 1; which build this is.", labels=["version"]
    )
    info.add_metric([__version__], 1)
    yield info


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(f"gateway_queue_{name}", documentation, value=float(value))
