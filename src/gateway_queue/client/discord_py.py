"""Has bots with discord.py, disnake, nextcord and py-cord ask before each IDENTIFY.

All four have the same skeleton, from discord.py. It offers ``before_identify_hook``, but waits
there for 60 s at most, on an open gateway socket that nobody reads, and a bot of several shards
then does nothing for the others. So here a shard asks before its socket is opened; in the hook
it only looks whether its turn is a fresh one. Imports none of the four; asyncio only.
"""

import asyncio
import math
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

from gateway_queue.client.waiting import GatewayQueue

# Seconds for which a turn is good. Its bucket stays closed for 10 s, so that the next IDENTIFY
# is still Discord's 5 s away if this one comes after 4; the rest is for the ways of the two.
TURN_LASTS = 4.0

# Seconds to wait in the hook where nothing else is left; all timeouts around it are longer.
HOOK_WAITS = 30.0

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

    def __init__(self, *args: Any, queue: str | GatewayQueue, **kwargs: Any) -> None:
        self.__given = queue  # names of our own, so that none is anybody else's
        self.__turns: dict[int, float] = {}  # when it became the turn of a shard
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

    async def before_identify_hook(
        self,
        shard_id: int | None,
        *,
        initial: bool = False,  # noqa: ARG002 - the libraries'
    ) -> None:
        """The last look before the IDENTIFY. Never super's, which sleeps for 5 s.

        A shard comes here without a fresh turn if connecting took long, if the bot has it
        reconnected (``ShardInfo.reconnect``), or in a version of a library that keeps its
        private parts elsewhere. Then it waits here; if that takes too long, it begins anew.
        """
        shard_id = shard_id or 0
        if not self.__spend_turn(shard_id):
            try:
                async with asyncio.timeout(HOOK_WAITS):
                    await self.__turn(shard_id)
            except TimeoutError:
                if self.__sharded:
                    raise  # which the library knows how to handle
                raise _NoTurnError from None
            if not self.__spend_turn(shard_id):
                raise ConnectionAbortedError("the bot was closed")
        # A task runs when the library's next awaits: by then the IDENTIFY is written.
        self.__spawn(self.__queue.confirm(shard_id))

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
            if not getattr(error, "resume", True):  # a ReconnectWebSocket that cannot RESUME
                await self.__turn(self.shard_id or 0)
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
        try:
            if item.type != RESUME and not await self.__turn(item.shard.id):
                return
        except Exception as error:  # noqa: BLE001 - ends the bot, as any would in the library
            item.type, item.error = TERMINATE, error
            put(item)
            return
        if item.type == RECONNECT:
            await item.shard.reconnect()
        else:
            await item.shard.reidentify(item.error)

    async def __turn(self, shard_id: int) -> bool:
        """Wait until it is the shard's turn; False if the bot is closed instead, once it is."""
        if self.__closing is None and not self.is_closed():
            asking = self.__spawn(self.__queue.wait(shard_id, confirm=True))
            try:
                await asyncio.wait([asking])
            finally:
                asking.cancel()
            if not asking.cancelled():
                asking.result()
                self.__turns[shard_id] = time.monotonic()
                return True
        if self.__closing is not None:
            await self.__closing.wait()
        return False

    def __spend_turn(self, shard_id: int) -> bool:
        """Whether the shard may identify now."""
        began_at = self.__turns.pop(shard_id, -math.inf)
        return time.monotonic() - began_at <= TURN_LASTS

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
