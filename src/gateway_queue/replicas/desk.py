"""What the leader does for all replicas: their clients' turns wait in its queues.

It lasts for one term. A turn begins and ends with a message from the replica that holds the
client; when it is the shard's turn, that replica is offered the grant.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hmac import compare_digest
from typing import Any, Protocol

import structlog
import trio

from gateway_queue.queue.bucket import PORTION
from gateway_queue.queue.ledger import Member
from gateway_queue.queue.queue import Queue
from gateway_queue.queue.standing import standing_of
from gateway_queue.queue.turn import Turn
from gateway_queue.replicas.engine import EngineError, EraOverError, TermOverError
from gateway_queue.replicas.membership import BEAT, Replica
from gateway_queue.replicas.offers import Offers
from gateway_queue.replicas.post import NONE, Head, Item, Number, Post, digest, follows
from gateway_queue.watch.feed import FullError

log = structlog.get_logger()

# Further requests for bots that do not exist are dropped: anybody can send them.
MOST_GUESTS = 1_000


class Bot(Protocol):
    """What the desk needs to know about a bot."""

    application: str
    queue: Queue

    @property
    def api_key(self) -> str | None: ...


class Bots(Protocol):
    """All bots that the leader serves. ``api_key`` opens each; ``pages`` makes their pages."""

    api_key: str | None
    pages: "Pages | None"

    @property
    def lobby(self) -> "Lobby": ...
    def find(self, name: str | None) -> Bot | None: ...
    def of(self, application: str) -> Bot | None: ...
    def watched(self, name: str | None) -> "Watched | None": ...


class Lobby(Protocol):
    """Knows who waits for bots that do not exist."""

    def see_elsewhere(self, names: Collection[str]) -> None: ...


class Viewer(Protocol):
    """Somebody who watches the operator's page."""

    async def next(self) -> bytes | None: ...
    def leave(self) -> None: ...


class Watched(Protocol):
    """What the operator's page shows."""

    def enter(self) -> Viewer: ...


class Visitor:
    """A client that another replica holds, or this one's doorman."""

    def __init__(self, replica: str, request: int, peer: str) -> None:
        self.replica = replica
        self.request = request
        self.peer = peer

    def has_left(self) -> bool:
        return False  # its replica checks when it is offered the grant

    def hand_over(self, grant: int) -> bool:  # noqa: ARG002
        return False  # its replica does that


class VisitorsTurn(Turn):
    """The turn of a client that another replica holds."""

    __slots__ = ("_desk", "is_put_off", "offer")

    client: Visitor

    def __init__(self, shard: int | None, visitor: Visitor, desk: "Desk", **given: Any) -> None:
        super().__init__(shard, visitor, wait=None, **given)
        self.is_put_off = False
        self.offer = ""  # the name of the latest
        self._desk = desk

    @property
    def was_put_off(self) -> bool:
        return self.is_put_off

    def drop(self) -> None:
        super().drop()
        self._desk.say(self.client.replica, ["drop", self.client.request])
        self.end()


@dataclass(slots=True)
class _Mailbox:
    """What a replica has sent: its turns by their requests, and the number of its last message."""

    turns: dict[int, tuple[str, VisitorsTurn]] = field(default_factory=dict)
    waiting: Counter[str] = field(default_factory=Counter)  # how many turns, by their bots' names
    number: Number = NONE
    is_buried: bool = False  # its turns were ended, and it was not asked to send them again


Pages = Callable[[list[Any]], Awaitable[list[Any]]]


