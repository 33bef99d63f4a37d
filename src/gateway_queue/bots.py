"""The bots of a server, and what they share.

They share the journal's file, one client for Discord and the metrics. Each has its own tasks,
and nothing that happens to one affects the others. With a directory of bots, bots are added,
changed and removed as its files are.
"""

from collections.abc import Callable
from contextlib import AsyncExitStack, closing
from functools import partial
from typing import TYPE_CHECKING

import structlog
import trio

from gateway_queue.bot import Bot
from gateway_queue.discord import Discord
from gateway_queue.keeper.lock import JournalHeldError
from gateway_queue.keeper.sqlite import Journals
from gateway_queue.lobby import Lobby
from gateway_queue.queue.journal import Journal, JournalError
from gateway_queue.roster import Directory, Roster, name_of
from gateway_queue.settings import DEFAULT, KEYS, Settings, about, bot_of
from gateway_queue.watch import lines, overview
from gateway_queue.watch.feed import BotsFeed, Feed
from gateway_queue.watch.metrics import Metrics
from gateway_queue.watch.status import Page

if TYPE_CHECKING:
    from gateway_queue.replicas.desk import Pages
    from gateway_queue.replicas.doorman import Doorman
    from gateway_queue.replicas.journal import Journals as SharedJournals

log = structlog.get_logger()

# How many seconds to wait for the journal of a server that is still shutting down.
JOURNAL_PATIENCE = 30.0
JOURNAL_RETRY = 0.1

# How often, in seconds, the directory is read without a SIGHUP.
LOOK = 15.0


class Bots:
    """The bots by name. ``several``: a directory says which bots there are.

    ``api_key`` and ``operator_key`` are valid for all of them.
    """

    def __init__(
        self,
        *,
        several: bool = False,
        api_key: str | None = None,
        operator_key: str | None = None,
    ) -> None:
        self.several = several
        self.api_key = api_key
        self.operator_key = operator_key
        self.by_name: dict[str, Bot] = {}
        self.faults: dict[str, str] = {}  # file name: what is wrong with it
        self.lobby = Lobby()
        self.metrics = Metrics()
        self.overview = Page(partial(overview.page, self))
        self.feed = BotsFeed(self.overview)
        self.asked_to_look = trio.Event()
        self.doorman: Doorman | None = None  # where there are several replicas
        self.pages: Pages | None = None  # makes what was asked of another replica

    def find(self, name: str | None) -> Bot | None:
        """The bot with this name; None stands for the default bot."""
        return self.by_name.get(DEFAULT if name is None else name)

    def of(self, application: str) -> Bot | None:
        """The bot with this application id."""
        bots = self.by_name.values()
        return next((bot for bot in bots if bot.application == application), None)

    def watched(self, name: str | None) -> Feed | BotsFeed | None:
        """What is shown of this bot, or of all where there are several and none is named."""
        if self.several and name is None:
            return self.feed
        bot = self.find(name)
        return bot.feed if bot else None

    def why_not_ready(self) -> str | None:
        """What an operator has to fix before anything is granted; None if nothing.

        It is about the default bot, or, if there is none, about all bots together: if only
        some of them cannot grant, the clients of the others should not be sent away.
        """
        if self.doorman is not None and (reason := self.doorman.why_not_ready()):
            return reason
        if self.is_led_elsewhere:
            return None
        if self.doorman is not None and not (self.several or self.by_name):
            return "this replica begins to lead, and has not read what Redis holds"
        default = self.find(None)
        asked = self.by_name.values() if default is None else [default]
        reasons = [bot.why_not_ready() for bot in asked]
        return next(iter(reasons), None) if None not in reasons else None

    @property
    def is_led_elsewhere(self) -> bool:
        """Whether another replica has the bots, and this one passes on what it is asked."""
        return self.doorman is not None and not self.doorman.leads

    async def leave(self) -> None:
        """Nobody is served any more; say so to the other replicas, if there are any."""
        if self.doorman is not None:
            await self.doorman.leave()

    def look(self) -> None:
        """Read the directory now."""
        self.asked_to_look.set()

    def end(self) -> None:
        """From now on, tell clients that set ``wait`` to ask again; the others keep waiting."""
        self.lobby.end()
        if self.doorman is not None:
            self.doorman.end()
            return
        for bot in self.by_name.values():
            bot.queue.end()


