"""The arithmetic of grants and session starts, for any numbers and any order of events."""

import math
from collections import deque
from fractions import Fraction
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway_queue.queue.rules.allowance import (
    DAY,
    MOST_BUCKETS,
    READING_LAG,
    CountedAllowance,
    ReadAllowance,
    Reserve,
    SessionStartLimit,
    Usage,
    usage,
)
from gateway_queue.queue.rules.crash_loop import HOUR, CrashLoop, Restarting, Restarts
from gateway_queue.queue.rules.last_day import LastDay, Record
from gateway_queue.queue.rules.pace import Layout, Outcome, Pace, Spacing, late

# A monotonic clock may start anywhere; the larger its numbers, the coarser they are.
moments = st.floats(0, 1e6) | st.floats(1e9, 2e9)
spacings = st.builds(Spacing.of, st.just(5.5) | st.floats(0, 3600, exclude_min=True))
lengths = st.floats(0, 100)
counts = st.integers(0, 1_000_000)


def gap(earlier: float, later: float) -> Fraction:
    """The time between two instants, free of rounding."""
    return Fraction(later) - Fraction(earlier)


SPACING = Spacing.of(5.5)


def confirming_pace() -> Pace:
    """A bucket that has just granted a client who will confirm."""
    pace = Pace(SPACING, opens_at=0.0)
    pace.grant(1, 0.0, confirm=True)
    pace.handed_over(1, 0.0)
    return pace


def limit(remaining: int, total: int = 1000, reset_after: float = 0.0) -> SessionStartLimit:
    return SessionStartLimit(total, remaining, reset_after, max_concurrency=1)


def read(
    remaining: int,
    total: int = 1000,
    *,
    reserve: int = 50,
    sent_at: float = 0.0,
    reset_after: float = 0.0,
) -> ReadAllowance:
    """The allowance right after a reading, with nothing granted before."""
    allowance = ReadAllowance(Reserve(reserve))
    allowance.read(limit(remaining, total, reset_after), sent_at)
    return allowance


def counted(total: int, *grants: float, reserve: int = 0) -> CountedAllowance:
    return CountedAllowance(reserve=Reserve(reserve), total=total, grants=deque(grants))


class TestSpacing:
    @pytest.mark.parametrize(
        ("interval", "hold", "confirmed"),
        [(5.5, 10.0, 5.3), (5.0, 10.0, 5.3), (12.0, 12.0, 5.3), (0.5, 1.0, 0.53)],
    )
    def test_a_grant_to_be_confirmed_holds_its_bucket_for_longer(
        self, interval: float, hold: float, confirmed: float
    ) -> None:
        spacing = Spacing.of(interval)
        assert spacing.after_grant(confirm=False) == interval
        assert spacing.after_grant(confirm=True) == spacing.hold == pytest.approx(hold)
        assert spacing.confirmed == pytest.approx(confirmed)


