"""The log: one line or one JSON object per event, on standard error.

The code that logs an event adds its time and its traceback; a separate thread renders and
writes it. So if the reader of the log stops reading, nothing else stops.

Use only structlog's synchronous calls, because its asynchronous ones need asyncio.
"""

import atexit
import logging
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import cast

import structlog
from structlog.typing import EventDict, Processor

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}

# Enough for 30,000 clients leaving at once; takes 10 to 20 MB of memory if nobody reads.
MOST_LINES = 32_768

# How many seconds the process waits at its end for the last lines to be written.
FLUSH_SECONDS = 2.0


class Writer:
    """Accepts events without blocking, and writes them in order.

    At most MOST_LINES wait to be written. After that, lines are dropped until all waiting ones
    have been written, and then the log says how many are missing.

    This is not a handler of ``logging``: those hold a lock while they write, and
    ``logging.shutdown`` waits for that at the end of the process. For the same reason, it does
    not write to ``sys.stderr``.
    """

    def __init__(self) -> None:
        self._waiting: SimpleQueue[EventDict | threading.Event] = SimpleQueue()
        self._overflowing = False
        self._running = False
        self._refused = 0  # counted by those who log
        self._unwritten = 0  # counted by the thread

    @property
    def dropped(self) -> int:
        """How many lines have been dropped, or could not be written, so far."""
        return self._refused + self._unwritten

    def open(self, file: int, render: Callable[[EventDict], bytes]) -> None:
        """Set the file descriptor to write to; call this before any event."""
        self._file, self._render = file, render
        atexit.register(self.flush)

    def take(self, **event: object) -> None:
        if self._overflowing:
            self._refused += 1
            return
        self._waiting.put(event)
        self._overflowing = self._waiting.qsize() >= MOST_LINES
        if not self._running:
            with suppress(RuntimeError):  # no thread available: the next event tries again
                threading.Thread(target=self._write_all, name="log", daemon=True).start()
                self._running = True

    debug = info = warning = error = critical = take  # the names that structlog calls

    def flush(self) -> None:
        """Wait until all accepted events are written, unless the reader has stopped."""
        if not self._running:
            return
        for _ in range(2):  # the second time for the count of dropped lines
            passed = threading.Event()
            self._waiting.put(passed)
            if not passed.wait(FLUSH_SECONDS):
                # So that a stopped reader does not block Python's own messages.
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._file)
                return

    def _write_all(self) -> None:
        told, written = 0, True
        while True:
            item = self._waiting.get()
            if not isinstance(item, threading.Event):
                written = self._write(item)
            if self._waiting.empty():
                self._overflowing = False
                if written and (lines := self.dropped - told):
                    told += lines
                    structlog.get_logger().warning("log_lines_dropped", lines=lines)
            if isinstance(item, threading.Event):
                item.set()

    def _write(self, event: EventDict) -> bool:
        try:
            line = self._render(event)
            while line:
                try:
                    line = line[os.write(self._file, line) :]
                except BlockingIOError:  # another process made our terminal non-blocking
                    select.select((), (self._file,), ())
        except Exception:  # noqa: BLE001 - a full disk, or a reader that left
            self._unwritten += 1
            return False
        return True


writer = Writer()


class _Libraries(logging.Handler):
    """Turns log records of the libraries we use into events."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            structlog.get_logger().log(
                record.levelno,
                record.getMessage(),
                logger=record.name,
                exc_info=record.exc_info,
            )
        except Exception:  # noqa: BLE001 - as logging's own handlers do
            self.handleError(record)


class _OnceAMinute(logging.Filter):
    """Trio logs ten times a second that no more files can be opened; this lets fewer through."""

    def __init__(self) -> None:
        super().__init__()
        self._quiet_until = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        if time.monotonic() < self._quiet_until:
            return False
        self._quiet_until = time.monotonic() + 60
        record.exc_info = None
        return True


def configure(level: str, style: str) -> None:
    """Send our events, and those of the libraries we use, to standard error.

    ``level`` is a key of LEVELS; ``style`` is ``console`` or ``json``.
    """
    stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115 - as long as we live
    renderer: Processor = (
        structlog.processors.JSONRenderer()
        if style == "json"
        else structlog.dev.ConsoleRenderer(
            colors=stderr.isatty(),
            exception_formatter=structlog.dev.plain_traceback,  # no locals: they include secrets
        )
    )

    def render(event: EventDict) -> bytes:
        line = cast("str", renderer(None, "", event))
        return f"{line}\n".encode(stderr.encoding, "backslashreplace")

    writer.open(stderr.fileno(), render)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=lambda *_: writer,
        cache_logger_on_first_use=True,
    )
    # Never the libraries' debug logs: those of HTTP/2 show every header, including API keys.
    libraries = LEVELS["info" if level == "debug" else "warning"]
    logging.basicConfig(handlers=[_Libraries()], level=libraries, force=True)
    logging.getLogger("coredis").setLevel(logging.WARNING)  # it tells of what is repaired
    logging.getLogger("trio.serve_listeners").addFilter(_OnceAMinute())