async def run(
    settings: Settings, *, task_status: trio.TaskStatus[Bots] = trio.TASK_STATUS_IGNORED
) -> None:
    """Open the journal, create the bots and run their tasks. Never returns."""
    keys = {name: secret.get_secret_value() for name in KEYS if (secret := getattr(settings, name))}
    bots = Bots(several=settings.bots is not None, **keys)
    async with AsyncExitStack() as shared:
        discord = None
        if settings.token is not None or settings.bots is not None:
            discord = await shared.enter_async_context(Discord(settings.api))
        if settings.redis is not None:
            await _be_a_replica(bots, settings, discord, task_status)
            return
        journals = shared.enter_context(closing(await _open_journals(settings)))
        make = partial(_bot, journals, bots)
        if settings.bots is None:
            # The only bot: if it crashes, the process ends, so that its supervisor notices.
            bot = bots.by_name[DEFAULT] = make(DEFAULT, settings, log)
            task_status.started(bots)
            await bot.run(discord, alone=True)
            return
        async with trio.open_nursery() as nursery:
            following = _Following(bots, settings, make, discord, nursery)
            following.look()
            task_status.started(bots)
            await following.run()


async def _be_a_replica(
    bots: Bots, settings: Settings, discord: Discord | None, task_status: trio.TaskStatus[Bots]
) -> None:
    """Be one of several, for ever; make the bots and run their tasks while leading."""
    # Not before it is known that it is wanted: what it needs need not be installed.
    from gateway_queue.replicas.replica import be_a_replica  # noqa: PLC0415

    assert settings.redis is not None  # noqa: S101 - the caller asked

    async def serve(journals: "SharedJournals") -> None:
        make = partial(_bot, journals, bots)
        try:
            async with trio.open_nursery() as nursery:
                if settings.bots is None:
                    bot = bots.by_name[DEFAULT] = make(DEFAULT, settings, log)
                    await bot.run_until_ended(discord)
                else:
                    following = _Following(bots, settings, make, discord, nursery)
                    following.look()
                    await following.run()
        finally:
            gone = list(bots.by_name.values())
            bots.by_name.clear()
            with trio.CancelScope(shield=True):
                for bot in gone:
                    await bot.queue.close()

    def started(doorman: "Doorman") -> None:
        bots.doorman = doorman
        task_status.started(bots)

    await be_a_replica(
        bots,
        url=settings.redis.get_secret_value(),
        base=settings.redis_prefix,
        name=settings.replica_name,
        about=about(settings),
        serve=serve,
        started=started,
    )


