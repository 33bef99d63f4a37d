"""The live feed of the operator's page: one picture a second, made once for all viewers.

While nobody watches, only a sample for the history is taken now and then. Messages are
server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html): first, and
for viewers that missed one, the whole picture; after that, what has changed.
"""

import json
from collections import deque
from collections.abc import Callable
from typing import Any

import structlog
import trio

from gateway_queue import __version__
from gateway_queue.queue.queue import Queue
from gateway_queue.watch.happened import in_words
from gateway_queue.watch.metrics import BotMetrics
from gateway_queue.watch.picture import Picture, changes, paint, summarize
from gateway_queue.watch.status import Page

log = structlog.get_logger()

TICK = 1.0

# More would be a flood, or forgotten tabs.
MOST_VIEWERS = 32

# The history goes back an hour: seconds between samples, and their number.
SAMPLE = 10.0
SAMPLES = 360

# Viewers served in one go: sending takes time, and a grant may be due.
PORTION = 4

# Seconds to pause after a failure, which is likely to recur.
PAUSE = 5.0


class FullError(Exception):
    """The maximum number of viewers is watching."""


class Viewer:
    """One viewer. Messages are not queued, so a viewer that takes none costs nothing."""

    def __init__(self, feed: "Feed") -> None:
        self._feed = feed
        self._seen = -1  # the number of the last picture it got
        self._is_over = False
        self._news = trio.Event()

    async def next(self) -> bytes | None:
        """Wait for the next message; None at the end of the feed."""
        await self._news.wait()
        if self._is_over:
            return None
        self._news = trio.Event()
        message = self._feed.message_after(self._seen)
        self._seen = self._feed.number
        return message

    def tell(self) -> None:
        """Wake the viewer, because there is a new picture."""
        self._news.set()

    def end(self) -> None:
        """End the feed for this viewer."""
        self._is_over = True
        self._news.set()

    def leave(self) -> None:
        """It looks no more."""
        self._feed.viewers.discard(self)


class Glance:
    """A viewer of all bots, which gets the shared overview once a second."""

    def __init__(self, feed: "BotsFeed") -> None:
        self._feed = feed
        self._next_at = trio.current_time()

    async def next(self) -> bytes:
        """Wait until the next message is due, and return it."""
        await trio.sleep_until(self._next_at)
        self._next_at = trio.current_time() + TICK
        return b"event: bots\ndata: %b\n\n" % await self._feed.overview.body()

    def leave(self) -> None:
        """It looks no more."""
        self._feed.viewers.discard(self)


class BotsFeed:
    """The feed about all bots. The overview is only made while somebody watches."""

    def __init__(self, overview: Page) -> None:
        self.overview = overview
        self.viewers: set[Glance] = set()

    def enter(self) -> Glance:
        """Let a viewer in, who has to leave in the end. Raises FullError."""
        if len(self.viewers) >= MOST_VIEWERS:
            raise FullError
        viewer = Glance(self)
        self.viewers.add(viewer)
        return viewer


