"""A plan keeps what it says: it is compared with a launch that is simulated grant by grant."""

import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_queue.operate.plan import (
    MOST_SHARDS,
    Ahead,
    Limits,
    Plan,
    plan,
    resized,
    shortest_interval,
)
from gateway_queue.queue.rules.allowance import MOST_BUCKETS
from gateway_queue.queue.rules.pace import Layout

layouts = st.builds(Layout, st.integers(1, 40), st.none() | st.integers(1, 50))
counts = st.integers(1, 300)
intervals = st.floats(0.1, 60)


def limits(left: int = 10**7, reserve: int = 50) -> Limits:
    return Limits("discord", total=10**7, remaining=left + reserve, reserve=reserve, reset_in=60.0)


def launched(
    shards: int, layout: Layout, interval: float, ahead: list[Ahead], left: int
) -> tuple[list[float], int]:
    """When each of the shards that got in was granted, and how many of all did not get in.

    Whoever's bucket opens first is granted next, while there are session starts.
    """
    opens_in = [found.opens_in for found in ahead]
    before = [found.waiting for found in ahead]
    coming = Counter(layout.bucket_of(shard) for shard in range(shards))
    granted_in = []
    while left and (open_ones := [b for b in range(len(ahead)) if before[b] or coming[b]]):
        bucket = min(open_ones, key=lambda b: opens_in[b])
        if before[bucket]:
            before[bucket] -= 1
        else:
            coming[bucket] -= 1
            granted_in.append(opens_in[bucket])
        opens_in[bucket] += interval
        left -= 1
    return granted_in, sum(before) + coming.total()


@given(layout=layouts, shards=st.integers(0, 500))
def test_each_shard_is_in_one_bucket_and_the_first_has_the_most(
    layout: Layout, shards: int
) -> None:
    counted = Counter(layout.bucket_of(shard) for shard in range(shards))

    found = [layout.how_many(bucket, shards) for bucket in range(layout.buckets)]

    assert found == [counted[bucket] for bucket in range(layout.buckets)]
    assert max(found) == found[0]


@given(data=st.data(), layout=layouts, shards=counts, interval=intervals)
def test_a_launch_goes_as_planned(
    data: st.DataObject, layout: Layout, shards: int, interval: float
) -> None:
    some = st.builds(Ahead, st.integers(0, 20), st.floats(0, 600))
    ahead = data.draw(st.lists(some, min_size=layout.buckets, max_size=layout.buckets))
    waiting = sum(found.waiting for found in ahead)
    left = data.draw(st.integers(0, 2 * (waiting + shards)))

    planned = plan(shards, layout, interval, limits(left), ahead=ahead, waiting=waiting)
    granted_in, missing = launched(shards, layout, interval, ahead, left)

    assert planned.missing == missing
    if missing:
        assert planned.all_in_in is None
    else:
        assert planned.all_in_in == pytest.approx(max(granted_in), abs=0.001)


@given(layout=layouts, shards=counts, interval=intervals)
def test_it_takes_as_long_as_where_nobody_else_waits(
    layout: Layout, shards: int, interval: float
) -> None:
    nobody = [Ahead() for _ in range(layout.buckets)]
    granted_in, _ = launched(shards, layout, interval, nobody, shards)

    planned = plan(shards, layout, interval, limits())

    assert planned.takes == pytest.approx(max(granted_in), abs=0.001)
    assert planned.all_in_in == planned.takes


@given(
    layout=layouts,
    shards=counts,
    interval=intervals,
    waiting=st.integers(0, 300),
    opens_in=st.floats(0, 600),
)
def test_after_a_resize_it_goes_as_planned(
    layout: Layout, shards: int, interval: float, waiting: int, opens_in: float
) -> None:
    moved = Counter(layout.bucket_of(shard) for shard in range(waiting))
    ahead = [Ahead(moved[bucket], opens_in) for bucket in range(layout.buckets)]
    granted_in, _ = launched(shards, layout, interval, ahead, waiting + shards)

    planned = plan(
        shards,
        layout,
        interval,
        limits(),
        ahead=[resized(waiting, opens_in, layout)],
        waiting=waiting,
    )

    assert planned.all_in_in == pytest.approx(max(granted_in), abs=0.001)


def test_a_bot_of_2000_shards() -> None:
    assert plan(2000, Layout(16), 5.5, limits(left=1990)) == Plan(
        shards=2000,
        max_concurrency=16,
        buckets=16,
        interval=5.5,
        takes=124 * 5.5,
        waiting=0,
        all_in_in=None,
        obstacle=None,
        missing=10,
        limits=limits(left=1990),
    )


def test_the_reserve_is_not_for_launches() -> None:
    assert plan(10, Layout(), 5.5, Limits("counted", 100, 40, 50, 60.0)).missing == 10


def test_the_time_is_unknown_while_there_is_an_obstacle() -> None:
    planned = plan(10, Layout(), 5.5, limits(), obstacle="journal")

    assert (planned.all_in_in, planned.obstacle, planned.missing) == (None, "journal", 0)


@pytest.mark.parametrize(("configured", "shortest"), [(8, 5), (5.5, 5), (5, 5), (0.1, 0.1)])
def test_the_shortest_interval_to_plan_with(configured: float, shortest: float) -> None:
    assert shortest_interval(configured) == shortest


def test_it_costs_the_same_for_any_number_of_shards() -> None:
    began_at = time.process_time()
    for _ in range(1000):
        plan(MOST_SHARDS, Layout(MOST_BUCKETS), 5.5, limits())
    assert time.process_time() - began_at < 1
