"""Makes bots with discord.py, disnake, nextcord and py-cord ask before each IDENTIFY.

All four share discord.py's structure. It offers ``before_identify_hook``, but that may take
60 s at most, while the open gateway socket is not read, and a bot of several shards does
nothing for its other shards meanwhile. So here, a shard asks before its socket is opened; the
hook only checks that the turn is still fresh. Imports none of the four; asyncio only.
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

# Seconds for which a turn is valid. Its bucket stays closed for 10 s, so if this IDENTIFY comes
# after 4 s, the next one is still Discord's 5 s away, plus a margin for the network.
TURN_LASTS = 4.0

# Seconds to wait in the hook as a last resort; all time-outs around it are longer.
HOOK_WAITS = 30.0

# The method by which the clients of all four call the public before_identify_hook.
CALLS_HOOK = "_call_before_identify_hook"

# EventType in the shard.py of all four: what should happen to a shard.
RECONNECT, RESUME, IDENTIFY, TERMINATE = range(1, 5)


class _NoTurnError(Exception):
    """This client is about to IDENTIFY and has to ask first. No library catches this."""


if TYPE_CHECKING:

    class _Client:
        """What the clients of all four have; from ``launch_shard`` on only if sharded."""

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
    """A mixin to put before the library's class, of which it takes nothing away::

        class MyBot(QueuedIdentify, commands.AutoShardedBot): ...

        bot = MyBot(queue="http://127.0.0.1:8000", command_prefix="!", intents=intents)

    ``queue`` is the queue's address, or a GatewayQueue that the bot will open and close. A bot
    that the queue refuses to serve, for example because the API key is missing, ends with
    RefusedError.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        """Insert a class right before the library's, whose own hook sleeps for 5 s.

        Hooks of the bot and of a framework end by calling super()'s, which is then ours.
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
        self.__given = queue  # mangled names, which cannot clash
        self.__turns: dict[int, tuple[Grant, float]] = {}  # by shard: the turn, and since when
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
        # Stop asking. Bots unload their extensions and cogs before they count as closed; if
        # connect() returned in the meantime, that would be interrupted half-way.
        closing = self.__closing = self.__closing or asyncio.Event()
        self.__stop_asking()
        try:
            await super().close()
        finally:
            closing.set()
            self.__closing = None

    async def launch_shard(self, gateway: Any, shard_id: int, **kwargs: Any) -> None:
        """Ask, launch, and make sure that the shard asks again if it loses its session."""
        if not await self.__turn(shard_id):
            return
        await super().launch_shard(gateway, shard_id, **kwargs)
        shard: Any = getattr(self.get_shard(shard_id), "_parent", None)
        if hasattr(shard, "_queue_put"):
            shard._queue_put = partial(self.__put, shard._queue_put)  # noqa: SLF001 - see __put

    def dispatch(self, event: str, /, *args: Any, **kwargs: Any) -> Any:
        """Notice READY, for which the libraries dispatch an event that a RESUME does not."""
        if event == "shard_connect":
            self.__got_ready(args[0])
        elif event == "connect" and not self.__sharded:
            self.__got_ready(self.shard_id or 0)
        return super().dispatch(event, *args, **kwargs)

    async def _call_before_identify_hook(
        self, shard_id: int | None, *, initial: bool = False
    ) -> None:
        """Call the hooks of the bot and its framework, then check the turn before the IDENTIFY.

        A shard gets here without a fresh turn if connecting took long, if the bot reconnected
        it (``ShardInfo.reconnect``), or if this version of the library keeps its private parts
        elsewhere. Then it waits here; if that takes too long, it starts over.
        """
        number = shard_id or 0
        await self.__have_fresh_turn(number)
        first = initial and not self.__began  # a connect() that starts over says it is the first
        await super()._call_before_identify_hook(shard_id, initial=first)
        await self.__have_fresh_turn(number)  # the hooks may have taken long
        self.__began = True
        grant, _ = self.__turns.pop(number)
        self.__identified[number] = grant
        # A new task runs at the library's next await; by then the IDENTIFY has been written.
        self.__spawn(self.__confirm(grant, "identified"))

    @property
    def ws(self) -> Any:
        """The gateway socket of an unsharded client (the library's attribute)."""
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
        """Ask when the session is over, before the library notices and has 60 s to identify."""
        try:
            await poll_event()
        except Exception as error:
            shard_id = self.shard_id or 0
            grant = self.__identified.pop(shard_id, None)
            if not getattr(error, "resume", True):  # a ReconnectWebSocket that cannot RESUME
                await self.__ask_again(shard_id, grant)
            raise

    def __put(self, put: Callable[[Any], None], item: Any) -> None:
        """Replace a Shard's ``_queue_put``, with which it reports what happened to it.

        The library handles the reports of all shards in one loop, one by one, and only once all
        shards are launched. While one shard waits for its turn, others can only RESUME if each
        comes back in its own task.
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
        """Like ``__turn``, after an op 9; ``grant``: that of the IDENTIFY it answers, if any."""
        if grant is not None:
            await self.__confirm(grant, "invalid_session")
        return await self.__turn(shard_id)

    async def __turn(self, shard_id: int) -> bool:
        """Wait for the shard's turn; False, once the bot is closed, if that happens instead."""
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
        """Wait for a turn if the shard has none, or if its turn is too old to identify now."""
        if self.__has_fresh_turn(shard_id):
            return
        try:
            async with asyncio.timeout(HOOK_WAITS):
                await self.__turn(shard_id)
        except TimeoutError:
            if self.__sharded:
                raise  # the library can handle this
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
        """Cancel everything this bot waits for; returns the tasks, which are about to end."""
        for task in self.__tasks:
            task.cancel()
        return set(self.__tasks)


@cache
def _without_sleep(library: type) -> type:
    """Derive a class from the library's whose before_identify_hook does not sleep."""

    async def before_identify_hook(*_: Any, **__: Any) -> None: ...

    return type(library.__name__, (library,), {"before_identify_hook": before_identify_hook})