class TestPace:
    @given(moments, spacings, st.booleans())
    def test_the_next_grant_is_never_early_and_hardly_late(
        self,
        now: float,
        spacing: Spacing,
        confirm: bool,  # noqa: FBT001
    ) -> None:
        pace = Pace(spacing, opens_at=now)
        pace.grant(1, now, confirm=confirm)
        pace.handed_over(1, now)
        seconds = spacing.after_grant(confirm=confirm)
        assert pace.ready_at - now >= seconds
        assert gap(now, pace.ready_at) >= seconds
        assert pace.ready_at <= late(late(now + seconds))

    @given(moments, spacings, st.lists(st.tuples(lengths, lengths, st.booleans())))
    def test_the_gap_counts_from_the_end_of_the_hand_over(
        self, now: float, spacing: Spacing, grants: list[tuple[float, float, bool]]
    ) -> None:
        pace = Pace(spacing, opens_at=now)
        for number, (idle, stall, confirm) in enumerate(grants):
            now = pace.ready_at + idle
            pace.grant(number, now, confirm=confirm)
            now += stall
            pace.handed_over(number, now)
            assert pace.ready_at - now >= spacing.after_grant(confirm=confirm)

    def test_a_bucket_that_was_idle_grants_at_once(self) -> None:
        pace = Pace(SPACING, opens_at=0.0)
        pace.grant(1, 0.0)
        pace.handed_over(1, 0.0)
        assert pace.ready_at < 1000.0

    def test_nothing_is_granted_while_a_grant_is_in_hand(self) -> None:
        pace = Pace(SPACING, opens_at=0.0)
        pace.grant(1, 0.0)
        assert pace.ready_at == math.inf
        pace.handed_over(1, 0.5)
        assert pace.ready_at == late(6.0)

    @given(
        st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=4),
        st.lists(st.tuples(st.integers(0, 5), lengths)),
    )
    def test_a_hand_over_never_opens_a_bucket_earlier(
        self, grants: list[tuple[int, bool]], hand_overs: list[tuple[int, float]]
    ) -> None:
        pace = Pace(SPACING, opens_at=0.0)
        for number, confirm in grants:
            pace.grant(number, 20.0, confirm=confirm)
        for number, now in hand_overs:
            opens_at = pace.opens_at
            pace.handed_over(number, now)
            assert pace.opens_at >= opens_at

    def test_a_hand_over_of_a_grant_that_is_not_in_hand_changes_nothing(self) -> None:
        pace = Pace(SPACING, opens_at=10.0)
        pace.handed_over(1, 1000.0)
        assert pace == Pace(SPACING, opens_at=10.0)


class TestConfirmation:
    @given(moments, spacings, lengths)
    def test_the_bucket_opens_so_long_after_it_and_neither_earlier_nor_later(
        self, start: float, spacing: Spacing, after: float
    ) -> None:
        pace = Pace(spacing, opens_at=start)
        pace.grant(1, start, confirm=True)
        pace.handed_over(1, start)
        now = start + after
        pace.confirm(1, now)
        assert gap(now, pace.ready_at) >= spacing.confirmed
        assert pace.ready_at <= late(late(now + spacing.confirmed))

    def test_it_ends_the_hold(self) -> None:
        pace = confirming_pace()
        assert pace.ready_at == late(10.0)
        pace.confirm(1, 0.4)
        assert pace.ready_at == late(0.4 + 5.3)

    def test_said_again_it_moves_the_opening_later(self) -> None:
        pace = confirming_pace()
        pace.confirm(1, 0.4)
        pace.confirm(1, 2.0)
        assert pace.ready_at == late(2.0 + 5.3)

    def test_of_a_plain_grant_it_shortens_nothing(self) -> None:
        pace = Pace(SPACING, opens_at=0.0)
        pace.grant(1, 0.0)
        pace.handed_over(1, 0.0)
        pace.confirm(1, 0.1)
        assert pace.ready_at == late(5.5)
        pace.confirm(1, 0.4)
        assert pace.ready_at == late(0.4 + 5.3)

    @pytest.mark.parametrize(("confirm", "opens_at"), [(False, 25.5), (True, 30.0)])
    def test_of_an_earlier_grant_it_shortens_nothing(
        self,
        confirm: bool,  # noqa: FBT001
        opens_at: float,
    ) -> None:
        pace = confirming_pace()
        pace.grant(2, 20.0, confirm=confirm)
        pace.handed_over(2, 20.0)
        pace.confirm(1, 20.1)
        assert pace.ready_at == late(opens_at)
        pace.confirm(1, 29.0)
        assert pace.ready_at == late(29.0 + 5.3)

    def test_after_a_resize_it_shortens_nothing(self) -> None:
        """Another shard of the old buckets may have moved into this one."""
        pace = Pace.merged([confirming_pace(), Pace(SPACING, opens_at=8.0)])
        pace.confirm(1, 0.4)
        assert pace.ready_at == late(10.0)
        pace.confirm(1, 9.0)
        assert pace.ready_at == late(9.0 + 5.3)

    @pytest.mark.parametrize(("outcome", "seconds"), [("identified", 5.3), ("ready", 5.0)])
    def test_a_confirmation_that_overtakes_its_answer_counts_from_the_hand_over(
        self, outcome: Outcome, seconds: float
    ) -> None:
        pace = Pace(SPACING, opens_at=0.0)
        pace.grant(1, 0.0, confirm=True)
        pace.confirm(1, 0.2, outcome)
        assert pace.ready_at == math.inf
        pace.handed_over(1, 0.9)
        assert pace.ready_at == late(0.9 + seconds)

    def test_an_op_9_that_overtakes_the_end_of_an_answer_is_about_an_earlier_grant(self) -> None:
        pace = Pace(SPACING, opens_at=0.0)
        pace.grant(1, 0.0, confirm=True)
        pace.confirm(1, 0.2, "invalid_session")
        pace.handed_over(1, 0.9)
        assert pace.ready_at == late(0.9 + 10.0)

    def test_a_grant_that_is_handed_over_at_once_is_in_no_hand(self) -> None:
        pace = Pace(SPACING, opens_at=0.0)
        pace.grant(1, 3.0, in_hand=False)
        assert pace.ready_at == late(3.0 + 5.5)

    def test_ready_ends_a_hold_and_needs_nothing_for_the_way(self) -> None:
        pace = confirming_pace()
        pace.confirm(1, 1.0, "ready")
        assert pace.ready_at == late(1.0 + 5.0)

    def test_ready_after_the_confirmation_only_opens_later(self) -> None:
        pace = confirming_pace()
        pace.confirm(1, 1.0)
        pace.confirm(1, 1.2, "ready")
        assert pace.ready_at == late(1.0 + 5.3)
        pace.confirm(1, 2.0, "ready")
        assert pace.ready_at == late(2.0 + 5.0)

    def test_a_report_of_an_op_9_ends_no_hold(self) -> None:
        """It may be about the identify before."""
        pace = confirming_pace()
        pace.confirm(1, 1.0, "invalid_session")
        assert pace.ready_at == late(10.0)
        pace.confirm(1, 9.0, "invalid_session")
        assert pace.ready_at == late(9.0 + 5.3)


