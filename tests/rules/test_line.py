"""The order of seats against a model that looks at everything each time."""

import math
import time
import tracemalloc
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway_queue.queue.rules.line import Line, respread
from gateway_queue.queue.rules.pace import Layout

SEAT_TTL = 60.0

# Few, so that several clients ask for the same one.
shards = st.sampled_from([0, 1, 2, None])
layouts = st.builds(Layout, st.integers(1, 3), st.none() | st.integers(1, 2))


@dataclass(eq=False)
class Client:
    shard: int | None


@dataclass
class Seats:
    """What the model knows of one shard: its seats, and its clients from old to new."""

    shard: int | None
    numbers: list[int] = field(default_factory=list)
    clients: list[Client] = field(default_factory=list)
    left_at: float = -math.inf

    @property
    def taken(self) -> list[tuple[int, Client]]:
        """The newest client has the best seat."""
        return list(zip(sorted(self.numbers), reversed(self.clients), strict=False))

    @property
    def absent(self) -> int:
        return len(self.numbers) - len(self.clients)


class AnyOrder(RuleBasedStateMachine):
    """Clients come, leave and come back while grants, forgetting and resizes go on."""

    @initialize(layout=layouts)
    def start(self, layout: Layout) -> None:
        self.now = 1000.0
        self.numbers = count(1)
        self.model: dict[Hashable, Seats] = {}
        self.seats_given = 0
        self.layout = layout
        self.lines = self.new_lines()

    def new_lines(self) -> list[Line[Client]]:
        return [Line(self.numbers, SEAT_TTL) for _ in range(self.layout.buckets)]

    def line_of(self, shard: int | None) -> Line[Client]:
        return self.lines[self.layout.bucket_of(shard)]

    def seats_of(self, client: Client) -> Seats:
        key = client if client.shard is None else client.shard
        return self.model.setdefault(key, Seats(client.shard))

    def order(self, bucket: int) -> list[Client]:
        """Who is here, the best seat first."""
        taken = [
            pair
            for seats in self.model.values()
            if self.layout.bucket_of(seats.shard) == bucket
            for pair in seats.taken
        ]
        return [client for _, client in sorted(taken, key=lambda pair: pair[0])]

    def here(self) -> list[Client]:
        return [client for seats in self.model.values() for client in seats.clients]

    @rule(shard=shards)
    def arrive(self, shard: int | None) -> None:
        client = Client(shard)
        seats = self.seats_of(client)
        returns = seats.absent > 0
        if not returns:
            self.seats_given += 1
            seats.numbers.append(self.seats_given)
        seats.clients.append(client)
        assert self.line_of(shard).arrive(client) == returns

    @precondition(lambda self: self.here())
    @rule(data=st.data(), seconds=st.floats(0, 5))
    def leave(self, data: st.DataObject, seconds: float) -> None:
        for client in data.draw(st.lists(st.sampled_from(self.here()), min_size=1, unique=True)):
            seats = self.seats_of(client)
            seats.clients.remove(client)
            seats.left_at = self.now
            if client.shard is None:
                del self.model[client]
            self.line_of(client.shard).leave(client, self.now)
            self.now += seconds

    @precondition(lambda self: self.here())
    @rule(data=st.data(), slowed_down=st.sets(shards))
    def grant(self, data: st.DataObject, slowed_down: set[int | None]) -> None:
        bucket = data.draw(st.integers(0, self.layout.buckets - 1))
        allowed = [client for client in self.order(bucket) if client.shard not in slowed_down]
        client = self.lines[bucket].next(lambda shard: shard not in slowed_down)
        assert client is (allowed[0] if allowed else None)
        if client is not None:
            seats = self.seats_of(client)
            seats.numbers.remove(min(seats.numbers))
            seats.clients.remove(client)
            self.lines[bucket].grant(client)

    @rule(seconds=st.floats(0, 25) | st.just(SEAT_TTL))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def forget(self) -> None:
        for seats in self.model.values():
            if seats.left_at + SEAT_TTL <= self.now:
                seats.numbers = [number for number, _ in seats.taken]
        for line in self.lines:
            line.forget(self.now)

    @rule(layout=layouts)
    def resize(self, layout: Layout) -> None:
        old, self.layout = self.lines, layout
        self.lines = self.new_lines()
        respread(old, self.lines, layout.bucket_of)
        assert not any(line.waiting or line.disband() for line in old)

    @invariant()
    def the_lines_agree_with_the_model(self) -> None:
        for bucket, line in enumerate(self.lines):
            order = self.order(bucket)
            assert line.waiting == len(order)
            assert line.away == sum(
                seats.absent
                for seats in self.model.values()
                if self.layout.bucket_of(seats.shard) == bucket
            )
            assert list(line) == order
            assert line.next() is (order[0] if order else None)
            assert [line.position(client) for client in order] == [*range(1, len(order) + 1)]
            assert line.forgets_at == min(
                (
                    seats.left_at + SEAT_TTL
                    for seats in self.model.values()
                    if seats.absent and self.layout.bucket_of(seats.shard) == bucket
                ),
                default=math.inf,
            )

    def teardown(self) -> None:
        """Nobody present was lost: everybody is granted, in order, and nothing stays behind."""
        if not hasattr(self, "lines"):
            return
        for bucket, line in enumerate(self.lines):
            order = self.order(bucket)
            granted = []
            while (client := line.next()) is not None:
                line.grant(client)
                granted.append(client)
            assert granted == order
            line.forget(self.now + SEAT_TTL)
            assert line.away == 0
            assert line.disband() == []


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=150, stateful_step_count=50)


