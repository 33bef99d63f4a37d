"""Replicas that hear of a bucket late, in any order or never, and still grant nothing early."""

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from gateway_queue.queue.rules.pace import Spacing, late
from gateway_queue.queue.rules.shared_pace import News, SharedPace, What

SPACING = Spacing.of(5.5)
WINDOW = 1.0

replicas = st.integers(0, 2)
choices = st.integers(0, 10**6)


@dataclass(eq=False)
class Claim:
    """A claim on its way, and what has become of it."""

    era: int
    version: int  # that is known to whoever claims
    keep: float
    sent_at: float
    made: int | None = None  # the version that it made when it was executed


@dataclass
class Replica:
    era: int
    pace: SharedPace
    claim: Claim | None = None
    to_report: list[Claim] = field(default_factory=list)


@dataclass
class Engine:
    """What all replicas reach: the latest version, and the claim that is not reported yet."""

    era: int = 0
    version: int = 0
    keep: float = SPACING.hold
    written: bool = False
    unreported: Claim | None = None
    before_claim: tuple[float, bool] = (0.0, True)  # `keep` and `written` without it
    given_up: list[Claim] = field(default_factory=list)
    news: list[News] = field(default_factory=list)

    def execute(self, claim: Claim) -> None:
        if (claim.era, claim.version) != (self.era, self.version):
            return
        if self.unreported:
            self.given_up.append(self.unreported)
        self.before_claim = self.keep, self.written
        self.unreported, self.keep, self.written = claim, claim.keep, False
        self.tell("claimed")
        claim.made = self.version

    def void(self, claim: Claim) -> None:
        """Whoever claimed has not written the answer, or never had one."""
        if claim.era != self.era:
            return
        if claim is self.unreported and claim.made == self.version:
            self.keep, self.written = self.before_claim
            self.unreported = None
            self.tell("given_back")
        elif claim.version == self.version:
            self.tell("forestalled")

    def report(self, claim: Claim) -> None:
        if claim is self.unreported:
            self.unreported, self.written = None, True
            self.tell("handed_over", new=False)
        elif claim in self.given_up:
            self.given_up.remove(claim)
            self.put_off(claim.keep)

    def confirm(self, seconds: float) -> None:
        self.keep = seconds
        self.tell("confirmed")

    def put_off(self, seconds: float) -> None:
        self.keep = max(self.keep, seconds)
        self.tell("put_off", after=seconds)

    def tell(self, what: What, *, new: bool = True, after: float = 0.0) -> None:
        before = self.version
        self.version += new
        news = News(self.version, before, what, self.keep, self.written, after)
        self.news.append(news)

    @property
    def standing(self) -> News:
        return News(self.version, self.version, "standing", self.keep, self.written)


