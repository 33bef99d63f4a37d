"""A server without tasks: the pace, the line and the allowance on a simulated clock."""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from itertools import count
from operator import itemgetter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from gateway_queue.queue.rules.allowance import (
    DAY,
    Allowance,
    CountedAllowance,
    ReadAllowance,
    Reserve,
    SessionStartLimit,
)
from gateway_queue.queue.rules.line import Line, Move
from gateway_queue.queue.rules.orders import Orders, Pause, Slower
from gateway_queue.queue.rules.pace import Layout, Pace, Spacing, late
from gateway_queue.queue.starts import CONFIRMABLE

SEAT_TTL = 60.0
RESERVE = 2

# Few enough to meet each other, in each of the layouts and after a change.
shards = st.sampled_from([None, 0, 1, 4, 16, 17, 20])
layouts = st.sampled_from([Layout(1), Layout(16), Layout(6, cap=4), Layout(16, cap=4)])


@dataclass(eq=False)
class Client:
    shard: int | None
    confirms: bool
    granted_at: float | None = None


@dataclass(eq=False)
class Grant:
    """``era`` counts restarts and resizes: any grant from before one concerns all buckets."""

    client: Client
    number: int
    at: float
    era: int
    spacing: Spacing  # that was in force
    was_before_restart: bool = False
    received_at: float | None = None  # when the client had the answer at the latest
    confirmed: list[tuple[float, float]] = field(default_factory=list)  # when; seconds after it