@pytest.fixture
def line() -> Line[Client]:
    return Line(count(1), SEAT_TTL)


def drain(line: Line[Client]) -> Iterator[int | None]:
    """The shards in the order in which they are granted."""
    while (client := line.next()) is not None:
        line.grant(client)
        yield client.shard


def test_who_comes_first_is_served_first(line: Line[Client]) -> None:
    for shard in (3, 1, None, 2):
        line.arrive(Client(shard))
    assert list(drain(line)) == [3, 1, None, 2]


def test_whoever_comes_back_has_the_old_place(line: Line[Client]) -> None:
    first = Client(1)
    line.arrive(first)
    line.arrive(Client(2))
    line.leave(first, now=10.0)
    assert line.waiting == 1
    line.arrive(Client(1))
    assert list(drain(line)) == [1, 2]


def test_a_seat_is_kept_through_the_grants_of_others(line: Line[Client]) -> None:
    away, waiting = Client(1), Client(2)
    for client in (away, waiting, Client(3)):
        line.arrive(client)
    line.leave(away, now=10.0)
    line.grant(waiting)
    line.arrive(Client(1))
    assert list(drain(line)) == [1, 3]


def test_a_seat_is_forgotten_after_its_time_to_live(line: Line[Client]) -> None:
    away = Client(1)
    line.arrive(away)
    line.arrive(Client(2))
    line.leave(away, now=10.0)
    assert line.forgets_at == 70.0
    line.forget(now=70.0)
    assert line.forgets_at == math.inf
    line.arrive(Client(1))
    assert list(drain(line)) == [2, 1]


def test_the_newest_of_two_requests_for_a_shard_has_the_better_seat(line: Line[Client]) -> None:
    ghost, other, newest = Client(1), Client(2), Client(1)
    for client in (ghost, other, newest):
        line.arrive(client)
    assert [line.position(client) for client in (newest, other, ghost)] == [1, 2, 3]
    line.leave(ghost, now=10.0)
    assert line.next() is newest
    assert list(drain(line)) == [1, 2]


def test_a_request_without_a_shard_keeps_no_seat(line: Line[Client]) -> None:
    client = Client(None)
    line.arrive(client)
    line.leave(client, now=10.0)
    assert line.disband() == []


def test_a_shard_that_may_not_go_holds_up_nobody_and_keeps_its_rank(line: Line[Client]) -> None:
    for shard in (1, 2, 3):
        line.arrive(Client(shard))
    client = line.next(lambda shard: shard != 1)
    assert client is not None
    assert client.shard == 2
    line.grant(client)
    assert list(drain(line)) == [1, 3]


def test_after_a_resize_the_longest_gone_are_still_forgotten_first() -> None:
    numbers = count(1)
    old = [Line[Client](numbers, SEAT_TTL) for _ in range(2)]
    for shard, left_at in ((0, 20.0), (1, 10.0)):
        client = Client(shard)
        old[shard].arrive(client)
        old[shard].leave(client, now=left_at)
    line = Line[Client](numbers, SEAT_TTL)
    respread(old, [line], lambda _: 0)
    assert line.forgets_at == 70.0
    line.forget(now=70.0)
    assert line.forgets_at == 80.0


def test_100_000_absent_seats_cost_little(line: Line[Client]) -> None:
    """Per request and grant 10 microseconds were measured, and 30 MB of 45 came back."""
    absent = [Client(shard) for shard in range(100_000)]
    tracemalloc.start()
    for client in absent:
        line.arrive(client)
    for client in absent:
        line.leave(client, now=0.0)
    full, _ = tracemalloc.get_traced_memory()

    began_at = time.perf_counter()
    for shard in range(100_000, 101_000):
        client = Client(shard)
        line.arrive(client)
        line.forget(now=1.0)
        assert line.next() is client
        line.grant(client)
    assert time.perf_counter() - began_at < 1

    slowest = 0.0
    while line.forgets_at < math.inf:
        began_at = time.perf_counter()
        line.forget(now=SEAT_TTL)
        slowest = max(slowest, time.perf_counter() - began_at)
    assert slowest < 0.1

    left, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert left < full / 2
    assert line.disband() == []