class Desk:
    """The leader of one term, as the replicas see it."""

    def __init__(self, replica: Replica, term: int, bots: Bots) -> None:
        self.term = term
        self.era = replica.era
        self.replica = replica
        self.offers = Offers(self._try)
        self._bots = bots
        self._boxes: defaultdict[str, _Mailbox] = defaultdict(_Mailbox)
        self._posts: dict[str, Post] = {}
        self._new_posts: deque[Post] = deque()
        self._items: deque[tuple[str, Item]] = deque()
        self._viewers: dict[tuple[str, int], Viewer] = {}  # by their replicas and numbers
        # Requests for bots that do not exist, by their replicas and numbers.
        self._strangers: dict[tuple[str, int], Item] = {}
        self._more = trio.Event()
        self._over = trio.Event()

    async def run(self) -> None:
        """Do what the replicas ask for, forever. Raises EraOverError and TermOverError."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._bury_the_dead)
            while True:
                await self._more.wait()
                self._more = trio.Event()
                handled = 0
                while self._items:
                    self._handle(*self._items.popleft(), nursery)
                    handled += 1
                    if handled % PORTION == 0:
                        await trio.lowlevel.checkpoint()
                while self._new_posts:
                    nursery.start_soon(self._new_posts.popleft().run)

    def close(self) -> None:
        """The term is over: stop sending messages, and stop waiting for the outcome of offers."""
        self._over.set()
        self._bots.lobby.see_elsewhere(())
        for who in list(self._viewers):
            self._leave(who)
        self.offers.close()

    @property
    def is_over(self) -> bool:
        return self._over.is_set()

    def members(self, application: str) -> list[Member]:
        """The replicas, and how many of a bot's clients wait at each."""
        now = trio.current_time()
        waiting = {
            name: sum(n for bot, n in box.waiting.items() if self._is_of(application, bot))
            for name, box in self._boxes.items()
        }
        return [
            Member(name, waiting.get(name, 0), now - life.since, name == self.replica.name)
            for name, life in sorted(self.replica.lives.items())
        ]

    def _is_of(self, application: str, bot: str) -> bool:
        found = self._bots.find(bot)
        return found is not None and found.application == application

    # What is heard --------------------------------------------------------------------

    def hear(self, event: dict[str, Any], now: float) -> None:
        if not self.offers.hear(event, now) and event["what"] == "written":
            replica, request = event["held"]
            self._end_late(replica, request, event["about"][0], event["shard"])

    def read(self, sender: str, number: Number, items: Sequence[Item]) -> None:
        box = self._boxes[sender]
        if number <= box.number:
            return
        if not follows(number, box.number):
            self.say(sender, ["tell"])
        box.number = number
        self._items.extend((sender, item) for item in items)
        self._more.set()

    def say(self, replica: str, item: Item) -> None:
        """Send something to another replica, unless the term is over."""
        if self.is_over:
            return
        post = self._posts.get(replica)
        if post is None:
            head = Head(self.replica.name, self.term, "doorman")
            post = self._posts[replica] = Post(self.replica.engine, self.era, replica, head)
            self._new_posts.append(post)
            self._more.set()
        post.put(item)

    def _handle(self, sender: str, item: Item, nursery: trio.Nursery) -> None:
        box = self._boxes[sender]
        match item:
            case ["ask", request, *_]:
                if request not in box.turns:
                    self._admit(sender, box, item)
            case ["leave", request]:
                self._strangers.pop((sender, request), None)
                if request in box.turns:
                    box.turns[request][1].end()
            case ["granted", request, application, shard]:
                self._end_late(sender, request, application, shard)
            case ["refuse", name]:
                self.offers.refuse(name)
            case ["stand", asked, request]:
                self.say(sender, ["answer", asked, self._put_off(box, request)])
            case _:
                self._handle_look(sender, item, nursery)

    def _handle_look(self, sender: str, item: Item, nursery: trio.Nursery) -> None:
        match item:
            case ["page", asked, page]:
                nursery.start_soon(self._page, sender, asked, page)
            case ["look", asked, number, bot]:
                nursery.start_soon(self._show, sender, asked, (sender, number), bot)
            case ["away", number]:
                self._leave((sender, number))

    def _admit(
        self,
        sender: str,
        box: _Mailbox,
        item: Item,
    ) -> None:
        _, request, name, shard, confirm, age, peer, key = item
        bot = self._bots.find(name)
        if bot is None:
            if len(self._strangers) < MOST_GUESTS or (sender, request) in self._strangers:
                self._strangers[sender, request] = item
            else:
                self.say(sender, ["drop", request])
            return
        self._strangers.pop((sender, request), None)
        keys = [digest(known.encode()) for known in (self._bots.api_key, bot.api_key) if known]
        if keys and not any(compare_digest(known, key or "") for known in keys):
            self.say(sender, ["drop", request])
            return
        queue = bot.queue

        def done(turn: Turn) -> None:
            del box.turns[request]
            box.waiting[name] -= 1
            queue.done(turn)

        visitor = Visitor(sender, request, peer)
        turn = VisitorsTurn(shard, visitor, self, confirm=confirm, done=done)
        turn.arrived_at -= age
        box.turns[request] = name, turn
        box.waiting[name] += 1
        queue.admit(turn)

    def _put_off(self, box: _Mailbox, request: int) -> list[Any]:
        """The standing of a turn that ends now because its client will ask again."""
        name, turn = box.turns.get(request, (None, None))
        bot = self._bots.find(name)
        if bot is None:
            return [1, None, "unknown_bot", None]
        if turn is None:  # its replica was considered dead a moment ago
            return [1, None, "engine", None]
        standing = standing_of(turn, bot.queue)
        turn.is_put_off = True
        turn.end()
        return [standing.position, standing.expected_in, standing.reason, standing.reset_in]

    async def _page(self, sender: str, asked: int, page: list[Any]) -> None:
        if self._bots.pages is not None:
            self.say(sender, ["answer", asked, await self._bots.pages(page)])

    async def _show(self, sender: str, asked: int, who: tuple[str, int], bot: str | None) -> None:
        """Send the page's next message to somebody who watches it through another replica."""
        message = None
        if who not in self._viewers and (watched := self._bots.watched(bot)) is not None:
            with suppress(FullError):
                self._viewers[who] = watched.enter()
        if who in self._viewers:
            message = await self._viewers[who].next()
        if message is None:
            self._leave(who)
        self.say(sender, ["answer", asked, (message or b"").decode()])

    def _leave(self, who: tuple[str, int]) -> None:
        if viewer := self._viewers.pop(who, None):
            viewer.leave()

    async def _bury_the_dead(self) -> None:
        """End the turns of dead replicas' clients; their seats are kept, as for all who leave."""
        while True:
            await trio.sleep(BEAT)
            now = trio.current_time()
            for (name, _), item in self._strangers.items():
                if self._bots.find(item[2]) is not None:
                    self._items.append((name, item))
            self._more.set()
            self._bots.lobby.see_elsewhere([item[2] for item in self._strangers.values()])
            for name, box in list(self._boxes.items()):
                is_silent = self.replica.is_silent(name, now)
                if is_silent:
                    for who in [who for who in self._strangers if who[0] == name]:
                        del self._strangers[who]
                        box.is_buried = True
                if is_silent and box.turns:
                    log.warning("replica_silent", replica=name, requests=len(box.turns))
                    await self._bury(box)
                elif box.is_buried and not is_silent:
                    box.is_buried = False
                    self.say(name, ["tell"])
            for name in [*self.replica.forgotten(), *self._gone()]:
                await self._forget(name)

    def _gone(self) -> list[str]:
        """The replicas that have left, and have no turns any more."""
        known = {*self._boxes, *self._posts} - self.replica.lives.keys()
        return [name for name in known if name not in self._boxes or not self._boxes[name].turns]

    async def _forget(self, name: str) -> None:
        for who in [who for who in self._viewers if who[0] == name]:
            self._leave(who)
        if box := self._boxes.pop(name, None):  # it may have been back for a moment
            for _, turn in list(box.turns.values()):
                turn.end()
        if post := self._posts.pop(name, None):
            post.close()
        await self._try("bury", replica=name)

    async def _bury(self, box: _Mailbox) -> None:
        box.is_buried = True
        for who in [who for who in self._viewers if self._boxes[who[0]] is box]:
            self._leave(who)
        for number, (_, turn) in enumerate(list(box.turns.values()), start=1):
            if turn.client.request in box.turns:
                turn.end()
            if number % PORTION == 0:
                await trio.lowlevel.checkpoint()

    # Offers ---------------------------------------------------------------------------

    async def offer(self, name: str, turn: Turn, item: Item) -> bool:
        """Offer a grant to the replica that holds its client; False if it never will be taken.

        If the term ends in the meantime, the result does not matter.
        """
        assert isinstance(turn, VisitorsTurn)  # noqa: S101 - all turns are, here
        if self.is_over:  # the buckets end in a moment, and must not ask in a tight loop until then
            await trio.sleep(BEAT)
            return False
        turn.offer = name
        replica = turn.client.replica
        entry = Head(self.replica.name, self.term, "doorman").message([item])
        outcome = await self.offers.make(name, replica, entry)
        if outcome == "ignored" and not self.is_over:
            log.warning("offer_not_taken", replica=replica, shard=turn.shard)
            await self._bury(self._boxes[replica])
        return outcome == "taken"

    def _end_late(self, replica: str, request: int, application: str, shard: int | None) -> None:
        """End a turn that was granted, and its place, unless that is still waited for.

        It became known late, or was granted in an earlier term.
        """
        box = self._boxes.get(replica)
        if box is not None and request in box.turns:
            _, turn = box.turns[request]
            if self.offers.has(turn.offer):
                return
            turn.end()
        bot = self._bots.of(application)
        if bot is not None and shard is not None:
            bot.queue.forget_absent(shard)

    async def _try(self, step: str, **given: Any) -> Any:
        """Execute a step; None if it is unknown whether that was done."""
        try:
            return await self.replica.engine.step(step, self.era, term=self.term, **given)
        except EngineError:
            return None
        except (EraOverError, TermOverError):
            self.close()  # the task that runs the term finds out, too
            return None
