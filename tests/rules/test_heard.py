"""What a replica hears of grants, late and in order, never lets a bucket open too early."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_queue.queue.rules.heard import WINDOW, Heard

BOT = "1"
INTERVAL = 5.5
UNKNOWN = 10.0

# How long news take, and how long a replica takes to write an answer once it may.
delays = st.floats(0, 3)
writing = st.floats(0, WINDOW)


@given(st.lists(st.tuples(delays, delays, writing, st.booleans()), min_size=1, max_size=20))
def test_a_bucket_never_opens_earlier_than_an_interval_after_the_last_answer(
    grants: list[tuple[float, float, float, bool]],
) -> None:
    heard = Heard(now=0.0)
    now = 0.0  # by the clock of who hears; whoever leads keeps the interval
    for number, (taken_late, written_late, takes, is_told) in enumerate(grants, start=1):
        recorded_at = now
        written_at = recorded_at + takes
        heard.taken(BOT, 0, 1, number, INTERVAL, recorded_at + taken_late)
        assert heard.opens_at(BOT, 0, 1, UNKNOWN) > written_at + INTERVAL
        if is_told:
            told_at = max(written_at, recorded_at + taken_late) + written_late
            heard.written(BOT, 0, 1, number, INTERVAL, told_at)
            assert heard.opens_at(BOT, 0, 1, UNKNOWN) > written_at + INTERVAL
        now = written_at + INTERVAL


def test_what_was_before_is_unknown() -> None:
    heard = Heard(now=100.0)

    assert heard.opens_at(BOT, 3, 16, UNKNOWN) == pytest.approx(100 + WINDOW + UNKNOWN)
    assert heard.opens_at(BOT, 3, 16, UNKNOWN) > 100 + WINDOW + UNKNOWN


def test_a_grant_is_known_from_its_news_on() -> None:
    heard = Heard(now=0.0)
    heard.taken(BOT, 0, 2, 1, INTERVAL, now=50.0)
    assert heard.opens_at(BOT, 0, 2, UNKNOWN) == pytest.approx(50 + WINDOW + INTERVAL)

    heard.written(BOT, 0, 2, 1, INTERVAL, now=50.1)
    assert heard.opens_at(BOT, 0, 2, UNKNOWN) == pytest.approx(50.1 + INTERVAL)
    assert heard.opens_at(BOT, 1, 2, UNKNOWN) == pytest.approx(WINDOW + UNKNOWN)
    assert heard.opens_at("2", 0, 2, UNKNOWN) == pytest.approx(WINDOW + UNKNOWN)


def test_of_the_latest_grants_it_is_known_which_were_given() -> None:
    heard = Heard(now=0.0)
    assert heard.given(BOT) == set()
    for number in (1, 2, 3):
        heard.taken(BOT, number % 2, 2, number, INTERVAL, now=50.0)
        heard.written(BOT, number % 2, 2, number, INTERVAL, now=50.1)
    heard.taken(BOT, 0, 2, 4, INTERVAL, now=60.0)

    assert heard.given(BOT) == {3}


def test_news_of_an_earlier_grant_change_nothing() -> None:
    heard = Heard(now=0.0)
    heard.taken(BOT, 0, 1, 1, INTERVAL, now=50.0)
    heard.taken(BOT, 0, 1, 2, INTERVAL, now=60.0)
    opens_at = heard.opens_at(BOT, 0, 1, UNKNOWN)

    heard.written(BOT, 0, 1, 1, INTERVAL, now=60.1)
    heard.moved(BOT, 0, 1, 1, 0.0, now=60.1)

    assert heard.opens_at(BOT, 0, 1, UNKNOWN) == opens_at


def test_a_confirmation_moves_its_own_grants_bucket() -> None:
    heard = Heard(now=0.0)
    heard.taken(BOT, 0, 1, 1, 10.0, now=50.0)
    heard.moved(BOT, 0, 1, 1, 5.3, now=51.0)

    assert heard.opens_at(BOT, 0, 1, UNKNOWN) == pytest.approx(56.3)


def test_where_the_buckets_are_others_each_may_hold_shards_of_any_before() -> None:
    heard = Heard(now=0.0)
    for bucket in range(2):
        heard.taken(BOT, bucket, 2, bucket + 1, INTERVAL, now=50.0 + bucket)
    assert heard.opens_at(BOT, 0, 1, UNKNOWN) == pytest.approx(51 + WINDOW + INTERVAL)

    heard.taken(BOT, 0, 16, 3, INTERVAL, now=60.0)
    assert heard.opens_at(BOT, 0, 16, UNKNOWN) == pytest.approx(60 + WINDOW + INTERVAL)
    assert heard.opens_at(BOT, 9, 16, UNKNOWN) == pytest.approx(51 + WINDOW + INTERVAL)


def test_where_one_of_the_buckets_before_is_unknown_so_is_each_after() -> None:
    heard = Heard(now=0.0)
    heard.taken(BOT, 0, 2, 1, 0.1, now=0.2)

    assert heard.opens_at(BOT, 0, 1, UNKNOWN) == pytest.approx(WINDOW + UNKNOWN)


def test_news_that_were_missed_make_everything_unknown() -> None:
    heard = Heard(now=0.0)
    heard.taken(BOT, 0, 1, 1, INTERVAL, now=50.0)
    heard.forget(until=60.0)

    assert heard.opens_at(BOT, 0, 1, UNKNOWN) == pytest.approx(60 + WINDOW + UNKNOWN)
    assert heard.opens_at(BOT, 0, 1, UNKNOWN) < math.inf


def test_what_may_yet_happen_unheard_is_not_taken_back() -> None:
    """As when news are missed while a primary that was cut off may still accept grants."""
    heard = Heard(now=0.0)
    heard.forget(until=63.0)
    heard.forget(until=60.0)

    assert heard.opens_at(BOT, 0, 1, UNKNOWN) == pytest.approx(63 + WINDOW + UNKNOWN)


def test_a_report_about_an_earlier_grant_can_only_postpone() -> None:
    heard = Heard(0.0)
    heard.taken(BOT, 0, 1, 1, 5.5, now=50.0)
    heard.taken(BOT, 0, 1, 2, 5.5, now=60.0)
    heard.moved(BOT, 0, 1, 1, 1.0, now=61.0)
    assert heard.opens_at(BOT, 0, 1, 11.0) == pytest.approx(60.0 + WINDOW + 5.5)
    heard.moved(BOT, 0, 1, 1, 5.3, now=63.0)
    assert heard.opens_at(BOT, 0, 1, 11.0) == pytest.approx(63.0 + 5.3)
