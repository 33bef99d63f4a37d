"""One bot: its queue, its journal, its session start limit, and the tasks that run them."""

from dataclasses import dataclass, field

import structlog
import trio

from gateway_queue import discord
from gateway_queue.keeper.lock import JournalHeldError
from gateway_queue.keeper.sqlite import Journals, SQLiteJournal
from gateway_queue.queue.events import Event, Report
from gateway_queue.queue.queue import Queue
from gateway_queue.queue.rules.allowance import Allowance, CountedAllowance, ReadAllowance
from gateway_queue.queue.rules.pace import Layout
from gateway_queue.queue.starts import Starts
from gateway_queue.settings import Settings, bot_of
from gateway_queue.watch import lines
from gateway_queue.watch.metrics import Metrics
from gateway_queue.watch.status import Status

log = structlog.get_logger()

# How long to wait for the journal of a server that is just ending, as in a restart.
JOURNAL_PATIENCE = 30.0
JOURNAL_RETRY = 0.1


@dataclass(slots=True)
class Bot:
    """A queue and what watches it."""

    queue: Queue
    metrics: Metrics
    status: Status = field(init=False)

    def __post_init__(self) -> None:
        self.status = Status(self.queue, self.metrics)


async def run(
    settings: Settings, *, task_status: trio.TaskStatus[Bot] = trio.TASK_STATUS_IGNORED
) -> None:
    """Open the journal, make the bot's queue and run its tasks, for ever."""
    journals = await _open_journals(settings)
    try:
        bot = _bot(settings, journals.of(bot_of(settings.token)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bot.queue.run)
            if settings.token is not None:
                nursery.start_soon(_keep_limits_fresh, settings, bot.queue)
            task_status.started(bot)
    finally:
        journals.close()


def reporter(metrics: Metrics) -> Report:
    """Make what the queue reports into metrics and log lines."""

    def report(event: Event) -> None:
        metrics.count(event)
        lines.write(event)

    return report


def _bot(settings: Settings, journal: SQLiteJournal) -> Bot:
    metrics = Metrics()
    report = reporter(metrics)
    starts = Starts(
        allowance=_allowance(settings),
        journal=journal,
        crash_loop=settings.crash_loop,
        retry=settings.interval,
        report=report,
    )
    queue = Queue(
        starts=starts,
        layout=_layout(settings),
        interval=settings.interval,
        seat_ttl=settings.seat_ttl,
        report=report,
    )
    return Bot(queue, metrics)


async def _keep_limits_fresh(settings: Settings, queue: Queue) -> None:
    assert settings.token is not None  # noqa: S101 - the caller asked
    async with discord.client(settings.api, settings.token.get_secret_value()) as client:
        await discord.keep_limits_fresh(client, queue, settings.refresh)


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


def _layout(settings: Settings) -> Layout:
    if settings.token is None:
        return Layout(max_concurrency=settings.max_concurrency or 1)
    # One line until Discord has told how many buckets there are.
    return Layout(max_concurrency=1, cap=settings.max_concurrency)


def _allowance(settings: Settings) -> Allowance:
    if settings.token is None:
        return CountedAllowance(settings.reserve, settings.daily_starts)
    return ReadAllowance(settings.reserve)