class AnyNews(RuleBasedStateMachine):
    """Three replicas share a bucket. What they hear is late, repeated, disordered or lost."""

    @initialize()
    def start(self) -> None:
        self.now = 1000.0
        self.engine = Engine()
        self.opens_at = self.now + SPACING.hold  # as somebody knows who sees everything
        self.latest: Claim | None = None  # the grant whose confirmation ends its hold
        self.replicas = [self.joined() for _ in range(3)]

    def joined(self) -> Replica:
        return Replica(self.engine.era, SharedPace.of(self.engine.standing, self.now, WINDOW))

    @rule(seconds=st.floats(0, 1) | st.floats(0, 12))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(number=replicas)
    def it_opens_for(self, number: int) -> None:
        self.now = max(self.now, self.replicas[number].pace.opens_at)

    @precondition(lambda self: self.engine.news)
    @rule(number=replicas, newest=st.booleans(), choice=choices)
    def hear(self, number: int, newest: bool, choice: int) -> None:  # noqa: FBT001
        replica, news = self.replicas[number], self.engine.news
        if replica.era == self.engine.era:
            replica.pace.learn(news[-1 if newest else choice % len(news)], self.now)

    @rule(number=replicas)
    def hear_all(self, number: int) -> None:
        replica = self.replicas[number]
        if replica.era == self.engine.era:
            for news in self.engine.news:
                replica.pace.learn(news, self.now)

    @rule(
        number=replicas,
        hear_all=st.sets(replicas),
        hear_newest=st.sets(replicas),
        stall=st.just(0.0) | st.floats(0, 1.2 * WINDOW),
        reports=st.booleans(),
    )
    def grant(
        self,
        number: int,
        hear_all: set[int],
        hear_newest: set[int],
        stall: float,
        reports: bool,  # noqa: FBT001
    ) -> None:
        """All steps of a grant, of which some replicas hear at once."""
        self.it_opens_for(number)
        self.claim(number, confirm=False, at_once=True)
        for hearer in hear_all:
            self.hear_all(hearer)
        if self.engine.news:
            for hearer in hear_newest:
                self.hear(hearer, newest=True, choice=0)
        self.now += stall
        self.answer(number)
        if reports:
            self.report(number, again=False)

    @rule(number=replicas, confirm=st.booleans(), at_once=st.booleans())
    def claim(self, number: int, confirm: bool, at_once: bool) -> None:  # noqa: FBT001
        replica = self.replicas[number]
        if replica.claim is None and replica.pace.ready_at <= self.now:
            keep = SPACING.after_grant(confirm=confirm)
            replica.claim = Claim(replica.era, replica.pace.version, keep, self.now)
            if at_once:
                self.engine.execute(replica.claim)

    @rule(number=replicas)
    def execute(self, number: int) -> None:
        claim = self.replicas[number].claim
        if claim and claim.made is None:
            self.engine.execute(claim)

    @rule(number=replicas)
    def answer(self, number: int) -> None:
        """The claim's answer has come: write the grant, if that is still allowed."""
        replica = self.replicas[number]
        claim = replica.claim
        if claim is None or claim.made is None:
            return
        replica.claim = None
        replica.pace.claimed(claim.made, claim.keep)
        if self.now - claim.sent_at > WINDOW:
            replica.pace.given_back(claim.made)
            self.engine.void(claim)
            return
        assert self.now >= self.opens_at
        self.opens_at = self.now + claim.keep
        self.latest = claim
        replica.pace.handed_over(claim.made, self.now)
        replica.to_report.append(claim)

    @rule(number=replicas)
    def no_answer(self, number: int) -> None:
        replica = self.replicas[number]
        if replica.claim:
            self.engine.void(replica.claim)
            replica.claim = None

    @rule(number=replicas, again=st.booleans())
    def report(self, number: int, again: bool) -> None:  # noqa: FBT001
        replica = self.replicas[number]
        if replica.to_report:
            claim = replica.to_report[0] if again else replica.to_report.pop(0)
            if claim.era == self.engine.era:
                self.engine.report(claim)

    @precondition(lambda self: self.latest)
    @rule()
    def the_client_confirms(self) -> None:
        latest, self.latest = self.latest, None
        engine = self.engine
        # A later claim may be on its way to its client: then it is too late for this.
        made_since = engine.unreported is not None and engine.unreported is not latest
        if latest is not None and latest.era == engine.era and not made_since:
            engine.confirm(SPACING.confirmed)
            self.opens_at = self.now + SPACING.confirmed

    @rule()
    def an_op_9_is_reported(self) -> None:
        self.engine.put_off(SPACING.confirmed)
        self.opens_at = max(self.opens_at, self.now + SPACING.confirmed)

    @rule(number=replicas)
    def a_replica_dies_and_another_joins(self, number: int) -> None:
        self.replicas[number] = self.joined()

    @rule(number=replicas)
    def join_again(self, number: int) -> None:
        replica = self.replicas[number]
        if replica.era != self.engine.era and replica.claim is None:
            self.replicas[number] = self.joined()

    @rule()
    def everything_is_lost(self) -> None:
        self.engine = Engine(self.engine.era + 1)


TestAnyNews = AnyNews.TestCase
TestAnyNews.settings = settings(max_examples=300, stateful_step_count=60)


@pytest.fixture
def pace() -> SharedPace:
    """A bucket that has been known, and open, for long."""
    return SharedPace(version=7, opens_at=0.0, window=WINDOW)


