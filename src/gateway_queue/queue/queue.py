"""The queue: tells each shard when it may identify.

It routes each request to its bucket, and keeps as many buckets as Discord's max_concurrency
calls for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from itertools import count

import trio

from gateway_queue.queue.bucket import PORTION, Bucket
from gateway_queue.queue.coverage import Coverage
from gateway_queue.queue.events import (
    BucketsChanged,
    ConfirmationIgnored,
    InvalidSession,
    Left,
    PutOff,
    Queued,
    Report,
    ShardMissing,
)
from gateway_queue.queue.journal import Start
from gateway_queue.queue.ledger import Member
from gateway_queue.queue.rules.allowance import SessionStartLimit
from gateway_queue.queue.rules.line import Line, Move, Place, Seat, key_of
from gateway_queue.queue.rules.pace import Layout, Outcome, Pace, Spacing, late
from gateway_queue.queue.shared_bucket import SharedBucket
from gateway_queue.queue.starts import Starts
from gateway_queue.queue.turn import Client, Turn

# A confirmation counts for this many seconds after its grant. Each repetition postpones the
# bucket's opening, so a client that confirmed on every heartbeat would block everyone else.
CONFIRM_WITHIN = 60.0

# The most buckets that grant in one step, which then takes a few milliseconds.
TOGETHER = 32


@dataclass(frozen=True, slots=True)
class LimitsFailure:
    """Why the last reading of the limits failed, and when (seconds on the trio clock)."""

    why: str
    at: float


@dataclass(frozen=True, slots=True)
class Gateway:
    """The rest of Discord's ``GET /gateway/bot``, for sharders that ask us instead of Discord.

    https://discord.com/developers/docs/events/gateway#get-gateway-bot
    """

    url: str
    shards: int


class Queue:
    """All buckets of a bot.

    ``interval`` and ``seat_ttl`` are in seconds. Nothing is known about the time before the
    queue was created, so every bucket opens one interval later, or one hold later if the
    journal cannot rule out that a turn with ``confirm`` was granted just before.
    """

    def __init__(
        self,
        *,
        starts: Starts,
        layout: Layout,
        interval: float,
        seat_ttl: float,
        report: Report,
    ) -> None:
        self.starts = starts
        self.layout = layout
        self.report = report
        self.configured = Spacing.of(interval)
        self.started_at = trio.current_time()
        self.ending = False
        self.gateway: Gateway | None = None
        self.limits_failure: LimitsFailure | None = None
        self.coverage = Coverage()
        self._ledger = ledger = starts.journal.ledger
        self._seat_ttl = seat_ttl
        self._seats = count(1 if ledger is None else ledger.first_seat)
        self._resized = trio.Event()
        self._former: list[Bucket] = []  # from before a resize; may still have arrivals
        self._move = Move[Turn]()
        self._ended = trio.Event()
        self._turns: dict[Turn, None] = {}  # unfinished, in order of arrival
        self._turn_ended = trio.Event()
        self._closed = False
        self._warned_of_numberless = False
        self._repeated: dict[int, int] = {}  # grants confirmed too late, by shard
        starts.count_nameless_as_one(really=layout.buckets == 1)
        self.buckets = [
            self._bucket(index, Pace(self.spacing, self._opens_at(index)))
            for index in range(layout.buckets)
        ]
        if ledger is not None:
            ledger.restore(self)

    @property
    def spacing(self) -> Spacing:
        """The seconds between grants, as configured or as slowed down by an operator."""
        return self.starts.orders.spacing(self.configured)

    async def run(self) -> None:
        """Run the buckets' tasks. Never returns."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._put_off_the_patient)
            while True:
                await self._settle()
                await self._run_buckets()

    def turn(
        self,
        shard: int | None,
        client: Client,
        *,
        confirm: bool = False,
        wait: float | None = None,
    ) -> Turn:
        """Start a turn in the line of the shard's bucket; use it as a context manager.

        ``wait``: seconds after which the client wants to be told to ask again.
        """
        turn = Turn(shard, client, confirm=confirm, wait=wait, done=self.done)
        self.admit(turn)
        return turn

    def admit(self, turn: Turn) -> None:
        """Put a turn into the line of its shard's bucket; its end calls `done`."""
        if turn.shard is None:
            self._warn_of_numberless()
        self._turns[turn] = None
        if self._closed:
            turn.drop()
        else:
            self.bucket_of(turn.shard).admit(turn)

    def bucket_of(self, shard: int | None) -> Bucket:
        return self.buckets[self.layout.bucket_of(shard)]

    def place_of(self, shard: int) -> Place[Turn] | None:
        """The shard's seats and requests; None if it has none."""
        self._move.fetch(shard)
        return self.bucket_of(shard).line.of(shard)

    def forget_absent(self, shard: int) -> None:
        """Forget the seats that clients of a shard have left."""
        self._move.fetch(shard)
        self.bucket_of(shard).line.forget_absent(shard)

    def read(self, limit: SessionStartLimit, gateway: Gateway, sent_at: float) -> None:
        """Take Discord's answer to a request that was sent at ``sent_at``."""
        self.gateway = gateway
        self.starts.read(limit, sent_at)
        self.coverage = Coverage()
        if self._ledger is not None:
            self._ledger.keep_limit(limit, gateway)
        if limit.max_concurrency != self.layout.max_concurrency:
            self._resize(Layout(limit.max_concurrency, self.layout.cap))
        self._look_again()

    def follow_orders(self) -> None:
        """Apply the operator's orders after they have changed."""
        for bucket in self.buckets:
            bucket.pace.spacing = self.spacing
        self.coverage = Coverage()
        self._look_again()

    def confirm(
        self, shard: int, outcome: Outcome = "identified", grant: int | None = None
    ) -> bool:
        """Record what a client reports about a grant; False if there is no such grant.

        ``grant`` is the grant's number; the default is the shard's latest. Reports about an
        earlier grant, or that come later than any identify could take, change nothing.
        """
        now = trio.current_time()
        latest = self.starts.latest(shard, now)
        if latest is None or (grant is not None and grant > latest.number):
            return False
        bucket = self.bucket_of(shard)
        if outcome == "invalid_session":
            self.report(InvalidSession(shard, bucket.index))
        if grant is not None and grant < latest.number:
            self.report(ConfirmationIgnored(shard, grant, "outdated"))
        elif now > latest.at + CONFIRM_WITHIN:
            self._warn_of_repetition(shard, latest.number)
        else:
            bucket.pace.confirm(latest.number, now, outcome)
            if self._ledger is not None:
                opens_in = bucket.pace.opens_at - now
                self._ledger.moved(bucket.index, len(self.buckets), latest.number, opens_in)
            bucket.look_again()
        return True

    def end(self) -> None:
        """From now on, tell clients that set ``wait`` to ask again; the others keep waiting."""
        self.ending = True
        self._ended.set()

    async def empty(self) -> None:
        """Return once no turn is waiting and no answer is still being sent."""
        while self._turns:
            self._turn_ended = trio.Event()
            await self._turn_ended.wait()

    async def close(self) -> None:
        """Drop all waiting turns, then wait for the answers that are still being sent.

        Call this after the tasks have ended, when nothing can be granted any more.
        """
        self._closed = True
        for number, turn in enumerate(list(self._turns), start=1):
            turn.drop()
            if number % PORTION == 0:
                await trio.lowlevel.checkpoint()
        await self.empty()

    def seat(self, turn: Turn) -> Bucket:
        """Seat a turn in its shard's current bucket, unless it already has a seat."""
        bucket = self.bucket_of(turn.shard)
        self._move.fetch(key_of(turn))
        if turn.is_in_line is not None:
            return bucket
        returns = bucket.line.arrive(turn, turn.arrived_at)
        turn.is_in_line = True
        if turn.patient and self.ending:
            turn.waiting.cancel()
        position = bucket.line.position(turn)
        self.report(Queued(turn.shard, bucket.index, position, returns))
        return bucket

    def dismiss(self, turn: Turn) -> None:
        """Take a turn that was not granted out of the line; its seat is kept for a while."""
        now = trio.current_time()
        bucket = self.seat(turn)
        if not bucket.line.away:
            bucket.look_again()  # now there is a seat that will expire
        since = bucket.line.since(turn)
        bucket.line.leave(turn, now)
        turn.is_in_line = False
        if turn.was_put_off:
            self.report(PutOff(turn.shard))
        else:
            self.report(Left(turn.shard, now - since))

    def done(self, turn: Turn) -> None:
        """Take out a turn that has ended."""
        del self._turns[turn]
        self._turn_ended.set()
        if turn.handed_over is not None:
            self.report(turn.handed_over)
        elif turn.grant is not None:
            self.end_hand_over(turn.grant)
        elif turn.is_in_line is not False and not self._closed:
            self.dismiss(turn)

    def grant_together(self, bucket: Bucket, now: float) -> None:
        """Grant the next in this bucket, which may do so, and in others that are due as well.

        All are recorded in one write, before the first is handed over. Those with the best
        seats go first, if there are too many for one step, or for the starts that are left.
        """
        if self._former:  # it is one of these, and not everybody has moved to today's
            return
        due = (b for b in self.buckets if b is bucket or b.is_due(now))
        at_most = min(TOGETHER, self.starts.left(now))
        first = nsmallest(at_most, due, key=lambda b: b.line.next_number(now))
        each = PORTION // max(1, len(first))
        picked = [(b, turn) for b in first if (turn := b.next_who_is_here(now, each))]
        if picked:
            numbers = self.starts.spend([Start(t.shard, b.index, t.confirm) for b, t in picked])
            for (b, turn), number in zip(picked, numbers, strict=False):
                self.starts.count(turn.shard, number, confirm=turn.confirm)
                b.hand_over(turn, number, now)

    def end_hand_over(self, grant: int) -> None:
        """A grant that was in hand has been handed over."""
        now = trio.current_time()
        for bucket in self.buckets:  # after a resize, all of them may have it in hand
            if grant in bucket.pace.in_hand:
                bucket.pace.handed_over(grant, now)
                bucket.look_again()

    def give_back(self, grant: int) -> None:
        """A grant that was in hand was not handed over, and never will be."""
        for bucket in self.buckets:
            if grant in bucket.pace.in_hand:
                bucket.pace.given_back(grant)
                bucket.look_again()

    def members(self) -> list[Member] | None:
        """The replicas that share this queue; None where there is one process."""
        return None if self._ledger is None else self._ledger.members()

    def remember(self, seats: Mapping[int, Sequence[Seat]]) -> None:
        """Keep these seats, which shards had in an earlier queue, for a while."""
        now = trio.current_time()
        for shard, kept in seats.items():
            self.bucket_of(shard).line.admit(Place(shard, list(kept), left_at=now))

    def _resize(self, layout: Layout) -> None:
        old, self.layout = self.buckets, layout
        self.starts.count_nameless_as_one(really=layout.buckets == 1)
        self.buckets = [
            self._bucket(index, Pace.merged(bucket.pace for bucket in old))
            for index in range(layout.buckets)
        ]
        while self._move:
            self._move.some(PORTION)
        self._move = Move(
            [bucket.line for bucket in old],
            [bucket.line for bucket in self.buckets],
            layout.bucket_of,
        )
        self._former += old
        self._resized.set()
        self.report(BucketsChanged(layout.max_concurrency, layout.buckets, len(old)))

    async def _settle(self) -> None:
        """Move everybody to the current buckets, a portion at a time."""
        await self._move_all()
        while self._former:
            if not self._former[0].take_arrivals(PORTION):
                del self._former[0]
            await trio.lowlevel.checkpoint()

    async def _move_all(self) -> None:
        while self._move:
            self._move.some(PORTION)
            await trio.lowlevel.checkpoint()

    async def _run_buckets(self) -> None:
        """Run the buckets' tasks until a resize replaces the buckets."""
        async with trio.open_nursery() as nursery:
            for bucket in self.buckets:
                nursery.start_soon(bucket.run, name=f"bucket {bucket.index}")
            await self._resized.wait()
            self._resized = trio.Event()
            nursery.cancel_scope.cancel()

    async def _put_off_the_patient(self) -> None:
        """When the queue ends, tell clients that set ``wait`` to ask again, in portions."""
        await self._ended.wait()
        await self._move_all()
        waiting = [turn for bucket in self.buckets for turn in bucket.line]
        for number, turn in enumerate(waiting, start=1):
            if turn.patient:
                turn.waiting.cancel()
            if number % PORTION == 0:
                await trio.lowlevel.checkpoint()

    def _look_again(self) -> None:
        for bucket in self.buckets:
            bucket.look_again()

    def _bucket(self, index: int, pace: Pace) -> Bucket:
        make = Bucket if self._ledger is None else SharedBucket
        return make(
            index,
            pace=pace,
            line=Line(self._seats, self._seat_ttl, self.starts.restarting.eligible_at),
            starts=self.starts,
            report=self.report,
            usher=self,
        )

    def _opens_at(self, bucket: int) -> float:
        """When a bucket may grant of which nothing is known but what is recorded."""
        if self._ledger is not None:
            return self._ledger.opens_at(bucket, self.layout.buckets, self.spacing)
        wait = self.spacing.after_grant(confirm=self.starts.journal.may_hold)
        return late(self.started_at + wait)

    def _warn_of_repetition(self, shard: int, grant: int) -> None:
        if self._repeated.get(shard) != grant:
            self._repeated[shard] = grant
            self.report(ConfirmationIgnored(shard, grant, "late"))

    def _warn_of_numberless(self) -> None:
        if len(self.buckets) > 1 and not self._warned_of_numberless:
            self._warned_of_numberless = True
            self.report(ShardMissing())
