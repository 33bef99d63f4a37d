"""The text of ``/metrics``: what was counted, and how things stand at this moment.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import trio
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway_queue import __version__, log
from gateway_queue.queue.queue import Queue
from gateway_queue.queue.rules.allowance import ReadAllowance
from gateway_queue.watch.metrics import Metrics

# With more bots than these, histograms are of all of them together: each has 30 lines.
MOST_HISTOGRAMS = 20

# Bots looked at, or lines written, in one go: a millisecond or two without a grant.
PORTION = 50
LINES = 200

# What they mean, and which labels they have beside the bot's.
GAUGES = {
    "waiting": ("Requests that wait, whose clients are here.", "bucket"),
    "away": ("Seats kept for clients that left.", "bucket"),
    "slowed_shards": ("Shards that wait for their crash loop.",),
    "paused": ("1 while an operator has paused everything.",),
    "interval_seconds": ("Seconds between two grants of a bucket.",),
    "ready": ("1 if limits are known and the journal can be written.",),
    "session_start_limit": ("Session starts a day.",),
    "session_starts_remaining": ("Session starts left, the reserve among them.",),
    "session_starts_reserved": ("Session starts that are never granted.",),
    "session_starts_reset_seconds": ("Seconds until session starts come back.",),
    "limits_age_seconds": ("Seconds since Discord was asked for the limits that are in use.",),
}


class Seen(Protocol):
    """A bot, as far as it can be seen from here."""

    @property
    def name(self) -> str: ...
    @property
    def queue(self) -> Queue: ...
    def why_not_ready(self) -> str | None: ...


async def page(
    bots: Sequence[Seen], metrics: Metrics, unknown_bot_waiting: int | None = None
) -> bytes:
    """The body of ``/metrics`` for these bots, made in slices so that no grant waits for it.

    ``unknown_bot_waiting``: how many requests wait for bots that are not here.
    """
    are_seen = {"", *(bot.name for bot in bots)}
    text = b""
    for family in (*_counted(len(bots), metrics), *await _gauges(bots, unknown_bot_waiting)):
        samples = [s for s in family.samples if s.labels.get("bot", "") in are_seen]
        for start in range(0, max(1, len(samples)), LINES):
            family.samples = samples[start : start + LINES]
            slice_ = _text(family)
            text += slice_ if start == 0 else _without_head(slice_)
            await trio.lowlevel.checkpoint()
    return text


def _counted(bots: int, metrics: Metrics) -> Iterable[Metric]:
    wait, lateness = (
        histogram.of_each if bots <= MOST_HISTOGRAMS else histogram.of_all
        for histogram in (metrics.wait, metrics.lateness)
    )
    for family in (
        metrics.grants,
        metrics.abandoned,
        wait,
        lateness,
        metrics.refresh_failures,
        metrics.invalid_sessions,
    ):
        yield from family.collect()


class _One(Collector):
    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        yield self._family


def _text(family: Metric) -> bytes:
    registry = CollectorRegistry()
    registry.register(_One(family))
    return generate_latest(registry)


def _without_head(text: bytes) -> bytes:
    return b"".join(line for line in text.splitlines(keepends=True) if not line.startswith(b"#"))


async def _gauges(bots: Sequence[Seen], unknown_bot_waiting: int | None) -> list[Metric]:
    families = {
        name: GaugeMetricFamily(f"gateway_queue_{name}", documentation, labels=["bot", *labels])
        for name, (documentation, *labels) in GAUGES.items()
    }
    for number, bot in enumerate(bots, start=1):
        for name, labels, value in _values(bot):
            families[name].add_metric([bot.name, *labels], value)
        if number % PORTION == 0:
            await trio.lowlevel.checkpoint()
    gauges: list[Metric] = [family for family in families.values() if family.samples]
    if unknown_bot_waiting is not None:
        gauges.append(
            GaugeMetricFamily(
                "gateway_queue_unknown_bot_waiting",
                "Requests that wait for bots that are not here.",
                value=unknown_bot_waiting,
            )
        )
    dropped = CounterMetricFamily(
        "gateway_queue_log_lines_dropped",
        "Log lines that nobody read in time, or that could not be written.",
        value=log.writer.dropped,
    )
    info = GaugeMetricFamily(
        "gateway_queue_build_info", "Always 1; which build this is.", labels=["version"]
    )
    info.add_metric([__version__], 1)
    return [*gauges, dropped, info]


def _values(bot: Seen) -> Iterator[tuple[str, list[str], float]]:
    """How a bot stands: names of GAUGES, the labels beside the bot's, and values."""
    now = trio.current_time()
    starts, allowance = bot.queue.starts, bot.queue.starts.allowance
    for bucket in bot.queue.buckets:
        yield "waiting", [str(bucket.index)], bucket.line.waiting
        yield "away", [str(bucket.index)], bucket.line.away
    yield "slowed_shards", [], starts.restarting.slowed(now)
    yield "paused", [], starts.orders.paused_until(now) > now
    yield "interval_seconds", [], bot.queue.spacing.interval
    yield "ready", [], bot.why_not_ready() is None
    if not allowance.known:
        return
    yield "session_start_limit", [], allowance.total
    yield "session_starts_remaining", [], allowance.remaining(now)
    yield "session_starts_reserved", [], allowance.reserved
    yield "session_starts_reset_seconds", [], round(allowance.reset_after(now), 3)
    sent_at = allowance.sent_at if isinstance(allowance, ReadAllowance) else now
    yield "limits_age_seconds", [], round(now - sent_at, 3)
