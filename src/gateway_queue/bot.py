"""One bot: its queue, its session start limit, and the tasks that run them."""

import math
import random
from collections.abc import Callable
from functools import partial

import trio

from gateway_queue.discord import Alarm, Discord, keep_limits_fresh
from gateway_queue.operate.operator import Operator
from gateway_queue.queue.events import Event, ReadingOrdered
from gateway_queue.queue.journal import Journal
from gateway_queue.queue.ledger import Ledger
from gateway_queue.queue.queue import Queue
from gateway_queue.queue.rules.allowance import Allowance, CountedAllowance, ReadAllowance
from gateway_queue.queue.rules.pace import Layout
from gateway_queue.queue.starts import Starts
from gateway_queue.settings import KEYS, Settings, bot_of
from gateway_queue.watch import lines
from gateway_queue.watch.feed import Feed
from gateway_queue.watch.metrics import BotMetrics
from gateway_queue.watch.status import Status

# How long a crashed bot pauses, in seconds: doubled each time, from the first to the longest.
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0

# After this many seconds without a crash, the next pause is the first one again.
GOOD_RUN = 300.0


# How often, in seconds, an operator may have the limits read: Discord limits that, too.
READ_EVERY = 15.0


class Bot:
    """One bot, for as long as none of its settings change except the token and the keys.

    ``journal`` opens its journal, at the start and after a crash; it may raise JournalError.
    """

    queue: Queue
    operator: Operator
    status: Status
    feed: Feed
    _ledger: Ledger | None
    _has_crashed: bool

    def __init__(
        self,
        name: str,
        settings: Settings,
        journal: Callable[[], Journal],
        metrics: BotMetrics,
        log: lines.Log,
        *,
        has_operator: bool = False,
    ) -> None:
        self.name = name
        self.application = bot_of(settings.token, name)
        self.settings = settings
        self._journal = journal
        self._metrics = metrics
        self.log = log
        self._has_operator = has_operator
        self._running = trio.CancelScope()
        self._reading = trio.CancelScope()  # of the limits
        self._read_now = Alarm()
        self._read_ordered_at = -math.inf
        self._begin()

    @property
    def api_key(self) -> str | None:
        """The API key of this bot only."""
        key = self.settings.api_key
        return key.get_secret_value() if key else None

    @property
    def operator_key(self) -> str | None:
        """The operator key of this bot only."""
        key = self.settings.operator_key
        return key.get_secret_value() if key else None

    def _can_be_steered(self) -> bool:
        return self._has_operator or self.operator_key is not None

    def why_not_ready(self) -> str | None:
        """What an operator has to fix before anything is granted; None if nothing."""
        if self._has_crashed:
            return f"the bot {self.name} crashed and restarts in a moment; see the log"
        return self.queue.starts.why_not_ready()

    def may_become(self, settings: Settings) -> bool:
        """Whether `become` can apply these settings, so that no new bot is needed."""
        if bot_of(settings.token, self.name) != self.application:
            return False
        secrets = {name: getattr(self.settings, name) for name in ("token", *KEYS)}
        return settings.model_copy(update=secrets) == self.settings

    def become(self, settings: Settings) -> bool:
        """Apply a new token or key of the same bot; False if nothing has changed."""
        before, self.settings = self.settings, settings
        if settings.token != before.token:
            if isinstance(allowance := self.queue.starts.allowance, ReadAllowance):
                allowance.withdraw()
            self._reading.cancel()
        return settings != before

    @property
    def may_read_limits_in(self) -> float:
        """Seconds until an operator may call `read_limits_now`; 0: now."""
        return max(0.0, self._read_ordered_at + READ_EVERY - trio.current_time())

    def read_limits_now(self) -> None:
        """Have the limits read from Discord at once, or as soon as Discord permits."""
        self._read_ordered_at = trio.current_time()
        self._read_now.ring()
        self._report(ReadingOrdered())

    async def run(self, discord: Discord | None, *, alone: bool) -> None:
        """Run the bot's tasks. Never returns; raises whatever crashes one of them.

        ``discord`` is None if no bot has a token. A bot that runs ``alone`` raises
        TokenRefusedError if Discord refuses its token.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.queue.run)
            nursery.start_soon(self.operator.run)
            nursery.start_soon(self.feed.run)
            if discord is not None and self.settings.token is not None:
                nursery.start_soon(partial(self._keep_limits_fresh, discord, alone=alone))

    async def run_until_ended(self, discord: Discord | None) -> None:
        """Run the bot's tasks until `end` is called; restart them after a crash."""
        with self._running:
            await self._run_apart(discord)
        await self.queue.close()

    async def end(self, grace: float) -> None:
        """Go on granting for ``grace`` seconds, then close the connections still waiting."""
        self.queue.end()
        with trio.move_on_after(grace):
            await self.queue.empty()
        self._running.cancel()

    async def _run_apart(self, discord: Discord | None) -> None:
        pause = FIRST_PAUSE
        while True:
            began_at = trio.current_time()
            try:
                if self._has_crashed:
                    await self.queue.close()
                    self._begin()
                await self.run(discord, alone=False)
            except Exception:  # whatever it is, it must not affect any other bot
                if trio.current_time() > began_at + GOOD_RUN:
                    pause = FIRST_PAUSE
                self.log.exception("bot_crashed", again_in=pause)
            self._has_crashed = True
            await trio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _begin(self) -> None:
        self.queue = self._new_queue()
        self.operator = Operator(self.queue)
        self._has_crashed = False
        self.status = Status(self.queue, self._metrics)
        self.feed = Feed(self.queue, self._metrics, self._can_be_steered)

    def _new_queue(self) -> Queue:
        journal = self._journal()
        self._ledger = journal.ledger
        starts = Starts(
            allowance=_allowance(self.settings),
            journal=journal,
            crash_loop=self.settings.crash_loop,
            retry=self.settings.interval,
            report=self._report,
        )
        return Queue(
            starts=starts,
            layout=_layout(self.settings, self._ledger.max_concurrency if self._ledger else None),
            interval=self.settings.interval,
            seat_ttl=self.settings.seat_ttl,
            report=self._report,
        )

    def _report(self, event: Event) -> None:
        """Turn an event of the queue into metrics and log lines."""
        self._metrics.count(event)
        lines.write(event, self.log)
        if self._ledger is not None:
            self._ledger.watch(event)

    async def _keep_limits_fresh(self, discord: Discord, *, alone: bool) -> None:
        refresh = self.settings.refresh
        if not alone:  # bots that start together should not keep asking at the same moments
            refresh *= random.uniform(0.75, 1)  # noqa: S311 - jitter
        while True:
            token = self.settings.token
            assert token is not None  # noqa: S101 - a bot with a token keeps one
            read = partial(discord.read_limit, token.get_secret_value())
            with trio.CancelScope() as self._reading:
                await keep_limits_fresh(
                    read, self.queue, refresh, self._read_now, gives_up=alone, log=self.log
                )


def _layout(settings: Settings, known: int | None) -> Layout:
    if settings.token is None:
        return Layout(max_concurrency=settings.max_concurrency or 1)
    # One line until Discord has said how many buckets there are.
    return Layout(max_concurrency=known or 1, cap=settings.max_concurrency)


def _allowance(settings: Settings) -> Allowance:
    if settings.token is None:
        return CountedAllowance(settings.reserve, settings.daily_starts)
    return ReadAllowance(settings.reserve)