class TestMergedPace:
    @given(st.lists(st.tuples(moments, st.booleans()), min_size=1, max_size=6))
    def test_it_is_as_late_as_the_latest_and_has_all_grants_in_hand(
        self, old: list[tuple[float, bool]]
    ) -> None:
        paces = [Pace(SPACING, opens_at) for opens_at, _ in old]
        for number, (opens_at, granting) in enumerate(old):
            if granting:
                paces[number].grant(number, opens_at)
        merged = Pace.merged(paces)
        assert merged.opens_at == max(pace.opens_at for pace in paces)
        for number, (_, granting) in enumerate(old):
            if granting:
                assert merged.ready_at == math.inf
                merged.handed_over(number, 0.0)
        assert merged.ready_at == merged.opens_at

    def test_merged_paces_share_nothing(self) -> None:
        old = Pace(SPACING, 0.0)
        old.grant(1, 0.0)
        one, other = Pace.merged([old]), Pace.merged([old])
        one.handed_over(1, 0.0)
        assert other.ready_at == old.ready_at == math.inf


class TestLayout:
    @given(
        st.integers(1, MOST_BUCKETS),
        st.none() | st.integers(1, MOST_BUCKETS),
        st.integers(0, 2**32 - 1),
        st.integers(0, 1000),
    )
    def test_one_rate_limit_key_is_never_in_two_buckets(
        self, max_concurrency: int, cap: int | None, shard: int, further: int
    ) -> None:
        layout = Layout(max_concurrency, cap)
        same_key = shard + further * max_concurrency
        assert layout.bucket_of(shard) == layout.bucket_of(same_key)
        assert 0 <= layout.bucket_of(shard) < layout.buckets

    @given(st.integers(1, 300), st.none() | st.integers(1, 300))
    def test_every_bucket_has_shards(self, max_concurrency: int, cap: int | None) -> None:
        layout = Layout(max_concurrency, cap)
        used = {layout.bucket_of(shard) for shard in range(max_concurrency)}
        assert used == set(range(layout.buckets))
        assert layout.buckets == min(max_concurrency, cap or max_concurrency)

    @pytest.mark.parametrize(
        ("layout", "buckets"),
        [
            (Layout(), [0] * 18),
            (Layout(16), [*range(16), 0, 1]),
            (Layout(6, cap=4), [0, 1, 2, 3, 0, 1, 0, 1, 2, 3, 0, 1, 0, 1, 2, 3, 0, 1]),
            (Layout(16, cap=4), [0, 1, 2, 3] * 4 + [0, 1]),
            (Layout(1, cap=4), [0] * 18),
        ],
    )
    def test_shards_fall_into_buckets(self, layout: Layout, buckets: list[int]) -> None:
        assert [layout.bucket_of(shard) for shard in range(18)] == buckets

    def test_a_request_without_a_shard_belongs_to_bucket_0(self) -> None:
        assert Layout(16).bucket_of(None) == 0


