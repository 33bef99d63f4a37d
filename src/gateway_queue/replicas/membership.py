"""One of several replicas: it joins, sends heartbeats, hears the news, and may become the leader.

Each term has one leader, and ends when another replica begins the next term. Nobody needs to
notice that in time: every step of a leader names its term, and is refused once that is over.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
import trio

from gateway_queue.queue.journal import JournalError
from gateway_queue.queue.rules.heard import Heard
from gateway_queue.replicas.engine import (
    FAILOVER,
    BuriedError,
    Engine,
    EngineError,
    EraOverError,
    Joined,
    Led,
    TermOverError,
)
from gateway_queue.replicas.post import Number

log = structlog.get_logger()

# Seconds between two heartbeats.
BEAT = 0.25

# A replica is considered dead after this many seconds without a heartbeat, if this many of one's
# own were answered in the meantime: so if the engine hangs, nobody is considered dead.
DEAD = 1.0
BEATS_MEANWHILE = 3

# After this many seconds a dead replica is forgotten. If it is alive after all, it joins again.
FORGET = 60.0

# Others wait this many seconds, so that a replica that led before the state was lost can lead
# again: it remembers the seats.
YIELD = 0.3

# Seconds from a failure to the next attempt: doubled each time, from the first to the longest.
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 2.0


class DifferentSettingsError(JournalError):
    """The leader has different settings; the message names them."""


@dataclass(slots=True)
class Life:
    """A replica as seen from here: its heartbeats, and when the latest was noticed."""

    beats: int
    since: float
    own_beats: int = 0  # heartbeats of this replica since then


class Ears(Protocol):
    """Who is told what is heard. Items are lists; the first element says what they are."""

    def hear(self, event: dict[str, Any], now: float) -> None:
        """Handle an event for all replicas."""
        ...

    def read(self, sender: str, number: Number, items: Sequence[list[Any]]) -> None:
        """Handle a message to this replica."""
        ...


class Office(Protocol):
    """What a leader does."""

    def open(self, term: int) -> Ears:
        """Be ready to hear what comes in this term, should it begin."""
        ...

    async def lead(self, led: Led) -> None:
        """Lead for a term. Raises EngineError, EraOverError and TermOverError."""
        ...


class Replica:
    """This process, as one of several.

    ``about``: the settings that must be the same everywhere, as text.
    """

    def __init__(self, name: str, engine: Engine, about: str) -> None:
        self.name = name
        self.engine = engine
        self.heard = Heard(trio.current_time())
        self.era = ""
        self.eras = 0
        self.term = 0
        self.leader = ""  # empty: nobody leads
        self.lives: dict[str, Life] = {}
        self.fault: str | None = None  # why the engine cannot be used
        self.ending = False
        self.desk: Ears | None = None  # while this one leads
        self.doorman: Ears | None = None
        self.changed = trio.Event()  # set when the era, the term or the leader changes
        self._about = about
        self._events = 0
        self._warned_of: set[str] = set()
        self._led_before = False
        self._leading = trio.CancelScope()
        self._has_heard_own_term = trio.Event()
        self._vacant = trio.Event()

    @property
    def is_leading(self) -> bool:
        return bool(self.leader) and self.leader == self.name

    def why_not_ready(self) -> str | None:
        """Why nothing can be granted here; None if nothing is wrong with this replica."""
        if self.fault is not None:
            return f"Redis cannot be used: {self.fault}"
        return None if self.leader else "no replica leads yet"

    def is_silent(self, replica: str, now: float) -> bool:
        """Whether a replica is considered dead."""
        life = self.lives.get(replica)
        if life is None:
            return True
        return now > life.since + DEAD and life.own_beats >= BEATS_MEANWHILE

    async def run(self, office: Office) -> None:
        """Be one of the replicas, forever, and do the leader's work while leading."""
        while True:
            await self._join()
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._beat)
                    nursery.start_soon(self._listen)
                    nursery.start_soon(self._lead_when_needed, office)
            except* (EraOverError, BuriedError) as over:
                why = "era_over" if over.subgroup(EraOverError) else "taken_for_dead"
                log.warning("replica_joins_again", why=why)

    def forgotten(self) -> list[str]:
        """The replicas that have been dead for so long that they can be forgotten."""
        now = trio.current_time()
        return [
            name
            for name, life in self.lives.items()
            if self.is_silent(name, now) and now > life.since + FORGET
        ]

    def others(self) -> list[str]:
        """The other replicas that are alive."""
        now = trio.current_time()
        return [name for name in self.lives if name != self.name and not self.is_silent(name, now)]

    async def resign(self) -> None:
        """Hand over the lead, if there is another replica. This one never leads again."""
        self.ending = True
        if self.is_leading and self.others():
            self._leading.cancel()
            await self._try("resign", term=self.term)

    async def leave(self) -> None:
        """Tell the others that no client is held here any more."""
        await self._try("bury", replica=self.name)

    async def _try(self, step: str, **given: object) -> None:
        try:
            await self.engine.step(step, self.era, **given)
        except (EngineError, EraOverError, TermOverError) as error:
            log.debug("step_failed", step=step, error=str(error))

    async def _join(self) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                joined = await self.engine.join(self.name, self.era, self._events)
                break
            except EngineError as error:
                self._note_fault(str(error))
            await trio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        self._note_fault(None)
        await self._check_settings(joined)
        await self._warn_of_weaknesses()
        if joined.era != self.era or joined.events != self._events:
            # In the previous era, another server may accept grants for a while.
            may_go_on = joined.era != self.era and joined.has_replicas
            self.heard.forget(trio.current_time() + (FAILOVER if may_go_on else 0.0))
        if joined.era != self.era:
            self.term, self.leader = 0, ""
            self.eras += 1
            log.info("replica_joined", replica=self.name, era=joined.era, leader=joined.leader)
        self.era, self._events = joined.era, joined.events
        self.lives.clear()
        self._see(joined.term, joined.leader)
        self._tell_changed()

    async def _warn_of_weaknesses(self) -> None:
        with suppress(EngineError):
            for weakness in await self.engine.weaknesses():
                if weakness not in self._warned_of:
                    self._warned_of.add(weakness)
                    log.warning("engine_weak", hint=weakness)

    async def _check_settings(self, joined: Joined) -> None:
        """Raise DifferentSettingsError if there is a living leader with different settings."""
        if joined.leader in {"", self.name} or joined.settings in {None, self._about}:
            return
        beats: set[int] = set()
        for _ in range(BEATS_MEANWHILE + 1):
            try:
                beat = await self.engine.beat(joined.era, self.name)
            except (EngineError, EraOverError, BuriedError):
                return  # the next attempt to join checks again
            beats.add(beat.beats.get(joined.leader, 0))
            await trio.sleep(DEAD / BEATS_MEANWHILE)
        if len(beats) > 1:
            raise DifferentSettingsError(difference(self._about, joined.settings or ""))

    async def _beat(self) -> None:
        while True:
            at, heard = trio.current_time(), self._events
            try:
                beat = await self.engine.beat(self.era, self.name)
            except EngineError as error:
                self._note_fault(str(error))
            else:
                self._note_fault(None)
                if beat.events < heard:  # the state is an earlier one again
                    raise EraOverError
                self._take_pulse(beat.beats, at)
                self._see(beat.term, beat.leader)
                self._consider_leading()
            await trio.sleep_until(at + BEAT)

    def _take_pulse(self, beats: Mapping[str, int], asked_at: float) -> None:
        now = trio.current_time()
        for replica in self.lives.keys() - beats.keys():
            if self.lives[replica].since < asked_at:  # otherwise it may have joined since
                del self.lives[replica]
        for replica, count in beats.items():
            life = self.lives.get(replica)
            if life is None or life.beats != count:
                self.lives[replica] = Life(count, now)
            else:
                life.own_beats += 1

    async def _listen(self) -> None:
        entry = 0
        while True:
            try:
                news = await self.engine.news(self.era, self.name, self._events, entry)
            except EngineError:
                await trio.sleep(FIRST_PAUSE)
                continue
            now = trio.current_time()
            for number, what in news.events:
                if number != self._events + 1:
                    log.warning("news_missed", after=self._events, before=number)
                    self.heard.forget(now)
                self._events = number
                self._hear(what, now)
            for entry, message in news.entries:  # noqa: B007 - the last one is needed above
                self._read(message)
            await trio.lowlevel.checkpoint()

    def _hear(self, event: dict[str, Any], now: float) -> None:
        match event:
            case {"what": "led", "term": term, "leader": leader}:
                self._see(term, leader)
                self._hear_of_term(term, leader)
            case {"what": "leads", "term": term, "leader": leader}:
                self._hear_of_term(term, leader)
            case {"what": "resigned", "term": term}:
                self._see(term, "")
            case {"what": "taken", "about": [bot, bucket, count, number], "seconds": seconds}:
                self.heard.taken(bot, bucket, count, number, seconds, now)
            case {"what": "written", "about": [bot, bucket, count, number], "seconds": seconds}:
                self.heard.written(bot, bucket, count, number, seconds, now)
            case {"what": "moved", "about": [bot, bucket, count, number], "seconds": seconds}:
                self.heard.moved(bot, bucket, count, number, seconds, now)
        if self.desk is not None:
            self.desk.hear(event, now)

    def _hear_of_term(self, term: int, leader: str) -> None:
        if (term, leader) == (self.term, self.name):
            self._has_heard_own_term.set()

    def _read(self, message: dict[str, Any]) -> None:
        sender, number, items = message["from"], tuple(message["number"]), message["items"]
        if message["term"] != self.term:
            return
        self._see_alive(sender)
        if sender == self.leader and message["to"] == "doorman" and self.doorman is not None:
            self.doorman.read(sender, number, items)
        elif message["to"] == "desk" and self.desk is not None:
            self.desk.read(sender, number, items)

    def _see(self, term: int, leader: str) -> None:
        if term < self.term or (term, leader) == (self.term, self.leader):
            return
        if leader != self.name:
            self._leading.cancel()
        self.term, self.leader = term, leader
        if leader:
            self._see_alive(leader)
        self._consider_leading()
        self._tell_changed()

    def _see_alive(self, replica: str) -> None:
        """Note a replica that may have joined since this one's last heartbeat."""
        if replica not in self.lives:
            self.lives[replica] = Life(0, trio.current_time())

    def _tell_changed(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    def _note_fault(self, fault: str | None) -> None:
        if fault is not None and self.fault is None:
            log.error("engine_away", error=fault, meanwhile="nobody is granted, all are held")
        if fault is None and self.fault is not None:
            log.info("engine_back")
        self.fault = fault

    async def heard_all(self) -> None:
        """Wait until everything from before the start of its own term has been heard.

        Raises EraOverError.
        """
        leads = json.dumps({"what": "leads", "term": self.term, "leader": self.name})
        while not self._has_heard_own_term.is_set():
            with trio.move_on_after(DEAD):
                await self._has_heard_own_term.wait()
                return
            with suppress(EngineError):  # that it leads may be lost
                await self.engine.step("tell", self.era, event=leads)

    async def _lead_when_needed(self, office: Office) -> None:
        while True:
            await self._vacant.wait()
            if not self._led_before and self.leader == "":
                await trio.sleep(YIELD)
            self._vacant = trio.Event()
            if self.ending or not self._is_vacant():  # another one leads by now
                continue
            self._has_heard_own_term = trio.Event()
            self.desk = office.open(self.term + 1)  # before anybody can know, and ask
            try:
                led = await self.engine.lead(self.era, self.name, self.term, self._about)
                self._see(led.term, self.name)
                if led.term == self.term:  # no later term is known
                    await self._lead(office, led)
            except* (EngineError, TermOverError):
                pass  # the next beat tells who leads
            finally:
                self.desk = None

    async def _lead(self, office: Office, led: Led) -> None:
        with trio.CancelScope() as self._leading:
            self._led_before = True
            log.info("leading", replica=self.name, term=led.term)
            await office.lead(led)
        log.info("leads_no_more", replica=self.name, term=led.term)

    def _consider_leading(self) -> None:
        if self._is_vacant() and not self.ending and self.desk is None:
            self._vacant.set()

    def _is_vacant(self) -> bool:
        """Whether there is no leader, so that this replica should lead."""
        if self.leader in {"", self.name}:
            return True
        return bool(self.lives) and self.is_silent(self.leader, trio.current_time())


def difference(ours: str, theirs: str) -> str:
    """A sentence about the settings in which two replicas differ."""
    here, there = json.loads(ours), json.loads(theirs)
    different = [
        f"{name} is {here.get(name)} here and {there.get(name)} there"
        for name in sorted(here.keys() | there.keys())
        if here.get(name) != there.get(name)
    ]
    return (
        f"this replica has other settings than the one that leads: {'; '.join(different)}."
        " All replicas need the same: change them here, or stop the others first"
    )
