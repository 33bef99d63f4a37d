"""What a bot's leader records in the engine for the next leader.

Grants are recorded by the replicas that give them. Everything else is written a moment after it
happened, in batches.
"""

import json
import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import structlog
import trio

from gateway_queue.queue.events import Event
from gateway_queue.queue.journal import JournalError, Order, OrderKind, Past, Start
from gateway_queue.queue.ledger import Fate, Member
from gateway_queue.queue.queue import Gateway, Queue
from gateway_queue.queue.rules.allowance import DAY, SessionStartLimit
from gateway_queue.queue.rules.line import Seat
from gateway_queue.queue.rules.pace import Spacing
from gateway_queue.queue.turn import Turn
from gateway_queue.replicas.desk import Desk
from gateway_queue.replicas.engine import EngineError, Led
from gateway_queue.replicas.post import AGAIN

log = structlog.get_logger()

# How long a new leader waits for the replicas to name their clients before it grants anything.
TELL = 0.3

# How long changes are collected before they are written, in seconds.
COLLECT = 0.02

# How often forgotten seats are removed from the engine, in seconds.
TIDY = 60.0

Fields = dict[str, dict[str, str]]


@dataclass(frozen=True, slots=True)
class Records:
    """What was found in the engine when a term began, by the bots' application ids."""

    numbers: Mapping[str, str]  # of the latest grants
    grants: Mapping[str, list[tuple[int, Any]]]  # when, in Unix milliseconds; and its row
    fields: Mapping[tuple[str, str], dict[str, Any]]  # by kind and bot: by the rest of the name

    def of(self, kind: str, bot: str) -> dict[str, Any]:
        """The fields of a kind that belong to a bot."""
        return self.fields.get((kind, bot), {})


# What is kept in fields. A field's name is the bot's, followed by a shard or a kind of order if it
# has several.
KINDS = ("seats", "orders", "forgiven", "limits")


class Journals:
    """The journals of all bots, for one term."""

    def __init__(self, desk: Desk, led: Led, records: Records) -> None:
        self.desk = desk
        self.led = led
        self.began_at = trio.current_time()
        self._records = records
        self._notes: Fields = {}
        self._gone: dict[str, set[str]] = {}
        self._events: list[str] = []
        self._journals: dict[str, SharedJournal] = {}
        self._more = trio.Event()

    @classmethod
    async def open(cls, desk: Desk, led: Led) -> "Journals":
        """Read what earlier leaders left. Raises EraOverError."""
        engine = desk.replica.engine
        was_told = False
        while True:
            try:
                numbers = await engine.fields("numbers")
                fields = {kind: await engine.fields(kind) for kind in KINDS}
                since = led.time - int(DAY * 1000)
                grants = {bot: await engine.grants(bot, since) for bot in numbers}
            except EngineError as error:
                if not was_told:
                    log.error("engine_away", error=str(error), meanwhile="nobody is granted")
                was_told = True
                await trio.sleep(AGAIN)
            else:
                return cls(desk, led, Records(numbers, grants, _by_bot(fields)))

    def of(self, bot: str) -> "SharedJournal":
        """The journal of the bot with this application id."""
        journal = self._journals.get(bot)
        if journal is None:
            journal = self._journals[bot] = SharedJournal(self, bot, self._records)
        return journal

    def note(self, kind: str, field: str, value: object) -> None:
        """Keep a field; None: remove it."""
        if value is None:
            self._notes.get(kind, {}).pop(field, None)
            self._gone.setdefault(kind, set()).add(field)
        else:
            self._gone.get(kind, set()).discard(field)
            self._notes.setdefault(kind, {})[field] = json.dumps(value)
        self._more.set()

    def time(self) -> float:
        """The time by the engine's clock, in Unix seconds: for ages, and nothing else."""
        return self.led.time / 1000 + trio.current_time() - self.began_at

    def tell(self, event: dict[str, Any]) -> None:
        """Send an event to all replicas."""
        self._events.append(json.dumps(event))
        self._more.set()

    def wake(self) -> None:
        """There is something to write."""
        self._more.set()

    async def run(self) -> None:
        """Write down what happens, forever. Raises EraOverError and TermOverError."""
        tidied_at = trio.current_time()
        while True:
            with trio.move_on_after(TIDY):
                await self._more.wait()
            await trio.sleep(COLLECT)
            self._more = trio.Event()
            for journal in self._journals.values():
                journal.note_seats()
            if trio.current_time() > tidied_at + TIDY:
                tidied_at = trio.current_time()
                for journal in self._journals.values():
                    journal.tidy()
            await self._write()

    async def _write(self) -> None:
        gone = {kind: sorted(fields) for kind, fields in self._gone.items() if fields}
        settled = self.desk.offers.pop_settled()
        given = {"fields": self._notes, "gone": gone, "events": self._events, "settled": settled}
        self._notes, self._gone, self._events = {}, {}, []
        if not any(given.values()):
            return
        replica = self.desk.replica
        while True:
            try:
                await replica.engine.step("note", self.desk.era, term=self.desk.term, **given)
            except EngineError:
                await trio.sleep(AGAIN)
            else:
                return