class TestReserve:
    @pytest.mark.parametrize(
        ("text", "total", "reserved"),
        [
            ("5%", 1000, 50),
            ("5%", 1001, 51),
            ("5%", 1, 1),
            ("0%", 1000, 0),
            ("100%", 1000, 1000),
            ("50", 1000, 50),
            ("0", 1000, 0),
            (" 7 ", 10, 7),
            ("50", 10, 50),
        ],
    )
    def test_it_is_a_number_or_a_percentage_rounded_up(
        self, text: str, total: int, reserved: int
    ) -> None:
        assert Reserve.parse(text).of(total) == reserved

    @pytest.mark.parametrize(
        "text", ["", "%", "-1", "+5", "5.5%", "101%", "5 %", "5%%", "9999999999", "1e3", "five"]
    )
    def test_anything_else_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="whole number"):
            Reserve.parse(text)

    @given(st.integers(0, 100), counts)
    def test_a_percentage_is_never_rounded_down(self, percent: int, total: int) -> None:
        reserve = Reserve(percent, is_percentage=True)
        assert reserve.of(total) == math.ceil(Fraction(percent * total, 100))
        assert reserve.of(total) <= total

    @given(st.builds(Reserve, st.integers(0, 100), st.booleans()))
    def test_it_reads_what_it_writes(self, reserve: Reserve) -> None:
        assert Reserve.parse(str(reserve)) == reserve


class TestSessionStartLimit:
    @given(counts, counts, st.floats(0, 1e9), st.integers(1, MOST_BUCKETS))
    def test_whatever_can_be_true_is_taken(
        self, used: int, remaining: int, reset_after: float, max_concurrency: int
    ) -> None:
        SessionStartLimit(used + remaining, remaining, reset_after, max_concurrency)

    @pytest.mark.parametrize(
        ("total", "remaining", "reset_after", "max_concurrency", "wrong"),
        [
            (1000, 1001, 0, 1, "remaining is 1001 of a total of 1000"),
            (1000, -1, 0, 1, "remaining is -1"),
            (-1, -1, 0, 1, "remaining is -1"),
            (1000, 1000, 0, 0, "max_concurrency is 0"),
            (1000, 1000, 0, -16, "max_concurrency is -16"),
            (1000, 1000, 0, MOST_BUCKETS + 1, "max_concurrency is 10001"),
            (1000, 1000, -0.001, 1, "reset_after is -0.001"),
            (1000, 1000, math.inf, 1, "reset_after is inf"),
            (1000, 1000, math.nan, 1, "reset_after is nan"),
        ],
    )
    def test_numbers_that_cannot_be_true_are_refused(
        self, total: int, remaining: int, reset_after: float, max_concurrency: int, wrong: str
    ) -> None:
        with pytest.raises(ValueError, match=wrong):
            SessionStartLimit(total, remaining, reset_after, max_concurrency)


