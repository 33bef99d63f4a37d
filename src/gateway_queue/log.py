"""The log: one line or one JSON object per event, on standard error.

Whoever logs an event adds its time and its traceback; a thread of its own renders and writes
it. So a reader of the log that stops reading stops nobody else.

Only structlog's synchronous calls: its asynchronous ones need asyncio.
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

# Enough for 30,000 clients that leave in one moment; 10 to 20 MB of memory if nobody reads.
MOST_LINES = 32_768

# How long the end of the process waits for the last lines to be written.
FLUSH_SECONDS = 2.0


class Writer:
    """Takes events at once, whatever becomes of them, and writes them in their order.

    At most MOST_LINES wait to be written. Then further ones are dropped, until all that wait
    have been written and the log says how many it lacks.

    Not a handler of ``logging``: those hold a lock while they write, and at the end of the
    process ``logging.shutdown`` waits for it. Nor is ``sys.stderr`` written to, for the same
    reason.
    """

    def __init__(self) -> None:
        self._waiting: SimpleQueue[EventDict | threading.Event] = SimpleQueue()
        self._overflowing = False
        self._running = False
        self._refused = 0  # counted by those who log
        self._unwritten = 0  # counted by the thread

    @property
    def dropped(self) -> int:
        """How many lines were dropped so far, or could not be written."""
        return self._refused + self._unwritten

    def open(self, file: int, render: Callable[[EventDict], bytes]) -> None:
        """Write to this file descriptor; comes before any event."""
        self._file, self._render = file, render
        atexit.register(self.flush)

    def take(self, **event: object) -> None:
        if self._overflowing:
            self._refused += 1
            return
        self._waiting.put(event)
        self._overflowing = self._waiting.qsize() >= MOST_LINES
        if not self._running:
            with suppress(RuntimeError):  # no thread can be started: the next event tries again
                threading.Thread(target=self._write_all, name="log", daemon=True).start()
                self._running = True

    debug = info = warning = error = critical = take  # as structlog calls it

    def flush(self) -> None:
        """Wait until all that was taken is written, unless the reader has stopped."""
        if not self._running:
            return
        for _ in range(2):  # the second time for the count of dropped lines
            passed = threading.Event()
            self._waiting.put(passed)
            if not passed.wait(FLUSH_SECONDS):
                # Lest that reader holds up what Python itself may have to say.
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
    """Makes events of what the libraries below log."""

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
    """Trio says ten times a second that no more files can be opened; we, less often."""

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
    """Send our events, and those of the libraries below, to standard error.

    ``level`` is a key of LEVELS; ``style`` is ``console`` or ``json``.
    """
    stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115 - as long as we live
    renderer: Processor = (
        structlog.processors.JSONRenderer()
        if style == "json"
        else structlog.dev.ConsoleRenderer(
            colors=stderr.isatty(),
            exception_formatter=structlog.dev.plain_traceback,  # no locals: secrets are among them
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
    # Never the libraries' own debugging: of HTTP/2 it shows each header, an API key's too.
    libraries = LEVELS["info" if level == "debug" else "warning"]
    logging.basicConfig(handlers=[_Libraries()], level=libraries, force=True)
    logging.getLogger("trio.serve_listeners").addFilter(_OnceAMinute())
