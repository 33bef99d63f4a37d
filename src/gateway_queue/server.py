"""Runs the server: owns the one nursery, the signals and the listening socket."""

import gc
import logging
import resource
import signal
import socket
from contextlib import suppress
from functools import partial
from typing import Any

import structlog
import trio
from hypercorn.config import Config
from hypercorn.trio import serve as serve_http

from gateway_queue import __version__, bots, no_proxy
from gateway_queue.bots import Bots
from gateway_queue.http import connection
from gateway_queue.http.app import create_app
from gateway_queue.settings import Settings, unknown_variables

log = structlog.get_logger()

# With Hypercorn's 100, 5,000 clients connecting at once took 200 s to get in; with this, 4 s.
# The system's somaxconn caps it.
BACKLOG = 4096

# Python's own thresholds cost half the CPU time while thousands of clients arrive. The second
# is small, because with 100 a single pass visits a million young objects: a grant was 390 ms
# late.
GC_THRESHOLDS = (10_000, 1, 100)

# A warning is logged below this many: each waiting request needs one open file.
FEW_OPEN_FILES = 4096


class CannotListenError(Exception):
    """The server cannot listen on its address; the message says why."""


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; a second signal ends it at once.

    Raises an exception group with JournalError, CannotListenError, CannotAskError,
    TokenRefusedError or whatever crashed the core; nothing is granted or answered after that.
    """
    async with trio.open_nursery() as nursery:
        listening, ending = trio.Event(), trio.Event()
        await nursery.start(_end_on_signals, listening, ending, nursery.cancel_scope)
        tune_process()
        tune_environment()
        app = create_app()
        app.serve_for(await nursery.start(bots.run, settings))
        if settings.bots is not None:
            await nursery.start(_look_on_hangup, app.bots)
        sock = _listen(settings.host, settings.port)
        scheme = "http" if settings.certfile is None else "https"
        address = _address(sock, scheme)
        connection.install()
        nursery.start_soon(app.reader.run)
        config = Config()
        config.bind = [f"fd://{sock.detach()}"]
        config.backlog = BACKLOG
        if settings.certfile is not None:
            config.certfile, config.keyfile = str(settings.certfile), str(settings.keyfile)
        config.graceful_timeout = settings.shutdown_grace
        config.errorlog = logging.getLogger("hypercorn.error")
        announce(settings, app.bots, address)
        listening.set()
        await serve_http(app, config, shutdown_trigger=partial(_end, ending, app.bots))
        await app.bots.leave()
        log.info("ended")
        nursery.cancel_scope.cancel()


def tune_process() -> None:
    """Prepare the process for thousands of waiting connections."""
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


def tune_environment() -> None:
    """Remove the entries of ``NO_PROXY`` that httpx cannot read, with a warning."""
    if unreadable := no_proxy.leave_out_unreadable():
        log.warning(
            "no_proxy_unreadable",
            entries=unreadable,
            hint="these entries of NO_PROXY are ignored; the others are used",
        )


def announce(settings: Settings, bots: Bots, address: str) -> None:
    """Log what this server is about to do; None stands for what Discord has yet to say."""
    log.info(
        "listening",
        address=address,
        version=__version__,
        token="none" if settings.token is None else "set",
        api_key="none" if settings.api_key is None else "set",
        interval=settings.interval,
        reserve=str(settings.reserve),
        journal="redis" if settings.redis else str(settings.journal_path or "memory"),
        **({"bots": len(bots.by_name)} if bots.several else _of_the_only_bot(settings, bots)),
    )
    for name, nearest in unknown_variables().items():
        hint = f"did you mean {nearest}?" if nearest else "see gateway-queue --help"
        log.warning("unknown_variable", name=name, hint=f"there is no such setting; {hint}")
    if settings.interval < 5:
        log.warning(
            "interval_short",
            interval=settings.interval,
            hint="Discord allows one identify per bucket every 5 s; use this only in tests",
        )


def _of_the_only_bot(settings: Settings, bots: Bots) -> dict[str, Any]:
    if bots.doorman is not None:
        return {"replica": bots.doorman.name}
    (bot,) = bots.by_name.values()
    counted = settings.token is None
    now = trio.current_time()
    opens_in = max(0.0, bot.queue.buckets[0].pace.opens_at - now)
    return {
        "buckets": bot.queue.layout.buckets if counted else None,
        "first_grant": f"in {opens_in:.1f} s, because earlier grants are unknown"
        + ("" if counted else ", and after the limits have been read"),
        "starts_left": bot.queue.starts.left(now) if counted else None,
    }


async def _look_on_hangup(
    bots: Bots, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGHUP) as signals:
        task_status.started()
        async for _ in signals:
            bots.look()


async def _end(ending: trio.Event, bots: Bots) -> None:
    await ending.wait()
    bots.end()
    if bots.doorman is not None:
        await bots.doorman.resign()


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server(
            (host, port),
            family=socket.AF_INET6 if ":" in host else socket.AF_INET,
            backlog=BACKLOG,
            dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6(),
        )
    except OSError as error:
        why = (error.strerror or str(error)).partition(" (while")[0]  # the rest repeats the address
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