class TestReadAllowance:
    def test_nothing_is_granted_before_the_first_reading(self) -> None:
        allowance = ReadAllowance(Reserve(0))
        assert not allowance.known
        assert allowance.more_at(1e9) == allowance.reset_after(1e9) == math.inf
        assert allowance.read_again_at(7.0, refresh=300.0) == 7.0

    def test_nothing_is_granted_between_a_withdrawal_and_the_next_reading(self) -> None:
        allowance = read(100)
        allowance.spend(1.0)
        allowance.withdraw()
        assert not allowance.known
        assert allowance.more_at(2.0) == math.inf
        allowance.read(limit(100), sent_at=3.0)
        assert allowance.remaining(4.0) == 99

    def test_grants_of_the_minute_before_the_reading_was_sent_are_taken_off(self) -> None:
        allowance = ReadAllowance(Reserve(50))
        for granted_at in (39.9, 40.1, 99.0, 101.0):
            allowance.spend(granted_at)
        allowance.read(limit(500), sent_at=100.0)
        assert allowance.remaining(105.0) == 497

    def test_the_reserve_is_never_granted(self) -> None:
        allowance = read(52, reserve=50)
        for now in (1.0, 2.0):
            assert allowance.more_at(now) == now
            allowance.spend(now)
        assert allowance.more_at(3.0) == math.inf
        assert allowance.remaining(3.0) == allowance.reserved == 50

    def test_a_reserve_above_the_total_leaves_nothing(self) -> None:
        assert read(10, total=10, reserve=50).more_at(0.0) == math.inf

    def test_a_reset_by_the_clock_gives_nothing_back(self) -> None:
        allowance = read(50, reserve=50, reset_after=10.0)
        assert allowance.reset_after(4.0) == 6.0
        assert allowance.reset_after(11.0) == 0.0
        assert allowance.more_at(1e6) == math.inf
        allowance.read(limit(1000), sent_at=1e6)
        assert allowance.more_at(1e6) == 1e6

    @pytest.mark.parametrize(
        ("allowance", "refresh", "again_at"),
        [
            (read(900, sent_at=7.0, reset_after=80_000.0), 300.0, 307.0),
            (read(900, sent_at=7.0, reset_after=100.0), 300.0, 108.0),
            # The old window still shows: the reset is due, but nothing came back.
            (read(900, sent_at=7.0), 300.0, 12.0),
            (read(900, sent_at=7.0, reset_after=1.0), 300.0, 12.0),
            # Nothing used, so there is nothing to come back.
            (read(1000, sent_at=7.0), 300.0, 307.0),
            (read(1000, sent_at=7.0, reset_after=20.0), 300.0, 307.0),
            # Near the reserve somebody else may use the rest.
            (read(50, sent_at=7.0, reset_after=80_000.0), 300.0, 37.0),
            (read(60, sent_at=7.0, reset_after=80_000.0), 300.0, 37.0),
            (read(60, sent_at=7.0, reset_after=80_000.0), 15.0, 22.0),
            (read(0, sent_at=7.0, reset_after=3.0), 300.0, 12.0),
            (read(0, total=0, sent_at=7.0), 300.0, 37.0),
        ],
    )
    def test_the_next_reading_comes_in_time(
        self, allowance: ReadAllowance, refresh: float, again_at: float
    ) -> None:
        assert allowance.read_again_at(8.0, refresh) == again_at

    @given(st.integers(0, 1000), st.floats(0, 90_000), st.floats(15, 3600), moments)
    def test_readings_neither_flood_nor_fail_to_come(
        self, remaining: int, reset_after: float, refresh: float, now: float
    ) -> None:
        allowance = read(remaining, sent_at=now, reset_after=reset_after)
        assert 4.9 <= allowance.read_again_at(now, refresh) - now <= refresh + 0.1

    def test_grants_bring_the_next_reading_nearer(self) -> None:
        allowance = read(200, reset_after=80_000.0)
        assert allowance.read_again_at(0.0, refresh=300.0) == 300.0
        for _ in range(150):
            allowance.spend(1.0)
        assert allowance.read_again_at(1.0, refresh=300.0) == 30.0


