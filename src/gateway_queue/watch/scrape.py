"""The text of ``/metrics``: what was counted, and the current state as gauges.

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

# With more bots than this, there is one histogram for all, because each takes 30 lines.
MOST_HISTOGRAMS = 20

# Bots processed, or lines written, in one go: delays grants by a millisecond or two.
PORTION = 50
LINES = 200

# The help text of each gauge, and its labels besides the bot.
GAUGES = {
    "waiting": ("Requests waiting for a grant.", "bucket"),
    "away": ("Seats kept for clients that left.", "bucket"),
    "slowed_shards": ("Shards slowed down by a crash loop.",),
    "paused": ("1 while an operator has paused all grants.",),
    "interval_seconds": ("Seconds between two grants of a bucket.",),
    "ready": ("1 if the limits are known and the journal can be written.",),
    "session_start_limit": ("Session starts a day.",),
    "session_starts_remaining": ("Session starts left, including the reserve.",),
    "session_starts_reserved": ("Session starts held in reserve, which are never granted.",),
    "session_starts_reset_seconds": ("Seconds until session starts become available again.",),
    "limits_age_seconds": ("Seconds since the limits in use were read from Discord.",),
}


class Seen(Protocol):
    """A bot, as far as this module needs to know it."""

    @property
    def name(self) -> str: ...
    @property
    def queue(self) -> Queue: ...
    def why_not_ready(self) -> str | None: ...


class Member(Protocol):
    """One of several replicas: this one."""

    @property
    def leads(self) -> bool: ...
    @property
    def replicas(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def eras(self) -> int: ...
    @property
    def engine_is_up(self) -> bool: ...


async def page(
    bots: Sequence[Seen],
    metrics: Metrics,
    unknown_bot_waiting: int | None = None,
    member: Member | None = None,
) -> bytes:
    """The body of ``/metrics`` for these bots, made in slices so that no grant waits for it.

    ``unknown_bot_waiting``: how many requests wait for unknown bots. ``member``: this process,
    where there are several replicas.
    """
    are_seen = {"", *(bot.name for bot in bots)}
    text = b""
    for family in (
        *_counted(len(bots), metrics),
        *await _gauges(bots, unknown_bot_waiting),
        *(_of_member(member) if member else ()),
    ):
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
                "Requests waiting for unknown bots.",
                value=unknown_bot_waiting,
            )
        )
    dropped = CounterMetricFamily(
        "gateway_queue_log_lines_dropped",
        "Log lines dropped because nobody read them in time or they could not be written.",
        value=log.writer.dropped,
    )
    info = GaugeMetricFamily(
        "gateway_queue_build_info", "Always 1; its label is the version.", labels=["version"]
    )
    info.add_metric([__version__], 1)
    return [*gauges, dropped, info]


def _of_member(member: Member) -> Iterator[Metric]:
    """How a replica stands, of which there are several."""
    for name, documentation, value in (
        ("replicas", "Replicas that live, as this one sees it.", member.replicas),
        ("leading", "1 while this replica leads.", member.leads),
        ("engine_up", "1 while this replica can use Redis.", member.engine_is_up),
        ("held", "Requests that wait at this replica.", member.waiting),
    ):
        yield GaugeMetricFamily(f"gateway_queue_{name}", documentation, value=float(value))
    yield CounterMetricFamily(
        "gateway_queue_eras", "How often Redis lost its state, or began.", value=member.eras
    )


def _values(bot: Seen) -> Iterator[tuple[str, list[str], float]]:
    """A bot's gauges: names from GAUGES, labels besides the bot, and values."""
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
