"""``gateway-queue wait``."""

import logging
import os
import shutil
import signal
import sys
import time
from contextlib import nullcontext
from typing import NoReturn

import click
import trio
from rich.console import Console
from rich.status import Status
from rich.text import Text

from gateway_queue.cli.common import (
    Flags,
    address_of,
    api_key,
    fail,
    refusal,
    settings_of,
    url_option,
)
from gateway_queue.cli.report import length
from gateway_queue.client import GatewayQueue, RefusedError, Standing

# As shells and timeout(1) have them.
EXIT_TIMED_OUT, EXIT_NO_COMMAND, EXIT_INTERRUPTED = 124, 127, 130


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("--shard", type=click.IntRange(min=0), required=True, help="Whose turn it is about.")
@url_option
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=float("inf"),
    metavar="SECONDS",
    help="Give up after this time.  [default: never]",
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND ...]")
@click.pass_obj
def wait(
    flags: Flags, *, shard: int, url: str | None, timeout: float, command: tuple[str, ...]
) -> None:
    """Wait until a shard may identify.

    Then run COMMAND, which takes the place of this one, or end. It is to identify at once; for
    its later identifies it has to ask again. Waits also for a server that does not answer yet.

    A server with an API key wants it here too: in the environment as
    GATEWAY_QUEUE_API_KEY, or in the file of that name in /run/secrets.

    The exit code is 0 once the shard may identify, or that of COMMAND. It is 1 if the server
    refuses, 2 if an option or a setting is wrong, 124 if the time is up, 127 if there is no
    such COMMAND (the shard then has not asked), and 130 after Ctrl-C.
    """
    settings = settings_of(flags)
    address = url or address_of(settings)
    if command and shutil.which(command[0]) is None:
        fail(f"there is no command {command[0]!r}", EXIT_NO_COMMAND)
    key = api_key(settings)
    try:
        granted = trio.run(_turn, GatewayQueue(address, api_key=key), shard, timeout)
    except RefusedError as error:
        fail(f"the server at {address} {refusal(key)}" if error.status == 401 else error, 1)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    if not granted:
        fail(f"shard {shard} had no turn within {timeout:g} s", EXIT_TIMED_OUT)
    if command:
        _become(command)


async def _turn(queue: GatewayQueue, shard: int, timeout: float) -> bool:  # noqa: ASYNC109
    """Whether it came in time; shows meanwhile how the shard stands."""
    console = Console(stderr=True, highlight=False)
    progress = _Progress(shard, console)
    line = Status(progress, console=console) if console.is_terminal else nullcontext()
    with line, trio.move_on_after(timeout):
        _show_log()
        async with queue:
            await queue.wait(shard, on_standing=progress.tell)
        return True
    return False


def _show_log() -> None:
    """Show what the client says of its failures, above the line if there is one."""
    log = logging.getLogger("gateway_queue.client")
    log.addHandler(logging.StreamHandler())
    log.setLevel(logging.INFO)


class _Progress:
    """A line on how a shard stands, which counts down; or lines, where that cannot be."""

    def __init__(self, shard: int, console: Console) -> None:
        self._shard = shard
        self._console = console
        self._standing: Standing | None = None
        self._since = 0.0

    def tell(self, standing: Standing) -> None:
        news = self._standing is None or standing.position != self._standing.position
        self._standing, self._since = standing, time.monotonic()
        if news and not self._console.is_terminal:
            self._console.print(self, soft_wrap=True)

    def __rich__(self) -> Text:
        text = f"Shard {self._shard} waits"
        if self._standing is None:
            return Text(f"{text} for an answer")
        text += f": position {self._standing.position}, {self._standing.reason}"
        if self._standing.expected_in is not None:
            left = self._standing.expected_in - (time.monotonic() - self._since)
            text += f", {length(max(left, 0.0))} left"
        return Text(text)


def _become(command: tuple[str, ...]) -> NoReturn:
    """Be this command from now on: its exit code, its signals."""
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # by Python; a command would inherit that
        signal.signal(ignored, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)  # noqa: S606 - what the user asked for
    except OSError as error:
        fail(f"cannot run {command[0]!r}: {error.strerror}", 126)