class DiscordCounts(RuleBasedStateMachine):
    """Discord counts an identify up to a minute after its grant, answers late, and resets."""

    @initialize(total=st.integers(0, 12), reserve=st.integers(0, 5), now=moments)
    def start(self, total: int, reserve: int, now: float) -> None:
        self.total = total
        self.now = self.window_began_at = now
        self.counted_at: list[float] = []
        self.asked_at: float | None = None
        self.answer: SessionStartLimit | None = None
        self.allowance = ReadAllowance(Reserve(reserve))

    def counted(self, *, until: float) -> int:
        return sum(self.window_began_at <= at <= until for at in self.counted_at)

    @rule(seconds=lengths)
    def time_passes(self, seconds: float) -> None:
        before = self.allowance.remaining(self.now)
        self.now += seconds
        assert self.allowance.remaining(self.now) == before

    @rule()
    def the_window_ends(self) -> None:
        self.window_began_at = self.now

    @rule(lag=st.floats(0, READING_LAG - 1))
    def a_shard_identifies(self, lag: float) -> None:
        if self.allowance.more_at(self.now) <= self.now:
            self.allowance.spend(self.now)
            self.counted_at.append(self.now + lag)

    @precondition(lambda self: self.asked_at is None)
    @rule()
    def a_request_is_sent(self) -> None:
        self.asked_at = self.now

    @precondition(lambda self: self.asked_at is not None)
    @rule()
    def discord_answers(self) -> None:
        self.answer = limit(self.total - self.counted(until=self.now), self.total)

    @precondition(lambda self: self.answer is not None)
    @rule()
    def the_answer_comes(self) -> None:
        assert self.asked_at is not None
        assert self.answer is not None
        self.allowance.read(self.answer, self.asked_at)
        assert self.allowance.remaining(self.now) <= self.answer.remaining
        self.asked_at = self.answer = None

    @invariant()
    def the_reserve_is_never_used(self) -> None:
        used = self.counted(until=math.inf)
        assert used == 0 or self.total - used >= self.allowance.reserved


TestDiscordCounts = DiscordCounts.TestCase
TestDiscordCounts.settings = settings(max_examples=150, stateful_step_count=50)


class TestCountedAllowance:
    @given(
        moments,
        st.integers(1, 6),
        st.integers(0, 7),
        st.lists(st.floats(0, 1.2 * DAY) | st.floats(0, 10), max_size=40),
    )
    def test_no_24_hours_see_more_than_the_total_without_the_reserve(
        self, now: float, total: int, reserve: int, waits: list[float]
    ) -> None:
        allowance = counted(total, reserve=reserve)
        grants = []
        for wait in waits:
            now += wait
            if allowance.more_at(now) == math.inf:
                break
            now = max(now, allowance.more_at(now))
            allowance.spend(now)
            grants.append(now)
        quota = max(0, total - reserve)
        assert bool(grants) == (quota > 0 and bool(waits))
        for first, too_many in zip(grants, grants[quota:], strict=False):
            assert gap(first, too_many) > DAY

    @given(st.lists(moments, min_size=1, max_size=8).map(sorted), st.integers(1, 8))
    def test_more_is_allowed_at_that_instant_and_not_before(
        self, grants: list[float], total: int
    ) -> None:
        allowance = counted(total, *grants)
        more_at = allowance.more_at(grants[-1])
        if more_at > grants[-1]:
            just_before = math.nextafter(more_at, -math.inf)
            assert allowance.remaining(just_before) == 0
            assert allowance.more_at(just_before) == more_at
            assert gap(grants[-total], more_at) > DAY
        assert allowance.remaining(more_at) > 0
        assert allowance.more_at(more_at) == more_at

    def test_a_reserve_of_everything_allows_nothing_for_ever(self) -> None:
        allowance = counted(2, 1.0, 2.0, reserve=2)
        assert allowance.more_at(3.0) == allowance.more_at(3.0 + 9 * DAY) == math.inf

    def test_more_grants_in_the_journal_than_are_allowed_now_are_waited_for(self) -> None:
        """The operator has lowered GATEWAY_QUEUE_DAILY_STARTS."""
        allowance = counted(3, 10.0, 20.0, 30.0, 40.0, reserve=1)
        assert allowance.remaining(50.0) == 0
        assert allowance.more_at(50.0) == late(30.0 + DAY)

    def test_starts_come_back_one_by_one(self) -> None:
        allowance = counted(2, 10.0, 20.0)
        assert allowance.known
        assert allowance.reset_after(50.0) == DAY - 40.0
        assert allowance.remaining(late(10.0 + DAY)) == 1
        assert allowance.remaining(late(20.0 + DAY)) == 2
        assert allowance.reset_after(30.0 + DAY) == 0.0


SIX_IN_TEN_MINUTES = CrashLoop(grants=6, window=600.0)


