"""The log: one line or one JSON object per event, on standard error.

Only structlog's synchronous calls: its asynchronous ones need asyncio.
"""

import logging
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TextIO, cast

import structlog

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class _Output:
    """Standard error, but a full disk or a reader that left costs lines and nothing else."""

    def __init__(self) -> None:
        self._stream: TextIO = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115 - as long as we live

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()


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
    output = cast("TextIO", _Output())
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info
        if style == "json"
        else structlog.processors.StackInfoRenderer(),
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if style == "json"
        else structlog.dev.ConsoleRenderer(
            colors=output.isatty(),
            exception_formatter=structlog.dev.plain_traceback,  # no locals: secrets are among them
        )
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(output),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared], processor=renderer
        )
    )
    # Never the libraries' own debugging: of HTTP/2 it shows each header, an API key's too.
    libraries = LEVELS["info" if level == "debug" else "warning"]
    logging.basicConfig(handlers=[handler], level=libraries, force=True)
    logging.getLogger("trio.serve_listeners").addFilter(_OnceAMinute())