class Feed:
    """The feed about one queue, for all its viewers."""

    def __init__(
        self, queue: Queue, metrics: BotMetrics, can_be_steered: Callable[[], bool]
    ) -> None:
        self.viewers: set[Viewer] = set()
        self.number = 0  # of the latest picture
        self._queue = queue
        self._metrics = metrics
        self._can_be_steered = can_be_steered
        self._wanted = trio.Event()
        self._made_at = -TICK
        self._picture = Picture(b"", 0)
        self._summary: dict[str, Any] = {}
        self._told = 0  # the number of the last event included in a picture
        self._change: bytes | None = None  # since the last picture; None: all is new
        self._whole: bytes | None = None  # made on demand
        self._sampled_at = trio.current_time()
        self._samples: deque[tuple[int, int]] = deque(maxlen=SAMPLES)  # waiting; granted since

    def enter(self) -> Viewer:
        """Let a viewer in, who has to leave in the end. Raises FullError."""
        if len(self.viewers) >= MOST_VIEWERS:
            raise FullError
        viewer = Viewer(self)
        self.viewers.add(viewer)
        if self._is_fresh():
            viewer.tell()
        self._wanted.set()
        return viewer

    async def run(self) -> None:
        """Make pictures while somebody watches. Never returns; a failure only ends the viewers."""
        try:
            while True:
                try:
                    await self._run()
                except Exception:
                    log.exception("feed_failed")
                    self._made_at = -TICK
                    self._end_viewers()
                    await trio.sleep(PAUSE)
        finally:
            self._end_viewers()

    def message_after(self, seen: int) -> bytes:
        """The message that updates the picture with this number to the latest one."""
        if seen == self.number - 1 and self._change is not None:
            return self._change
        if self._whole is None:
            self._whole = self._make_whole()
        return self._whole

    async def _run(self) -> None:
        while True:
            if self.viewers:
                await self._make_picture()
                await self._tell_viewers()
                await trio.sleep_until(self._made_at + TICK)
            else:
                self._take_samples()
                self._wanted = trio.Event()
                with trio.move_on_at(self._sampled_at + SAMPLE):
                    await self._wanted.wait()

    def _is_fresh(self) -> bool:
        return trio.current_time() < self._made_at + TICK

    async def _make_picture(self) -> None:
        picture = await paint(self._queue, self._metrics)
        summary = await summarize(self._queue, self._metrics)
        summary |= {
            "beside": picture.beside,
            "operator": self._can_be_steered(),
            "viewers": len(self.viewers),
        }
        await trio.lowlevel.checkpoint()
        # From here on without a checkpoint, so that all viewers get the same changes.
        samples, last = self._take_samples(), self._metrics.happenings.number
        change = {
            "summary": summary,
            "changed": changes(self._picture.shards, picture.shards),
            "samples": samples,
            "events": self._in_words(self._told, last),
        }
        has_as_many = len(self._picture.shards) == len(picture.shards)
        self._change = _message("change", change) if has_as_many else None
        self._whole = None
        self._picture, self._summary, self._told = picture, summary, last
        self._made_at = trio.current_time()
        self.number += 1

    def _make_whole(self) -> bytes:
        now = trio.current_time()
        start = {
            "ago": round(now - self._queue.started_at, 1),
            "level": "info",
            "text": f"The server started ({__version__})",
        }
        whole = {
            "summary": self._summary,
            "shards": self._picture.shards.decode(),
            "history": {
                "every": SAMPLE,
                "age": round(now - self._sampled_at, 1),
                "samples": list(self._samples),
            },
            "events": [*self._in_words(0, self._told), start],
        }
        return _message("whole", whole)

    async def _tell_viewers(self) -> None:
        for number, viewer in enumerate(list(self.viewers), start=1):
            viewer.tell()
            if number % PORTION == 0:
                await trio.lowlevel.checkpoint()

    def _end_viewers(self) -> None:
        for viewer in self.viewers:
            viewer.end()

    def _take_samples(self) -> list[tuple[int, int]]:
        """Take the samples that are due (several if the process was stopped); returns them."""
        taken = []
        while trio.current_time() >= self._sampled_at + SAMPLE:
            granted = self._granted_since(self._sampled_at)
            self._sampled_at += SAMPLE
            waiting = sum(bucket.line.waiting for bucket in self._queue.buckets)
            taken.append((waiting, granted - self._granted_since(self._sampled_at)))
        self._samples += taken
        return taken

    def _granted_since(self, instant: float) -> int:
        return sum(1 for _ in self._queue.starts.last_day.since(instant))

    def _in_words(self, after: int, last: int) -> list[dict[str, Any]]:
        """The events after number ``after``, up to number ``last``, in words."""
        now = trio.current_time()
        found = []
        for happening in self._metrics.happenings.between(after, last):
            level, text = in_words(happening.event)
            found.append({"ago": round(now - happening.at, 1), "level": level, "text": text})
        return found


def _message(event: str, data: dict[str, Any]) -> bytes:
    return f"event: {event}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