def restarts(*grants: float, rule: CrashLoop = SIX_IN_TEN_MINUTES) -> Restarts:
    shard = Restarts(rule)
    for granted_at in grants:
        shard.grant(granted_at)
    return shard


class TestCrashLoop:
    @pytest.mark.parametrize(
        ("text", "rule"),
        [
            ("6/600", SIX_IN_TEN_MINUTES),
            (" 1/86400 ", CrashLoop(1, DAY)),
            ("off", None),
        ],
    )
    def test_it_is_a_number_of_grants_and_seconds_or_off(
        self, text: str, rule: CrashLoop | None
    ) -> None:
        assert CrashLoop.parse(text) == rule

    @pytest.mark.parametrize(
        "text", ["", "6", "6/", "/600", "0/600", "6/0", "-6/600", "6/86401", "6/60.5", "on"]
    )
    def test_anything_else_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="not of the form 6/600"):
            CrashLoop.parse(text)

    @given(st.builds(CrashLoop, st.integers(1, 1000), st.integers(1, 86_400).map(float)))
    def test_it_reads_what_it_writes(self, rule: CrashLoop) -> None:
        assert CrashLoop.parse(str(rule)) == rule


class TestRestarts:
    def test_as_many_grants_as_the_rule_has_cost_nothing(self) -> None:
        assert restarts(0, 1, 2, 3, 4, 5).eligible_at == -math.inf

    def test_grants_outside_the_window_are_forgiven(self) -> None:
        assert restarts(0, 1, 2, 3, 4, 5, 600).eligible_at == -math.inf
        assert restarts(0, 1, 2, 3, 4, 5, 599.9).eligible_at == late(599.9 + 60)

    def test_each_grant_in_a_loop_doubles_the_pause_up_to_an_hour(self) -> None:
        shard = restarts(0, 1, 2, 3, 4, 5)
        now, pauses = 6.0, []
        for _ in range(9):
            shard.grant(now)
            pauses.append(round(shard.eligible_at - now))
            now = shard.eligible_at
        assert pauses == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]

    def test_a_level_falls_for_each_hour_without_a_grant(self) -> None:
        looping = (0, 1, 2, 3, 4, 5, 6, 66, 186)
        assert restarts(*looping).level == 3
        assert restarts(*looping, 186 + HOUR - 1).level == 4
        assert restarts(*looping, 186 + HOUR).level == 3
        assert restarts(*looping, 186 + 2 * HOUR).level == 2
        assert restarts(*looping, 186 + 3 * HOUR).level == 0

    def test_16_shards_in_a_loop_for_a_day_leave_the_token_alone(self) -> None:
        """They would use 1,000 starts within six hours otherwise."""
        shard, now, grants = restarts(), 0.0, 0
        while now < DAY:
            shard.grant(now)
            grants += 1
            now = max(shard.eligible_at, now + 16 * 5.5)
        assert 16 * grants < 600

    @given(
        st.lists(st.floats(0, 2 * HOUR), max_size=30),
        st.builds(CrashLoop, st.integers(1, 8), st.sampled_from([60.0, 600.0, DAY])),
        moments,
    )
    def test_a_pause_lasts_from_a_minute_to_an_hour_and_only_affects_shards_that_broke_the_rule(
        self, waits: list[float], rule: CrashLoop, now: float
    ) -> None:
        shard, broke_it = restarts(rule=rule), False
        grants: list[float] = []
        for wait in waits:
            now += wait
            shard.grant(now)
            grants.append(now)
            broke_it |= sum(at > now - rule.window for at in grants) > rule.grants
            if shard.eligible_at > now:
                assert broke_it
                assert 60 <= shard.eligible_at - now <= late(HOUR) + 1e-6

    @given(st.lists(st.integers(0, 7200), max_size=30))
    def test_a_restart_changes_nothing(self, waits: list[int]) -> None:
        """The journal's rows come back as ages, on a clock that starts elsewhere."""
        grants = [float(at) for at in accumulate(waits)]
        before = restarts(*grants)
        after = restarts(*(at - 1_000_000 for at in grants))
        assert after.level == before.level
        assert after.eligible_at == pytest.approx(before.eligible_at - 1_000_000)