class AnyOrder(RuleBasedStateMachine):
    """Clients come and leave; the server is slow, is resized, restarted, steered, reads limits."""

    @initialize(
        now=st.floats(0, 1e6) | st.floats(1e9, 2e9),
        interval=st.just(5.5) | st.floats(0.1, 60),
        with_token=st.booleans(),
        total=st.sampled_from([4, 40]),
        layout=layouts,
    )
    def first_start(
        self,
        now: float,
        interval: float,
        with_token: bool,  # noqa: FBT001
        total: int,
        layout: Layout,
    ) -> None:
        self.now = now
        self.spacing = Spacing.of(interval)
        self.with_token = with_token
        self.total = total
        self.stall = 0.0
        self.era = 0
        self.numbers = count(1)
        self.first_numbers = count(0, -1)
        self.grants: list[Grant] = []
        self.open(layout)

    def open(self, layout: Layout) -> None:
        self.layout = layout
        self.era += 1
        self.here: list[Client] = []
        self.in_hand: list[tuple[float, Grant]] = []
        self.orders = Orders()
        opens_at = late(self.now + self.spacing.interval)
        self.paces = [Pace(self.spacing, opens_at) for _ in range(layout.buckets)]
        self.lines = self.new_lines()
        journal = deque(grant.at for grant in self.grants if grant.at >= self.now - DAY)
        self.allowance: Allowance = (
            ReadAllowance(Reserve(RESERVE), grants=journal)
            if self.with_token
            else CountedAllowance(Reserve(RESERVE), total=self.total, grants=journal)
        )
        self.read(used=0, took=0.0)

    def new_lines(self) -> list[Line[Client]]:
        return [Line(self.numbers, SEAT_TTL) for _ in range(self.layout.buckets)]

    def line_of(self, client: Client) -> Line[Client]:
        return self.lines[self.layout.bucket_of(client.shard)]

    # What happens to the server

    @rule(crowd=st.lists(st.builds(Client, shards, st.booleans()), min_size=1, max_size=4))
    def arrive(self, crowd: list[Client]) -> None:
        for client in crowd:
            self.here.append(client)
            self.line_of(client).arrive(client, self.now)
        self.run_until(self.now)

    @precondition(lambda self: self.here)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        client = data.draw(st.sampled_from(self.here))
        self.here.remove(client)
        self.line_of(client).leave(client, self.now)

    @precondition(lambda self: self.confirmable())
    @rule(data=st.data())
    def confirm(self, data: st.DataObject) -> None:
        grant = data.draw(st.sampled_from(self.confirmable()))
        bucket = self.layout.bucket_of(grant.client.shard)
        is_latest = grant is self.latest_of(bucket)
        seconds = (grant.spacing if is_latest else self.spacing).confirmed
        grant.confirmed.append((self.now, seconds))
        self.paces[bucket].confirm(grant.number, self.now)

    def latest_of(self, bucket: int) -> Grant | None:
        """The latest grant of this bucket, unless that was in another era."""
        return next(
            (
                grant
                for grant in reversed(self.grants)
                if grant.era == self.era and self.layout.bucket_of(grant.client.shard) == bucket
            ),
            None,
        )

    def confirmable(self) -> list[Grant]:
        """The latest grant of each shard."""
        latest = {grant.client.shard: grant for grant in self.grants}
        latest.pop(None, None)
        return [grant for grant in latest.values() if grant.at > self.now - CONFIRMABLE]

    # What an operator orders

    @rule(seconds=st.floats(0, 60) | st.just(math.inf))
    def pause(self, seconds: float) -> None:
        until = self.now + seconds
        self.orders.pause = Pause(self.now, until, reason="", survives_restart=False)

    @rule()
    def resume(self) -> None:
        self.orders.pause = None

    @rule(times=st.floats(1, 4), seconds=st.floats(0, 60) | st.just(math.inf))
    def slow_down(self, times: float, seconds: float) -> None:
        interval, until = self.spacing.interval * times, self.now + seconds
        self.orders.slower = Slower(self.now, until, interval, survives_restart=False)
        self.follow_orders()

    @rule()
    def speed_up(self) -> None:
        self.orders.slower = None
        self.follow_orders()

    def end_orders(self) -> None:
        assert self.orders.end(self.now)
        self.follow_orders()

    def follow_orders(self) -> None:
        for pace in self.paces:
            pace.spacing = self.orders.spacing(self.spacing)

    @rule(shard=shards.filter(lambda shard: shard is not None))
    def put_first_or_take_back(self, shard: int) -> None:
        line = self.lines[self.layout.bucket_of(shard)]
        place = line.of(shard)
        if place is None:
            return
        if place.is_first:
            line.take_back(shard)
        else:
            line.put_first(shard, next(self.first_numbers))
            assert not place.requests or line.position(place.requests[-1]) == 1

    @rule(shard=shards.filter(lambda shard: shard is not None))
    def drop(self, shard: int) -> None:
        line = self.lines[self.layout.bucket_of(shard)]
        if line.of(shard) is not None:
            for client in line.drop(shard).requests:
                self.here.remove(client)

    # What happens next

    @precondition(lambda self: self.due())
    @rule(seconds=st.floats(0, 1))
    def the_next_one_is_granted_or_has_its_answer(self, seconds: float) -> None:
        at, _ = min(self.due(), key=itemgetter(0))
        self.run_until(max(self.now, at) + seconds)

    @rule(seconds=st.floats(0, 20) | st.floats(0, 20) | st.floats(0, DAY))
    def time_passes(self, seconds: float) -> None:
        self.run_until(self.now + seconds)

    @rule(seconds=st.just(0.0) | st.floats(0, 20))
    def answers_take(self, seconds: float) -> None:
        self.stall = seconds

    @precondition(lambda self: self.with_token)
    @rule(used=st.integers(0, 40), took=st.floats(0, 5))
    def read(self, used: int, took: float) -> None:
        if isinstance(self.allowance, ReadAllowance):
            sent_at = self.now
            self.run_until(self.now + took)
            remaining = max(0, self.total - used)
            self.allowance.read(SessionStartLimit(self.total, remaining, 0.0, 1), sent_at)

    def something_was_granted(self) -> bool:
        return bool(self.grants) and self.grants[-1].era == self.era

    @precondition(something_was_granted)
    @rule(layout=layouts)
    def resize(self, layout: Layout) -> None:
        self.era += 1
        self.layout = layout
        self.paces = [Pace.merged(self.paces) for _ in range(layout.buckets)]
        old, self.lines = self.lines, self.new_lines()
        Move(old, self.lines, layout.bucket_of).some(10**6)

    @precondition(something_was_granted)
    @rule(layout=layouts, seconds=st.just(0.0) | st.floats(0, 10))
    def restart(self, layout: Layout, seconds: float) -> None:
        for _, grant in self.in_hand:
            grant.received_at = self.now
        for grant in self.grants:
            grant.was_before_restart = True
        self.now += seconds
        self.open(layout)

    # What the buckets' tasks do

    def run_until(self, end: float) -> None:
        while True:
            at, act = min(self.due(), key=itemgetter(0), default=(math.inf, None))
            if at > end or act is None:
                break
            self.now = max(self.now, at)
            act()
        self.now = max(self.now, end)

    def due(self) -> list[tuple[float, Callable[[], None]]]:
        hand_overs = [(at, partial(self.hand_over, at, grant)) for at, grant in self.in_hand]
        grants = [
            (max(pace.ready_at, self.may_grant_at()), partial(self.grant, bucket))
            for bucket, (pace, line) in enumerate(zip(self.paces, self.lines, strict=True))
            if line.waiting
        ]
        ends = [(self.orders.next_end_at, partial(self.end_orders))]
        return [(at, act) for at, act in [*hand_overs, *grants, *ends] if at < math.inf]

    def may_grant_at(self) -> float:
        return max(self.allowance.more_at(self.now), self.orders.paused_until(self.now))

    def grant(self, bucket: int) -> None:
        line, pace = self.lines[bucket], self.paces[bucket]
        line.forget(self.now)
        client = line.next(self.now)
        assert client is not None
        self.assert_may_identify(client, bucket)
        line.grant(client)
        grant = Grant(client, len(self.grants), self.now, self.era, pace.spacing)
        pace.grant(grant.number, self.now, confirm=client.confirms)
        self.allowance.spend(self.now)
        self.here.remove(client)
        client.granted_at = self.now
        self.grants.append(grant)
        self.in_hand.append((self.now + self.stall, grant))

    def hand_over(self, at: float, grant: Grant) -> None:
        self.in_hand.remove((at, grant))
        grant.received_at = self.now
        for pace in self.paces:
            pace.handed_over(grant.number, self.now)

    # What must be true

    def assert_may_identify(self, client: Client, bucket: int) -> None:
        assert client in self.here
        assert self.orders.pause is None or self.orders.pause.until <= self.now
        for earlier in self.grants:
            same_bucket = (
                self.share_key(earlier.client, client)
                or self.layout.bucket_of(earlier.client.shard) == bucket
            )
            if same_bucket or earlier.era < self.era:
                self.assert_is_long_enough_ago(earlier)
            if same_bucket and not earlier.was_before_restart:
                for at, seconds in earlier.confirmed:
                    assert self.since(at) >= seconds
        if not self.with_token:
            day = [grant for grant in self.grants if self.since(grant.at) <= DAY]
            assert len(day) < self.total - RESERVE

    def assert_is_long_enough_ago(self, earlier: Grant) -> None:
        spacing = self.spacing if earlier.was_before_restart else earlier.spacing
        if earlier.was_before_restart or not earlier.client.confirms:
            assert self.since(earlier.at) >= spacing.interval
        confirmed_at = [at for at, _ in earlier.confirmed]
        received_at = [at for at in (earlier.received_at, *confirmed_at) if at is not None]
        assert received_at, "its answer is still in hand"
        if earlier.confirmed:
            seconds = min(spacing.interval, spacing.confirmed)
        elif earlier.was_before_restart:
            seconds = spacing.interval
        else:
            seconds = spacing.after_grant(confirm=earlier.client.confirms)
        assert self.since(min(received_at)) >= seconds

    def since(self, at: float) -> Fraction:
        return Fraction(self.now) - Fraction(at)

    def share_key(self, one: Client, other: Client) -> bool:
        if one.shard is None or other.shard is None:
            return False
        return (one.shard - other.shard) % self.layout.max_concurrency == 0

    def teardown(self) -> None:
        """Nobody waits for ever: the number ahead decides, once the allowance permits."""
        if not hasattr(self, "lines"):
            return
        waiting = [(client, self.line_of(client).position(client)) for client in self.here]
        self.orders.pause = None
        spacings = [pace.spacing for pace in self.paces]
        spacings += [grant.spacing for _, grant in self.in_hand]
        hold = max(spacing.hold for spacing in spacings)
        opens_at = max(
            self.now,
            *(pace.opens_at for pace in self.paces),
            *(at + hold for at, _ in self.in_hand),
        )
        self.stall = 0.0
        if isinstance(self.allowance, ReadAllowance):
            self.allowance.read(SessionStartLimit(10_000, 10_000, 0.0, 1), self.now)
        else:
            # Each day at least as many get in as the day may have.
            opens_at += DAY * math.ceil(len(waiting) / (self.total - RESERVE))
        self.run_until(opens_at + hold * len(waiting) + 1)
        assert not self.here
        for client, position in waiting:
            assert client.granted_at is not None
            rounding = 1e-6 * len(waiting)  # of a clock at 2e9, two steps for each grant
            ahead = position - 1 if self.with_token else len(waiting)
            assert client.granted_at <= opens_at + ahead * hold + rounding


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=150, stateful_step_count=50)