def claimed(version: int) -> News:
    return News(version, version - 1, "claimed", 5.5, written=False)


def handed_over(version: int) -> News:
    return News(version, version, "handed_over", 5.5, written=True)


def test_a_claim_of_another_counts_from_the_end_of_its_window(pace: SharedPace) -> None:
    pace.learn(claimed(8), 100.0)

    assert (pace.version, pace.opens_at) == (8, late(106.5))


def test_from_the_report_on_only_the_interval_counts(pace: SharedPace) -> None:
    pace.learn(claimed(8), 100.0)
    pace.learn(handed_over(8), 100.2)

    assert pace.opens_at == late(105.7)


def test_a_report_that_comes_late_delays_nothing(pace: SharedPace) -> None:
    pace.learn(claimed(8), 100.0)
    pace.learn(handed_over(8), 104.0)

    assert pace.opens_at == late(106.5)


def test_what_is_older_than_what_is_known_changes_nothing(pace: SharedPace) -> None:
    pace.learn(claimed(9), 100.0)
    pace.learn(handed_over(8), 100.1)

    assert (pace.version, pace.opens_at) == (9, late(106.5))


def test_a_claim_that_is_given_back_leaves_the_bucket_as_it_was(pace: SharedPace) -> None:
    pace.learn(claimed(8), 100.0)
    pace.learn(News(9, 8, "given_back", 5.5, written=True), 101.5)

    assert (pace.version, pace.opens_at) == (9, 0.0)


def test_who_missed_the_claim_does_not_know_what_its_giving_back_means(pace: SharedPace) -> None:
    pace.learn(News(9, 8, "given_back", 5.5, written=True), 101.5)

    assert (pace.version, pace.opens_at) == (9, late(107.0))


def test_who_missed_what_came_before_the_claim_does_not_know_it_either(pace: SharedPace) -> None:
    pace.learn(claimed(8), 100.0)
    pace.learn(claimed(10), 110.0)
    pace.learn(News(11, 10, "given_back", 5.5, written=True), 111.5)

    assert (pace.version, pace.opens_at) == (11, late(117.0))


def test_a_claim_that_can_no_longer_be_executed_delays_nothing(pace: SharedPace) -> None:
    pace.learn(News(8, 7, "forestalled", 5.5, written=True), 100.0)

    assert (pace.version, pace.opens_at) == (8, 0.0)


def test_a_bucket_is_put_off_only_if_it_would_open_earlier(pace: SharedPace) -> None:
    pace.learn(claimed(8), 100.0)
    pace.learn(News(9, 8, "put_off", 5.5, written=False, after=5.3), 100.1)
    assert pace.opens_at == late(106.5)

    pace.learn(News(10, 9, "put_off", 5.5, written=False, after=5.3), 103.0)
    assert pace.opens_at == late(108.3)


def test_a_confirmation_ends_the_hold(pace: SharedPace) -> None:
    pace.learn(News(8, 7, "claimed", 10.0, written=False), 100.0)
    pace.learn(News(8, 8, "handed_over", 10.0, written=True), 100.0)
    pace.learn(News(9, 8, "confirmed", 5.3, written=True), 100.4)

    assert pace.opens_at == late(105.7)


def test_nothing_is_claimed_while_an_answer_of_ours_is_in_hand(pace: SharedPace) -> None:
    pace.claimed(8, 5.5)
    assert pace.ready_at == math.inf

    pace.handed_over(8, 100.3)
    assert (pace.version, pace.ready_at) == (8, late(105.8))


def test_our_own_hand_over_counts_more_than_what_we_hear_of_it(pace: SharedPace) -> None:
    pace.learn(claimed(8), 100.0)
    pace.claimed(8, 5.5)
    pace.handed_over(8, 100.1)
    pace.learn(claimed(8), 100.2)

    assert pace.ready_at == late(105.6)


def test_a_claim_that_we_give_back_is_in_no_hand(pace: SharedPace) -> None:
    pace.claimed(8, 5.5)
    pace.given_back(8)

    assert (pace.version, pace.ready_at) == (7, 0.0)