def _by_bot(kinds: Mapping[str, Mapping[str, str]]) -> dict[tuple[str, str], dict[str, Any]]:
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for kind, fields in kinds.items():
        for name, value in fields.items():
            bot, _, rest = name.partition(" ")
            found.setdefault((kind, bot), {})[rest] = json.loads(value)
    return found


class SharedJournal:
    """What the leader of one bot records, and reads when its term begins."""

    name = "redis"
    survives_restart = True
    may_hold = False  # `opens_at` says when the buckets open

    def __init__(self, journals: Journals, bot: str, records: Records) -> None:
        self._journals = journals
        self._desk = journals.desk
        self._bot = bot
        self._queue: Queue | None = None
        self._changed: set[int] = set()  # shards whose seats may differ from what was written
        # The numbers of the seats that were written, by their shards.
        self._noted = {
            int(shard): [number for number, _ in kept]
            for shard, kept in records.of("seats", bot).items()
        }
        self._records = records
        self._orders: dict[str, Any] = records.of("orders", bot)
        self._forgiven = {int(shard): n for shard, n in records.of("forgiven", bot).items()}
        now = trio.current_time()
        # The number, when it was granted, the shard, and whether it was with `confirm`.
        self._rows: deque[tuple[int, float, int | None, bool]] = deque()
        for at, (number, shard, _, confirm) in records.grants.get(bot, ()):
            age = max(0.0, (journals.led.time - at) / 1000)
            self._rows.append((number, now - age, shard, confirm))
        self._number = int(records.numbers.get(bot, 0))
        self._limits: dict[str, Any] | None = records.of("limits", bot).get("")

    # The journal ----------------------------------------------------------------------

    @property
    def ledger(self) -> "SharedJournal":
        return self

    def record(self, starts: Sequence[Start]) -> Sequence[int]:  # noqa: ARG002
        """Grants are recorded by the replica that gives them."""
        raise JournalError("grants of several replicas are recorded where they are given")

    def check(self) -> None:
        if fault := self._desk.replica.fault:
            raise JournalError(f"Redis cannot be used: {fault}")

    def check_owner(self) -> None:
        self.check()

    def last_day(self) -> list[Past]:
        now = trio.current_time()
        return [
            Past(number, now - at, shard, confirm)
            for number, at, shard, confirm in self._rows
            if at > now - DAY
        ]

    def order(self, kind: OrderKind, order: Order | None) -> None:
        self.check()
        value = None
        if order is not None:
            now = self._journals.time()
            until = None if order.left == math.inf else now + order.left
            value = {"value": order.value, "given_at": now - order.age, "until": until}
        self._orders[kind] = value
        self._journals.note("orders", f"{self._bot} {kind}", value)

    def orders(self) -> dict[OrderKind, Order]:
        now = self._journals.time()
        kept: dict[OrderKind, Order] = {}
        kinds: tuple[OrderKind, ...] = ("pause", "slower")
        for kind in kinds:
            if found := self._orders.get(kind):
                until = math.inf if found["until"] is None else found["until"]
                if until > now:
                    age = max(0.0, now - found["given_at"])
                    kept[kind] = Order(found["value"], age, until - max(now, found["given_at"]))
        return kept

    def forgive(self, shard: int) -> None:
        self.check()
        self._forgiven[shard] = self._number
        self._journals.note("forgiven", f"{self._bot} {shard}", self._number)

    def forgiven(self) -> dict[int, int]:
        return self._forgiven

    # The ledger -----------------------------------------------------------------------

    @property
    def max_concurrency(self) -> int | None:
        """What Discord said last, if that is known."""
        return self._limits["max_concurrency"] if self._limits else None

    @property
    def first_seat(self) -> int:
        seats = self._records.of("seats", self._bot).values()
        numbers = [number for kept in seats for number, _ in kept]
        return max(numbers, default=0) + 1

    @property
    def is_away(self) -> bool:
        return self._desk.replica.fault is not None

    def members(self) -> list[Member]:
        return self._desk.members(self._bot)

    def next_number(self) -> int:
        self._number += 1
        return self._number

    async def offer(self, turn: Turn, number: int, bucket: int, seconds: float) -> bool:
        assert self._queue is not None  # noqa: S101 - it offers
        name = self._name(number)
        about = [self._bot, bucket, len(self._queue.buckets), number]
        request = turn.client.request  # type: ignore[attr-defined]
        item = ["offer", name, request, about, turn.confirm, turn.shard, seconds]
        is_taken = await self._desk.offer(name, turn, item)
        if is_taken:
            now = trio.current_time()
            self._rows.append((number, now, turn.shard, turn.confirm))
            while self._rows[0][1] < now - DAY:
                self._rows.popleft()
        return is_taken

    async def fate(self, number: int) -> Fate:
        return await self._desk.offers.fate(self._name(number))

    def opens_at(self, bucket: int, buckets: int, spacing: Spacing) -> float:
        # If there are rows, and none of them with `confirm`, no earlier grant had it either.
        may_hold = not self._rows or any(confirm for *_, confirm in self._rows)
        unknown = spacing.after_grant(confirm=may_hold)
        heard_at = self._desk.replica.heard.opens_at(self._bot, bucket, buckets, unknown)
        return max(heard_at, self._journals.began_at + TELL)

    def restore(self, queue: Queue) -> None:
        self._queue = None
        now, now_by_engine = trio.current_time(), self._journals.time()
        # Grants of an earlier era that would have to be subtracted may be lost.
        limits = self._limits
        if limits and limits["era"] == self._desk.era:
            names = ("total", "remaining", "reset_after", "max_concurrency")
            limit = SessionStartLimit(**{name: limits[name] for name in names})
            age = max(0.0, now_by_engine - limits["sent_at"])
            gateway = Gateway(limits["url"], limits["shards"])
            if queue.starts.allowance.read_from_discord:
                queue.read(limit, gateway, now - age)
        given_at = self._given_at()
        seats: dict[int, list[Seat]] = {}
        for name, noted in self._records.of("seats", self._bot).items():
            shard = int(name)
            kept = [Seat(number, now - max(0.0, now_by_engine - since)) for number, since in noted]
            seats[shard] = [seat for seat in kept if seat.since > given_at.get(shard, -math.inf)]
        queue.remember({shard: kept for shard, kept in seats.items() if kept})
        self._queue = queue
        # Whoever leads next may not have heard of these grants any more.
        self._changed.update(shard for shard in given_at if shard is not None)
        self._journals.wake()

    def _given_at(self) -> dict[int | None, float]:
        """When shards were granted whose seats may still be noted: a moment before the term."""
        given = self._desk.replica.heard.given(self._bot)
        return {shard: at for number, at, shard, _ in self._rows if number in given}

    # What is noted --------------------------------------------------------------------

    def watch(self, event: Event) -> None:
        """Take an event of the queue: the shard may have other seats now."""
        shard = getattr(event, "shard", None)
        if shard is not None:
            self._changed.add(shard)
            self._journals.wake()

    def note_seats(self) -> None:
        """Write down the seats that changed."""
        changed, self._changed = self._changed, set()
        self._note(changed)

    def tidy(self) -> None:
        """Remove seats that were forgotten."""
        queue = self._queue
        if queue is not None:
            self._note([shard for shard in self._noted if queue.place_of(shard) is None])

    def keep_limit(self, limit: SessionStartLimit, gateway: Gateway) -> None:
        """Keep the limits that Discord gave."""
        if self._queue is not None:
            about = {"sent_at": self._journals.time(), "era": self._desk.era}
            self._limits = {**asdict(limit), **asdict(gateway), **about}
            self._journals.note("limits", f"{self._bot} ", self._limits)

    def moved(self, bucket: int, buckets: int, number: int, seconds: float) -> None:
        """Tell all replicas when a bucket opens, because a grant was confirmed."""
        about = [self._bot, bucket, buckets, number]
        self._journals.tell({"what": "moved", "about": about, "seconds": seconds})

    def _note(self, shards: Iterable[int]) -> None:
        if self._queue is None:
            return
        now, now_by_engine = trio.current_time(), self._journals.time()
        for shard in shards:
            place = self._queue.place_of(shard)
            seats = place.seats if place is not None else []
            numbers = [seat.number for seat in seats]
            if numbers == self._noted.get(shard, []):
                continue  # its client left or came back, and the place is the same
            self._noted.pop(shard, None)
            if numbers:
                self._noted[shard] = numbers
            kept = [(seat.number, now_by_engine - (now - seat.since)) for seat in seats]
            self._journals.note("seats", f"{self._bot} {shard}", kept or None)

    def _name(self, number: int) -> str:
        return f"{self._desk.term} {self._bot} {number}"
