"""Runs the server: owns the one nursery, the signals, the listening socket and the journal."""

import gc
import logging
import resource
import signal
import socket
from contextlib import suppress
from functools import partial

import structlog
import trio
from hypercorn.config import Config
from hypercorn.trio import serve as serve_http

from gateway_queue import __version__, connection, discord
from gateway_queue.allowance import Allowance, CountedAllowance, ReadAllowance
from gateway_queue.journal import Journal, JournalHeldError
from gateway_queue.metrics import Metrics
from gateway_queue.pace import Layout
from gateway_queue.queue import Queue
from gateway_queue.settings import Settings
from gateway_queue.starts import Starts
from gateway_queue.web import create_app

log = structlog.get_logger()

# With Hypercorn's 100, 5,000 clients that connected at once took 200 s to get in; 4 s with
# this. The system's somaxconn caps it.
BACKLOG = 4096

# Python's own thresholds cost half the CPU while thousands arrive. The second is small: with
# 100 there, one pass goes over a million young objects, and a grant was 390 ms late.
GC_THRESHOLDS = (10_000, 1, 100)

# A waiting request needs one open file.
FEW_OPEN_FILES = 4096

# How long to wait for the journal of a server that is just ending, as in a restart.
JOURNAL_PATIENCE = 30.0
JOURNAL_RETRY = 0.1


class CannotListenError(Exception):
    """The address is in use or not ours; the message says which."""


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; a second one ends it at once.

    Raises, in a group, JournalError, CannotListenError, CannotAskError, TokenRefusedError,
    or whatever crashed the core: then nothing more is granted or answered.
    """
    async with trio.open_nursery() as nursery:
        listening, ending = trio.Event(), trio.Event()
        await nursery.start(_end_on_signals, listening, ending, nursery.cancel_scope)
        queue: Queue = await nursery.start(run_core, settings)
        app = create_app()
        app.queue = queue
        app.api_key = settings.api_key.get_secret_value() if settings.api_key else None
        sock = _listen(settings.host, settings.port)
        scheme = "http" if settings.certfile is None else "https"
        address = _address(sock, scheme)
        connection.repair()
        config = Config()
        config.bind = [f"fd://{sock.detach()}"]
        config.backlog = BACKLOG
        if settings.certfile is not None:
            config.certfile, config.keyfile = str(settings.certfile), str(settings.keyfile)
        config.graceful_timeout = settings.shutdown_grace
        config.errorlog = logging.getLogger("hypercorn.error")
        announce(settings, queue, address)
        listening.set()
        await serve_http(app, config, shutdown_trigger=partial(_end, ending, queue))
        log.info("ended")
        nursery.cancel_scope.cancel()


async def run_core(
    settings: Settings, *, task_status: trio.TaskStatus[Queue] = trio.TASK_STATUS_IGNORED
) -> None:
    """Open the journal, make the queue and run its tasks, for ever."""
    tune_process()
    journal = await _open_journal(settings)
    try:
        queue = _queue(settings, journal)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(queue.run)
            if settings.token is not None:
                nursery.start_soon(_keep_limits_fresh, settings, queue)
            task_status.started(queue)
    finally:
        journal.close()


def tune_process() -> None:
    """Make the process fit for thousands of waiting connections."""
    gc.set_threshold(*GC_THRESHOLDS)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    if soft != resource.RLIM_INFINITY and soft < FEW_OPEN_FILES:
        log.warning(
            "few_open_files",
            limit=soft,
            hint=f"each waiting request needs one; allow {FEW_OPEN_FILES} or more"
            " (ulimit -n, LimitNOFILE=)",
        )


def announce(settings: Settings, queue: Queue, address: str) -> None:
    """Log in plain words what this server is going to do."""
    counted = settings.token is None
    now = trio.current_time()
    opens_in = queue.buckets[0].pace.opens_at - now
    log.info(
        "listening",
        address=address,
        version=__version__,
        buckets=queue.layout.buckets if counted else "as Discord says, to be read now",
        interval=settings.interval,
        first_grant=f"in {opens_in:.1f} s, as grants before this start are unknown"
        + ("" if counted else ", and once the limits are read"),
        starts_left=queue.starts.left(now) if counted else "as Discord says, to be read now",
        reserve=str(settings.reserve),
        journal=queue.starts.journal.name,
    )
    if settings.interval < 5:
        log.warning(
            "interval_short",
            interval=settings.interval,
            hint="Discord allows one identify per 5 s and bucket; this is for tests",
        )


async def _end(ending: trio.Event, queue: Queue) -> None:
    await ending.wait()
    queue.end()


async def _keep_limits_fresh(settings: Settings, queue: Queue) -> None:
    assert settings.token is not None  # noqa: S101 - the caller asked
    async with discord.client(settings.api, settings.token.get_secret_value()) as client:
        await discord.keep_limits_fresh(client, queue, settings.refresh)


async def _open_journal(settings: Settings) -> Journal:
    path = settings.journal_path
    if path is None:
        return Journal.in_memory()
    deadline = trio.current_time() + JOURNAL_PATIENCE
    waiting = False
    while True:
        try:
            return Journal.at(path)
        except JournalHeldError as error:
            if trio.current_time() > deadline:
                raise
            if not waiting:
                log.warning("waiting_for_journal", error=str(error), at_most=JOURNAL_PATIENCE)
                waiting = True
        await trio.sleep(JOURNAL_RETRY)


def _queue(settings: Settings, journal: Journal) -> Queue:
    starts = Starts(
        allowance=_allowance(settings),
        journal=journal,
        crash_loop=settings.crash_loop,
        retry=settings.interval,
    )
    return Queue(
        starts=starts,
        layout=_layout(settings),
        interval=settings.interval,
        seat_ttl=settings.seat_ttl,
        metrics=Metrics(),
    )


def _layout(settings: Settings) -> Layout:
    if settings.token is None:
        return Layout(max_concurrency=settings.max_concurrency or 1)
    # One line until Discord has told how many buckets there are.
    return Layout(max_concurrency=1, cap=settings.max_concurrency)


def _allowance(settings: Settings) -> Allowance:
    if settings.token is None:
        return CountedAllowance(settings.reserve, settings.daily_starts)
    return ReadAllowance(settings.reserve)


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server(
            (host, port),
            family=socket.AF_INET6 if ":" in host else socket.AF_INET,
            backlog=BACKLOG,
            dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6(),
        )
    except OSError as error:
        why = (error.strerror or str(error)).partition(" (while")[0]  # the address comes twice
        raise CannotListenError(f"cannot listen on HOST={host} PORT={port}: {why}") from None


def _address(sock: socket.socket, scheme: str) -> str:
    host, port = sock.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


async def _end_on_signals(
    listening: trio.Event,
    ending: trio.Event,
    everything: trio.CancelScope,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            if ending.is_set() or not listening.is_set():
                everything.cancel()
            log.info("ending", signal=signal.Signals(number).name)
            ending.set()
