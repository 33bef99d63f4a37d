"""Has bots with discord.py, disnake, nextcord and py-cord ask before each IDENTIFY.

All four have the same skeleton, from discord.py. It offers ``before_identify_hook``, but waits
there for 60 s at most, on an open gateway socket that nobody reads, and a bot of several shards
then does nothing for the others. So here a shard asks before its socket is opened; in the hook
it only looks whether its turn is a fresh one. Imports none of the four; asyncio only.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from gateway_queue.client.waiting import GatewayQueue, Grant, Outcome, RefusedError

log = logging.getLogger("gateway_queue.client")

# Seconds for which a turn is good. Its bucket stays closed for 10 s, so that the next IDENTIFY
# is still Discord's 5 s away if this one comes after 4; the rest is for the ways of the two.
TURN_LASTS = 4.0

# Seconds to wait in the hook where nothing else is left; all timeouts around it are longer.
HOOK_WAITS = 30.0

# The method by which the clients of all four call the public before_identify_hook.
CALLS_HOOK = "_call_before_identify_hook"

# EventType in the shard.py of all four: what is to become of a shard.
RECONNECT, RESUME, IDENTIFY, TERMINATE = range(1, 5)


class _NoTurnError(Exception):
    """This client is about to IDENTIFY and has to ask first; no library handles it."""


if TYPE_CHECKING:

    class _Client:
        """What the clients of all four have; ``launch_shard`` and what follows if sharded."""

        shard_id: int | None

        def __init__(self, *args: Any, **kwargs: Any) -> None: ...
        def dispatch(self, *args: Any, **kwargs: Any) -> Any: ...
        def is_closed(self) -> bool: ...
        async def connect(self, *args: Any, **kwargs: Any) -> None: ...
        async def close(self) -> None: ...
        async def launch_shard(self, *args: Any, **kwargs: Any) -> None: ...
        def get_shard(self, *args: Any, **kwargs: Any) -> Any: ...
        async def _call_before_identify_hook(
            self, shard_id: int | None, *, initial: bool = False
        ) -> None: ...
else:
    _Client = object


class QueuedIdentify(_Client):
    """To be named before the class of the library, of which it takes nothing away:

        class MyBot(QueuedIdentify, commands.AutoShardedBot): ...

        bot = MyBot(queue="http://127.0.0.1:8000", command_prefix="!", intents=intents)

    ``queue`` is the queue's address, or a GatewayQueue that the bot is to open and to close.
    A bot that cannot be served by the queue, for want of the API key for example, ends with
    RefusedError.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        """Put a class right before the library's, whose own hook sleeps for 5 s.

        Hooks of the bot and of a framework between us and the library end with super()'s.
        """
        super().__init_subclass__(**options)
        owners = [owner for owner in cls.__mro__ if CALLS_HOOK in vars(owner)]
        if (library := owners[-1]) is QueuedIdentify:
            if hasattr(cls, "is_closed"):
                raise TypeError(f"{cls.__name__} is a client of a library without {CALLS_HOOK}")
        elif not issubclass(cls, awake := _without_sleep(library)):
            bases = [awake if base is library else base for base in cls.__bases__]
            cls.__bases__ = (*bases,) if awake in bases else (*bases, awake)

    def __init__(self, *args: Any, queue: str | GatewayQueue, **kwargs: Any) -> None:
        self.__given = queue  # names of our own, so that none is anybody else's
        self.__turns: dict[int, tuple[Grant, float]] = {}  # by shard, and since when
        self.__identified: dict[int, Grant] = {}  # by shard, until Discord answers
        self.__began = False  # to identify
        self.__tasks: set[asyncio.Task[Any]] = set()
        self.__closing: asyncio.Event | None = None  # set when the bot has closed
        self.__ws: Any = None
        super().__init__(*args, **kwargs)

    async def connect(self, *args: Any, **kwargs: Any) -> None:
        queue = self.__given
        self.__queue = GatewayQueue(queue) if isinstance(queue, str) else queue
        async with self.__queue:
            try:
                await self.__connect(*args, **kwargs)
            finally:
                if tasks := self.__stop_asking():
                    await asyncio.wait(tasks)

    async def close(self) -> None:
        # Nobody asks from now on. Bots with extensions and cogs end those first, and only then
        # count as closed; should connect() return meanwhile, they would be ended half-way.
        closing = self.__closing = self.__closing or asyncio.Event()
        self.__stop_asking()
        try:
            await super().close()
        finally:
            closing.set()
            self.__closing = None

    async def launch_shard(self, gateway: Any, shard_id: int, **kwargs: Any) -> None:
        """Asks, launches, and sees to it that the shard asks when it loses its session."""
        if not await self.__turn(shard_id):
            return
        await super().launch_shard(gateway, shard_id, **kwargs)
        shard: Any = getattr(self.get_shard(shard_id), "_parent", None)
        if hasattr(shard, "_queue_put"):
            shard._queue_put = partial(self.__put, shard._queue_put)  # noqa: SLF001 - see __put

    def dispatch(self, event: str, /, *args: Any, **kwargs: Any) -> Any:
        """Sees READY, by which the libraries dispatch this and a RESUME does not."""
        if event == "shard_connect":
            self.__got_ready(args[0])
        elif event == "connect" and not self.__sharded:
            self.__got_ready(self.shard_id or 0)
        return super().dispatch(event, *args, **kwargs)

    async def _call_before_identify_hook(
        self, shard_id: int | None, *, initial: bool = False
    ) -> None:
        """The hooks of the bot and of its framework, and the last look before the IDENTIFY.

        A shard comes here without a fresh turn if connecting took long, if the bot has it
        reconnected (``ShardInfo.reconnect``), or in a version of a library that keeps its
        private parts elsewhere. Then it waits here; if that takes too long, it begins anew.
        """
        number = shard_id or 0
        await self.__have_fresh_turn(number)
        first = initial and not self.__began  # a connect() that begins anew takes it for the first
        await super()._call_before_identify_hook(shard_id, initial=first)
        await self.__have_fresh_turn(number)  # the hooks may have taken long
        self.__began = True
        grant, _ = self.__turns.pop(number)
        self.__identified[number] = grant
        # A task runs when the library's next awaits: by then the IDENTIFY is written.
        self.__spawn(self.__confirm(grant, "identified"))

    @property
    def ws(self) -> Any:
        """The gateway socket of a client that is not sharded: the library's attribute."""
        return self.__ws

    @ws.setter
    def ws(self, ws: Any) -> None:
        self.__ws = ws
        if ws is not None:
            ws.poll_event = partial(self.__poll, ws.poll_event)

    @property
    def __sharded(self) -> bool:
        return hasattr(super(), "launch_shard")

    async def __connect(self, *args: Any, **kwargs: Any) -> None:
        if self.__sharded:
            return await super().connect(*args, **kwargs)  # which launches the shards
        while await self.__turn(self.shard_id or 0):
            try:
                return await super().connect(*args, **kwargs)
            except _NoTurnError:
                continue
        return None

    async def __poll(self, poll_event: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Ask when the session is over, before the library sees that and has 60 s to identify."""
        try:
            await poll_event()
        except Exception as error:
            shard_id = self.shard_id or 0
            grant = self.__identified.pop(shard_id, None)
            if not getattr(error, "resume", True):  # a ReconnectWebSocket that cannot RESUME
                await self.__ask_again(shard_id, grant)
            raise

    def __put(self, put: Callable[[Any], None], item: Any) -> None:
        """Takes the place of a Shard's ``_queue_put``, by which it says what became of it.

        The library has one loop for the items of all shards, which serves one after another,
        and none before all are launched. While one shard waits for its turn, others can RESUME
        only if each comes back in a task of its own.
        """
        if item.type in {RECONNECT, RESUME, IDENTIFY}:
            self.__spawn(self.__bring_back(put, item))
        else:
            put(item)

    async def __bring_back(self, put: Callable[[Any], None], item: Any) -> None:
        shard_id = item.shard.id
        grant = self.__identified.pop(shard_id, None)
        try:
            if item.type == IDENTIFY:
                may_identify = await self.__ask_again(shard_id, grant)
            else:
                may_identify = item.type == RESUME or await self.__turn(shard_id)
        except Exception as error:  # noqa: BLE001 - ends the bot, as any would in the library
            item.type, item.error = TERMINATE, error
            put(item)
            return
        if not may_identify:
            return
        if item.type == RECONNECT:
            await item.shard.reconnect()
        else:
            await item.shard.reidentify(item.error)

    async def __ask_again(self, shard_id: int, grant: Grant | None) -> bool:
        """As ``__turn``, after an op 9; ``grant`` is of the IDENTIFY that it answers, if any."""
        if grant is not None:
            await self.__confirm(grant, "invalid_session")
        return await self.__turn(shard_id)

    async def __turn(self, shard_id: int) -> bool:
        """Wait until it is the shard's turn; False if the bot is closed instead, once it is."""
        if self.__closing is None and not self.is_closed():
            asking = self.__spawn(self.__queue.wait(shard_id, confirm=True))
            try:
                await asyncio.wait([asking])
            finally:
                asking.cancel()
            if not asking.cancelled():
                self.__turns[shard_id] = asking.result(), time.monotonic()
                return True
        if self.__closing is not None:
            await self.__closing.wait()
        return False

    async def __have_fresh_turn(self, shard_id: int) -> None:
        """Wait for a turn if the shard has none, or had it too long ago to identify now."""
        if self.__has_fresh_turn(shard_id):
            return
        try:
            async with asyncio.timeout(HOOK_WAITS):
                await self.__turn(shard_id)
        except TimeoutError:
            if self.__sharded:
                raise  # which the library knows how to handle
            raise _NoTurnError from None
        if not self.__has_fresh_turn(shard_id):
            raise ConnectionAbortedError("the bot was closed")

    def __has_fresh_turn(self, shard_id: int) -> bool:
        _, since = self.__turns.get(shard_id, (None, -math.inf))
        return time.monotonic() - since <= TURN_LASTS

    def __got_ready(self, shard_id: int) -> None:
        if (grant := self.__identified.pop(shard_id, None)) is not None:
            self.__spawn(self.__confirm(grant, "ready"))

    async def __confirm(self, grant: Grant, outcome: Outcome) -> None:
        try:
            await self.__queue.confirm(grant, outcome)
        except RefusedError as error:  # ends the bot when it has to ask again
            log.warning("shard %d could not confirm its IDENTIFY: %s", grant.shard, error)

    def __spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(coroutine)
        self.__tasks.add(task)
        task.add_done_callback(self.__tasks.discard)
        return task

    def __stop_asking(self) -> set[asyncio.Task[Any]]:
        """Cancel whatever this bot waits for; returns the tasks, which are about to end."""
        for task in self.__tasks:
            task.cancel()
        return set(self.__tasks)


@cache
def _without_sleep(library: type) -> type:
    """A class of the library whose before_identify_hook does not sleep, and nothing else."""

    async def before_identify_hook(*_: Any, **__: Any) -> None: ...

    return type(library.__name__, (library,), {"before_identify_hook": before_identify_hook})
