"""Whatever clients, Discord and operators do, in whatever order: the queue keeps its promises."""

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from math import sqrt
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import trio
from asgi import Call, Client
from hypothesis import given, settings
from hypothesis import strategies as st
from journals import journal_at
from serving import GATEWAY, INTERVAL, MOMENT, limit, serving
from structlog.testing import capture_logs
from virtual import run_virtually

from gateway_queue.queue.queue import CONFIRM_WITHIN
from gateway_queue.queue.rules.allowance import READING_LAG
from gateway_queue.queue.rules.pace import AFTER_CONFIRMATION, CONFIRM_HOLD, Layout


@dataclass(frozen=True)
class Step:
    do: Literal[
        "ask",
        "poll",
        "ask and confirm",
        "leave",
        "confirm",
        "pass",
        "refresh",
        "resize",
        "restart",
    ]
    shard: int
    number: int


WHAT = ["ask"] * 4 + ["pass"] * 4 + ["poll", "ask and confirm", "leave", "leave", "confirm"]
STEPS = st.lists(
    st.builds(
        Step,
        st.sampled_from([*WHAT, "refresh", "resize", "restart"]),
        shard=st.integers(0, 7),
        number=st.integers(1, 16),
    ),
    min_size=20,
    max_size=60,
)


@dataclass(frozen=True)
class Event:
    """A grant or a confirmation: other grants of its bucket keep ``seconds`` off it."""

    at: float
    shard: int
    seconds: float
    is_grant: bool


@dataclass
class World:
    """What happened so far."""

    cap: int | None
    layouts: list[tuple[float, Layout]] = field(default_factory=list)  # since when
    waiting: dict[int, Call] = field(default_factory=dict)  # at most one request a shard
    calls: list[tuple[int, str, Call]] = field(default_factory=list)
    confirmations: list[Event] = field(default_factory=list)
    readings: list[tuple[float, int]] = field(default_factory=list)  # and what remained

    def ask(self, client: Client, shard: int, query: str = "") -> None:
        if shard not in self.waiting or self.waiting[shard].ended.is_set():
            self.waiting[shard] = client.ask(f"/?shard={shard}{query}")
            self.calls.append((shard, query, self.waiting[shard]))

    def start(self) -> None:
        """The server starts: like a change of buckets, this parts now from before."""
        layout = self.layouts[-1][1] if self.layouts else Layout(1, self.cap)
        self.layouts.append((trio.current_time(), layout))

    def read_limit(self, client: Client, remaining: int = 9000) -> None:
        now = trio.current_time()
        max_concurrency = self.layouts[-1][1].max_concurrency
        client.queue.read(limit(remaining, 9000, max_concurrency), GATEWAY, now)
        self.readings.append((now, remaining))

    def change(self, max_concurrency: int) -> None:
        layout = Layout(max_concurrency, self.cap)
        if layout != self.layouts[-1][1]:
            self.layouts.append((trio.current_time(), layout))

    def confirmed(self, shard: int) -> None:
        """What is said of a grant counts for a minute."""
        now = trio.current_time()
        granted_at = max(grant.at for grant in self.grants() if grant.shard == shard)
        if now <= granted_at + CONFIRM_WITHIN:
            event = Event(now, shard, AFTER_CONFIRMATION, is_grant=False)
            self.confirmations.append(event)

    def grants(self) -> list[Event]:
        found = []
        for shard, query, call in self.calls:
            if call.answer is not None and call.answer.status == 200:
                at = call.answer.at
                seconds = INTERVAL
                if "confirm" in query:
                    seconds = CONFIRM_HOLD
                    said = [c.at for c in self.confirmations if c.shard == shard and c.at >= at]
                    seconds = min([seconds] + [c + AFTER_CONFIRMATION - at for c in said])
                found.append(Event(at, shard, seconds, is_grant=True))
        return sorted(found, key=lambda grant: grant.at)

    def too_early(self) -> Iterator[tuple[Event, Event]]:
        """Grants that came too soon after another grant, or after a confirmation."""
        grants = self.grants()
        for grant in grants:
            since, layout = [entry for entry in self.layouts if entry[0] <= grant.at][-1]
            for earlier in [*grants, *self.confirmations]:
                together = earlier.at < since or (
                    layout.bucket_of(earlier.shard) == layout.bucket_of(grant.shard)
                )
                is_earlier = earlier is not grant and earlier.at <= grant.at
                if is_earlier and together and grant.at - earlier.at < earlier.seconds - 1e-6:
                    yield earlier, grant

    def too_many(self) -> Iterator[tuple[float, int]]:
        """Readings after which more was granted than they left."""
        grants = [grant.at for grant in self.grants()]
        for (read_at, remaining), (next_at, _) in pairwise([*self.readings, (math.inf, 0)]):
            unseen = sum(read_at - READING_LAG <= at < read_at for at in grants)
            after = sum(read_at <= at < next_at for at in grants)
            if after > max(0, remaining - unseen):
                yield read_at, after


async def live_on(world: World, steps: list[Step], journal: Path) -> None:
    """Life after life of the server, until everybody is in."""
    await live(world, steps, journal)
    while steps or any(call.answer is None for call in world.waiting.values()):
        await live(world, steps, journal)


async def live(world: World, steps: list[Step], journal: Path) -> None:
    """One life of the server: until a restart, or until everybody is in."""
    async with serving(
        token=True, cap=world.cap, journal=journal_at(journal), seat_ttl=30
    ) as client:
        world.start()
        world.read_limit(client)
        for shard, call in world.waiting.items():
            if call.answer is None:
                world.ask(client, shard)
        while steps:
            step = steps.pop(0)
            if step.do == "restart":
                return
            await take(step, world, client)
        world.read_limit(client)
        present = [call for call in world.waiting.values() if not call.ended.is_set()]
        with trio.fail_after((len(present) + 2) * CONFIRM_HOLD):
            for call in present:
                await call.ended.wait()
                assert call.answer is not None


async def take(step: Step, world: World, client: Client) -> None:
    match step.do:
        case "ask":
            world.ask(client, step.shard)
        case "poll":
            world.ask(client, step.shard, f"&wait={step.number}")
        case "ask and confirm":
            world.ask(client, step.shard, "&confirm=true")
        case "leave" if step.shard in world.waiting:
            # Somebody who leaves in the very instant of the grant is a loss: see to it that
            # leaving has an instant of its own.
            await trio.sleep(MOMENT)
            call = world.waiting.pop(step.shard)
            call.leave()
            await call.ended.wait()
        case "confirm" if client.queue.confirm(step.shard):
            world.confirmed(step.shard)
        case "pass":
            # No multiple of an interval: never the very instant of a grant.
            await trio.sleep(step.number * sqrt(2) / 3)
        case "refresh":
            world.read_limit(client, remaining=step.number % 4)
        case "resize":
            world.change(1 + step.number % 4)
            world.read_limit(client)


@settings(max_examples=100)
@given(steps=STEPS, cap=st.none() | st.integers(1, 5))
def test_no_order_of_events_breaks_a_promise(steps: list[Step], cap: int | None) -> None:
    world = World(cap)
    with TemporaryDirectory() as folder, capture_logs():
        path = Path(folder) / "journal.sqlite"
        run_virtually(partial(live_on, world, list(steps), path))
        with closing(journal_at(path)) as journal:
            spent = len(journal.last_day())
    assert list(world.too_early()) == []
    assert list(world.too_many()) == []
    assert spent == len(world.grants())  # none for somebody who had left
