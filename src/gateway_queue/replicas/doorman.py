"""Holds this replica's clients, and forwards their requests to the leader.

When a client is offered a grant, the doorman takes the offer, which records the grant, and hands
it over. It must do so within the time that the others allow for; after that, it gives it back.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import trio

from gateway_queue.queue.events import Granted
from gateway_queue.queue.rules.heard import WINDOW
from gateway_queue.queue.standing import Standing
from gateway_queue.queue.turn import Client, Turn
from gateway_queue.replicas.engine import EngineError, EraOverError, TermOverError
from gateway_queue.replicas.membership import Replica
from gateway_queue.replicas.post import AGAIN, NONE, Head, Number, Post, digest, follows

# How long to wait for the leader's answer, in seconds.
PATIENCE = 5.0

# How long a leader that is shutting down keeps leading, in seconds.
FAREWELL = 0.5


@dataclass(frozen=True, slots=True)
class Offer:
    """A grant that is offered to one of our clients.

    ``about``: the bot's application id, its bucket, of how many, and the grant's number.
    """

    name: str
    request: int
    about: tuple[str, int, int, int]
    shard: int | None
    confirm: bool
    seconds: float

    @property
    def number(self) -> int:
        return self.about[3]

    def event(self, what: str, replica: str) -> str:
        """What its replica, which has this name, tells all others of it."""
        told = {"what": what, "offer": self.name, "about": self.about, "seconds": self.seconds}
        return json.dumps({**told, "shard": self.shard, "held": [replica, self.request]})


@dataclass(frozen=True, slots=True)
class Page:
    """A request for a page, or the answer to one."""

    head: list[Any]  # method and target, or the status
    headers: list[tuple[str, str]]
    body: str  # in base64


class AwayError(Exception):
    """No leader answers."""


class Doorman:
    """The waiting requests of this replica's clients."""

    def __init__(self, replica: Replica) -> None:
        self.ending = False
        self._replica = replica
        self._numbers = count(1)
        self._held: dict[int, tuple[Turn, Callable[[], list[Any]]]] = {}
        self._ids: dict[Turn, int] = {}
        self._post: Post | None = None  # None: nobody leads
        self._last_read = "", NONE  # the leader who said something last, and its number
        self._taking: set[int] = set()  # requests whose offer is being taken
        self._told_again: set[int] = set()  # requests that the leader may hear of late
        self._asked: dict[int, _Answered] = {}  # questions to the leader, by their numbers
        self._given: dict[Turn, trio.Event] = {}  # grants that the client's own task hands over
        self._offers, self._offered = trio.open_memory_channel[Offer](math.inf)

    @property
    def name(self) -> str:
        """What this replica is called."""
        return self._replica.name

    @property
    def replicas(self) -> int:
        """How many replicas are alive, including this one."""
        return len(self._replica.others()) + 1

    @property
    def eras(self) -> int:
        """How many eras this replica has joined."""
        return self._replica.eras

    @property
    def engine_is_up(self) -> bool:
        """Whether Redis can be used."""
        return self._replica.fault is None

    @property
    def leads(self) -> bool:
        """Whether this replica is the one that leads."""
        return self._replica.is_leading

    def why_not_ready(self) -> str | None:
        """Why nobody can be granted here; None if nothing is wrong with this replica."""
        return self._replica.why_not_ready()

    @property
    def waiting(self) -> int:
        """How many requests are held here."""
        return len(self._held)

    def turn(
        self,
        bot: str,
        shard: int | None,
        client: Client,
        *,
        confirm: bool,
        wait: float | None,
        key: bytes | None,
    ) -> Turn:
        """A turn that waits for the leader to offer a grant; a context manager.

        ``key``: the API key that came with the request.
        """
        request = next(self._numbers)
        turn = Turn(shard, client, confirm=confirm, wait=wait, done=self._done)
        key_digest = None if key is None else digest(key)

        def ask() -> list[Any]:
            age = trio.current_time() - turn.arrived_at
            return ["ask", request, bot, shard, confirm, age, client.peer, key_digest]

        self._held[request] = turn, ask
        self._ids[turn] = request
        if self._post is not None:
            self._post.put(ask())
        if self.ending and wait is not None:
            turn.waiting.cancel()
        return turn

    async def standing_of(self, turn: Turn) -> Standing:
        """The standing of a turn that has ended without a grant, as its client wanted."""
        try:
            position, expected_in, reason, reset_in = await self._ask("stand", self._ids[turn])
        except AwayError:
            position, expected_in, reason, reset_in = self.waiting, None, "engine", None
        # Whoever leads goes on, and does not know that this replica does not.
        return Standing(position, expected_in, "ending" if self.ending else reason, reset_in)

    async def page(self, page: Page) -> Page:
        """Have the leader make a page. Raises AwayError."""
        return Page(*await self._ask("page", [page.head, page.headers, page.body]))

    def enter(self, bot: str | None) -> "Viewer":
        """Let somebody watch a bot, or all of several, through this replica."""
        return Viewer(self, bot, next(self._numbers))

    async def look(self, viewer: "Viewer") -> bytes | None:
        """The next message for a viewer; None if there is none any more."""
        try:
            message = await self._ask("look", viewer.number, viewer.bot)
        except AwayError:
            return None
        return str(message).encode() or None

    def look_away(self, viewer: "Viewer") -> None:
        """A viewer has left."""
        if self._post is not None:
            self._post.put(["away", viewer.number])

    def end(self) -> None:
        """From now on, tell clients with `wait` to ask again; the others keep waiting."""
        self.ending = True
        for turn, _ in list(self._held.values()):
            if turn.patient:
                turn.waiting.cancel()

    async def leave(self) -> None:
        """Tell the others that no client is held here any more."""
        await self._replica.leave()

    async def resign(self) -> None:
        """Hand over the lead, if it is here, once clients with `wait` have been answered."""
        with trio.move_on_after(FAREWELL):
            while self._asked:
                await next(iter(self._asked.values())).event.wait()
        await self._replica.resign()

    async def run(self) -> None:
        """Forward what clients ask for, and take what they are offered, forever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._take_offers, nursery)
            while True:
                changed = self._replica.changed
                if self._replica.leader:
                    nursery.start_soon(self._talk, changed)
                await changed.wait()

    def hear(self, event: dict[str, Any], now: float) -> None:
        """Events for all replicas do not matter here."""

    def read(self, sender: str, number: Number, items: Sequence[list[Any]]) -> None:
        """Handle a message from the leader; offers have no numbers."""
        if number != NONE:
            leader, last = self._last_read
            last = last if leader == sender else NONE
            if number <= last:
                return
            self._last_read = sender, number
            if not follows(number, last):
                self._tell_all()
        for item in items:
            self._handle(item)

    def _handle(self, item: list[Any]) -> None:
        match item:
            case ["offer", name, request, about, confirm, shard, seconds]:
                offer = Offer(name, request, tuple(about), shard, confirm, seconds)
                self._offers.send_nowait(offer)
            case ["answer", asked, answer]:
                if found := self._asked.get(asked):
                    found.answer = answer
                    found.event.set()
            case ["drop", request]:
                if request in self._held:
                    self._held[request][0].drop()
            case ["tell"]:
                self._tell_all()

    async def _talk(self, changed: trio.Event) -> None:
        """Send the leader all requests, and then new ones, for as long as it leads."""
        replica = self._replica
        head = Head(replica.name, replica.term, "desk")
        post = self._post = Post(replica.engine, replica.era, replica.leader, head)
        self._tell_all()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send, post)
            await changed.wait()
            if self._post is post:
                self._post = None
            for asked in self._asked.values():
                asked.event.set()  # unanswered
            nursery.cancel_scope.cancel()

    async def _send(self, post: Post) -> None:
        try:
            await post.run()
        except EraOverError:
            return  # there will be another

    def _tell_all(self) -> None:
        """Tell whom this replica holds; if nobody leads, whoever comes to lead is told."""
        if self._post is not None:
            for request, (_, ask) in self._held.items():
                self._told_again.add(request)
                self._post.put(ask())

    async def _ask(self, what: str, *given: Any) -> Any:
        if self._post is None:
            raise AwayError
        post = self._post
        number = next(self._numbers)
        asked = self._asked[number] = _Answered()
        post.put([what, number, *given])
        try:
            with trio.move_on_after(PATIENCE):
                await asked.event.wait()
        finally:
            del self._asked[number]
        if asked.answer is None:
            raise AwayError
        return asked.answer

    def _done(self, turn: Turn) -> None:
        request = self._ids.pop(turn)
        del self._held[request]
        if turn in self._given:
            self._given[turn].set()
        if turn.grant is None:
            self._told_again.discard(request)
            if self._post is not None:
                self._post.put(["leave", request])

    async def _take_offers(self, nursery: trio.Nursery) -> None:
        async for offer in self._offered:
            nursery.start_soon(self._consider, offer)

    async def _consider(self, offer: Offer) -> None:
        """Take an offer and hand the grant over, or refuse it."""
        turn = self._present(offer)
        if turn is None:
            if self._post is not None:
                if offer.request not in self._held:
                    # The leader believes it is: it heard too late that this was granted.
                    self._post.put(["leave", offer.request])
                self._post.put(["refuse", offer.name])
            return
        self._taking.add(offer.request)
        until, turn.waiting.deadline = turn.waiting.deadline, math.inf
        taken_at = trio.current_time()
        is_taken = await self._take(offer)
        self._taking.discard(offer.request)
        if is_taken is False:
            turn.waiting.deadline = until
        elif is_taken is None or not await self._hand_over(offer, taken_at + WINDOW):
            turn.waiting.deadline = until
            await self._tell("void", offer, "given_back", bot=offer.about[0])

    def _present(self, offer: Offer) -> Turn | None:
        """The offer's turn, if its client is present and no other offer is being taken for it."""
        turn, _ = self._held.get(offer.request, (None, None))
        if offer.request in self._taking:
            return None
        if turn is None or turn.waiting.cancel_called or turn.client.has_left():
            return None
        return turn

    async def _take(self, offer: Offer) -> bool | None:
        """Record the grant; None if it is unknown whether that was done."""
        bot, bucket, _, number = offer.about
        row = json.dumps([number, offer.shard, bucket, offer.confirm])
        given = {"bot": bot, "number": number, "offer": offer.name, "row": row}
        try:
            answer = await self._replica.engine.step(
                "take", self._replica.era, event=offer.event("taken", self.name), **given
            )
        except EngineError:
            return None
        except (EraOverError, TermOverError):
            return False
        return not answer.get("no")

    async def _hand_over(self, offer: Offer, until: float) -> bool:
        """Hand a grant over, unless it is too late or its client has left."""
        turn = self._present(offer)
        if turn is None or trio.current_time() > until:
            return False
        turn.grant = offer.number
        turn.answer_by = until
        given = self._given[turn] = trio.Event()
        if turn.client.hand_over(offer.number):
            waited = trio.current_time() - turn.arrived_at
            turn.handed_over = Granted(turn.shard, offer.about[1], waited, 0.0)
        turn.waiting.cancel()
        if turn.handed_over is None:
            await given.wait()
        del self._given[turn]
        if turn.grant is None:
            return False
        if offer.request in self._told_again:
            self._told_again.remove(offer.request)
            if self._post is not None:
                self._post.put(["granted", offer.request, offer.about[0], offer.shard])
        await self._tell("tell", offer, "written")
        return True

    async def _tell(self, step: str, offer: Offer, what: str, **given: Any) -> None:
        """Report the outcome of an offer, until that is recorded or no longer matters."""
        era = self._replica.era
        while True:
            try:
                await self._replica.engine.step(
                    step, era, offer=offer.name, event=offer.event(what, self.name), **given
                )
            except EngineError:
                await trio.sleep(AGAIN)
            except EraOverError:
                return
            else:
                return


class Viewer:
    """Somebody who watches the dashboard here, which the leader fills."""

    def __init__(self, doorman: Doorman, bot: str | None, number: int) -> None:
        self.bot = bot
        self.number = number
        self._doorman = doorman

    async def next(self) -> bytes | None:
        """The next message once there is one; None at the end."""
        return await self._doorman.look(self)

    def leave(self) -> None:
        """It has left."""
        self._doorman.look_away(self)


class _Answered:
    """A question to the leader, until it is answered."""

    def __init__(self) -> None:
        self.event = trio.Event()
        self.answer: Any = None