class _Following:
    """Keeps the bots in step with their directory.

    An application has one bot at a time: a new one for it, whatever its name, only starts when
    the previous one has ended.
    """

    def __init__(
        self,
        bots: Bots,
        settings: Settings,
        make: Callable[[str, Settings, lines.Log], Bot],
        discord: Discord | None,
        nursery: trio.Nursery,
    ) -> None:
        assert settings.bots is not None  # noqa: S101 - the caller asked
        self._bots = bots
        self._directory = Directory(settings.bots, settings)
        self._grace = settings.shutdown_grace
        self._make = make
        self._discord = discord
        self._nursery = nursery
        self._roster = Roster({}, {}, frozenset())
        self._fixed: dict[str, Settings] = {}  # not from the directory
        if settings.token is not None:
            self._fixed[DEFAULT] = settings.model_copy(update=dict.fromkeys(KEYS))
        self._running: dict[str, Bot] = {}  # by application, including those that are ending
        self._ignored: frozenset[str] = frozenset()
        self._unreadable = ""

    async def run(self) -> None:
        """Read the directory when asked to, and every LOOK seconds. Never returns."""
        while True:
            with trio.move_on_after(LOOK):
                await self._bots.asked_to_look.wait()
            self._bots.asked_to_look = trio.Event()
            try:
                # In a thread, because the disk may be slow or on the network.
                await trio.to_thread.run_sync(self._read, abandon_on_cancel=True)
            except RuntimeError as error:  # raised if no thread can be started
                self._say_unreadable(str(error))
            self._follow()

    def look(self) -> None:
        """Read the directory now, blocking on the disk."""
        self._read()
        self._follow()

    def _read(self) -> None:
        try:
            self._roster = self._directory.read()
        except OSError as error:
            self._say_unreadable(str(error))
        else:
            self._unreadable = ""

    def _say_unreadable(self, why: str) -> None:
        if why != self._unreadable:
            log.error("bots_unreadable", error=why, hint="the bots run on unchanged")
        self._unreadable = why

    def _follow(self) -> None:
        for name in self._roster.ignored - self._ignored:
            log.warning("bot_folder_ignored", name=name, hint="each bot is a file, not a folder")
        self._ignored = self._roster.ignored
        for name, bot in list(self._bots.by_name.items()):
            settings = self._roster.bots.get(name)
            if name in self._fixed:
                continue
            if name not in self._roster.names or (settings and not bot.may_become(settings)):
                del self._bots.by_name[name]
                self._nursery.start_soon(bot.end, self._grace)
            elif settings and bot.become(settings):
                log.info("bot_changed", bot=name)
        self._start_the_missing()

    def _start_the_missing(self) -> None:
        faults = dict(self._roster.wrong)
        for name, settings in (*self._fixed.items(), *sorted(self._roster.bots.items())):
            if name in self._bots.by_name:
                continue
            other = self._running.get(bot_of(settings.token, name))
            if other is None:
                try:
                    self._start(name, settings)
                except JournalError as error:
                    faults[name] = str(error)
            elif self._bots.by_name.get(other.name) is other:
                faults[name] = (
                    f"it has the same application id as the bot {other.name},"
                    f" {other.application}; allowed: one bot for each application"
                )
        for file, why in sorted(faults.items() - self._bots.faults.items()):
            is_here = name_of(file) in self._bots.by_name
            verdict = "the bot runs on unchanged" if is_here else "the bot is not served"
            log.error("bot_file_wrong", file=file, error=why, meanwhile=verdict)
        self._bots.faults = faults

    def _start(self, name: str, settings: Settings) -> None:
        bot = self._make(name, settings, log.bind(bot=name))
        self._running[bot.application] = bot
        self._bots.by_name[name] = bot
        self._nursery.start_soon(self._run, bot)
        self._nursery.start_soon(self._bots.lobby.call, name)
        log.info("bot_added", bot=name, application=bot.application)

    async def _run(self, bot: Bot) -> None:
        await bot.run_until_ended(self._discord)
        del self._running[bot.application]
        if bot.name not in self._bots.by_name:
            self._bots.metrics.forget(bot.name)
        log.info("bot_removed", bot=bot.name, application=bot.application)
        self._start_the_missing()


def _bot(
    journals: "Journals | SharedJournals", bots: Bots, name: str, settings: Settings, log: lines.Log
) -> Bot:
    journal: Callable[[], Journal] = partial(journals.of, bot_of(settings.token, name))
    has_operator = bots.operator_key is not None
    return Bot(name, settings, journal, bots.metrics.of(name), log, has_operator=has_operator)


async def _open_journals(settings: Settings) -> Journals:
    path = settings.journal_path
    if path is None:
        return Journals.in_memory()
    deadline = trio.current_time() + JOURNAL_PATIENCE
    waiting = False
    while True:
        try:
            return Journals.at(path, heir=bot_of(settings.token))
        except JournalHeldError as error:
            if trio.current_time() > deadline:
                raise
            if not waiting:
                log.warning("waiting_for_journal", error=str(error), at_most=JOURNAL_PATIENCE)
                waiting = True
        await trio.sleep(JOURNAL_RETRY)