class ManyRestart(RuleBasedStateMachine):
    """All shards together, against one `Restarts` for each that is never forgotten."""

    @initialize(
        rule=st.builds(CrashLoop, st.integers(1, 3), st.sampled_from([60.0, 600.0, 7200.0]))
    )
    def start(self, rule: CrashLoop) -> None:
        self.now = 1000.0
        self.rule = rule
        self.model: dict[int | None, Restarts] = {}
        self.restarting = Restarting(rule)

    @rule(seconds=st.integers(0, 100) | st.integers(0, 3 * 3600))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @rule(shard=st.sampled_from([None, 0, 1, 2]), eagerly=st.booleans())
    def grant(self, shard: int | None, eagerly: bool) -> None:  # noqa: FBT001
        model = self.model.setdefault(shard, Restarts(self.rule))
        if not eagerly:  # a journal of another rule may have any grants
            self.now = max(self.now, math.ceil(model.eligible_at) if model.level else 0)
        model.grant(self.now)
        self.restarting.grant(shard, self.now)

    @rule(shard=st.sampled_from([None, 0]))
    def forgive(self, shard: int | None) -> None:
        self.model.pop(shard, None)
        self.restarting.forgive(shard)

    @invariant()
    def they_agree(self) -> None:
        slowed = {
            shard: model.eligible_at
            for shard, model in self.model.items()
            if model.eligible_at > self.now
        }
        assert self.restarting.slowed(self.now) == len(slowed)
        longest = list(self.restarting.longest(self.now))
        assert sorted(longest, key=str) == sorted(slowed, key=str)
        assert [slowed[shard] for shard in longest] == sorted(slowed.values(), reverse=True)
        for shard, model in self.model.items():
            assert self.restarting.level(shard, self.now) == model.level_at(self.now)
            if shard in slowed:
                assert self.restarting.eligible_at(shard) == slowed[shard]
            else:
                assert self.restarting.eligible_at(shard) <= self.now


TestManyRestart = ManyRestart.TestCase
TestManyRestart.settings = settings(max_examples=150, stateful_step_count=50)


class TestLastDay:
    @given(
        st.lists(
            st.tuples(
                st.sampled_from([None, 0, 1, 2]), st.integers(0, 100) | st.integers(0, int(DAY))
            )
        )
    )
    def test_it_counts_the_grants_and_shards_of_24_hours(
        self, grants: list[tuple[int | None, int]]
    ) -> None:
        now, last_day, all_grants = 0, LastDay(), []
        for shard, seconds in grants:
            now += seconds
            last_day.grant(shard, now)
            all_grants.append((now, shard))
            day = [(at, shard) for at, shard in all_grants if at > now - DAY]
            assert last_day.granted(now) == len(day)
            assert last_day.shards(now) == len({shard for _, shard in day} - {None})
            for asked in (None, 0, 1, 2):
                instants = [at for at, shard in day if shard == asked]
                assert last_day.of(asked, now) == (
                    Record(len(instants), instants[-1]) if instants else None
                )
        assert last_day.granted(now + DAY) == last_day.shards(now + DAY) == 0


class TestUsage:
    @pytest.mark.parametrize(
        ("remaining", "total", "level"),
        [
            (1000, 1000, Usage.NORMAL),
            (501, 1000, Usage.NORMAL),
            (500, 1000, Usage.HALF_USED),
            (51, 1000, Usage.HALF_USED),
            (50, 1000, Usage.RESERVE_REACHED),
            (0, 1000, Usage.RESERVE_REACHED),
            (501, 1001, Usage.NORMAL),
            (500, 1001, Usage.HALF_USED),
        ],
    )
    def test_it_has_three_levels(self, remaining: int, total: int, level: Usage) -> None:
        assert usage(read(remaining, total), 0.0) is level

    @given(st.integers(0, 100), st.integers(0, 100))
    def test_it_only_rises_while_starts_are_spent(self, total: int, reserve: int) -> None:
        allowance = read(total, total, reserve=reserve)
        levels = []
        for now in range(total + 1):
            levels.append(usage(allowance, now))
            assert (levels[-1] is Usage.RESERVE_REACHED) == (allowance.more_at(now) > now)
            allowance.spend(now)
        assert levels == sorted(levels)
