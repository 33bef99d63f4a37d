"""``gateway-queue wait``."""

import logging
import math
import os
import shutil
import signal
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from typing import NoReturn

import click
import trio
from rich.console import Console
from rich.status import Status
from rich.text import Text

from gateway_queue.cli.common import (
    EXIT_SIGNAL,
    Flags,
    address_of,
    api_key,
    can_move,
    fail,
    no_nan,
    refusal,
    settings_of,
    told_to_end,
    ungrouped,
    url_option,
)
from gateway_queue.cli.words import measured
from gateway_queue.client import GatewayQueue, RefusedError, Standing

# As used by shells and timeout(1).
EXIT_TIMED_OUT, EXIT_CANNOT_RUN, EXIT_NO_COMMAND = 124, 126, 127


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("--shard", type=click.IntRange(min=0), required=True, help="The shard to wait for.")
@url_option
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=math.inf,
    callback=no_nan,
    metavar="SECONDS",
    help="Give up after this time.  [default: never]",
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND ...]")
@click.pass_obj
def wait(
    flags: Flags, *, shard: int, url: str | None, timeout: float, command: tuple[str, ...]
) -> None:
    """Wait until a shard may identify.

    Then exit, or run COMMAND in place of this one. COMMAND must identify at once, and ask
    again before each later identify. If the server does not answer yet, it keeps trying.

    If the server has an API key, provide it in the environment as GATEWAY_QUEUE_API_KEY, or
    in the file of that name in /run/secrets.

    The exit code is 0 once the shard may identify, or that of COMMAND. It is 1 if the server
    refuses, 2 if an option or a setting is wrong, 124 after the timeout, 126 if COMMAND cannot
    be run, 127 if there is no such COMMAND (nothing was asked then), 130 after Ctrl-C, and 143
    after SIGTERM.
    """
    settings = settings_of(flags)
    address = url or address_of(settings)
    if command and shutil.which(command[0]) is None:
        fail(f"there is no command {command[0]!r}", EXIT_NO_COMMAND)
    key = api_key(settings)
    try:
        queue = GatewayQueue(address, api_key=key)
    except ValueError as error:
        fail(error, 2)
    try:
        code = trio.run(_turn, queue, shard, timeout)
    except* RefusedError as group:
        why = ungrouped(group)
        wrong_key = isinstance(why, RefusedError) and why.status == 401
        fail(f"the server at {address} {refusal(key)}" if wrong_key else why, 1)
    if code == EXIT_TIMED_OUT:
        fail(f"shard {shard} did not get its turn within {timeout:g} s", EXIT_TIMED_OUT)
    if code:
        sys.exit(code)
    if command:
        _become(command)


async def _turn(queue: GatewayQueue, shard: int, timeout: float) -> int:  # noqa: ASYNC109
    """Wait for the turn, showing the shard's position; returns the exit code."""
    progress = _Progress(shard)
    code = EXIT_TIMED_OUT

    async def be_told() -> None:
        nonlocal code
        code = EXIT_SIGNAL + await told_to_end()
        nursery.cancel_scope.cancel()

    with progress.line, trio.move_on_after(timeout):
        _show_log()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(be_told)
            async with queue:
                await queue.wait(shard, on_standing=progress.tell)
            code = 0
            nursery.cancel_scope.cancel()
    if code == 0:
        progress.end()
    return code


def _show_log() -> None:
    """Show what the client logs about failures, above the progress line if there is one."""
    log = logging.getLogger("gateway_queue.client")
    log.addHandler(logging.StreamHandler())
    log.setLevel(logging.INFO)


class _Progress:
    """A line with a shard's position that counts down, or several lines in a pipe."""

    def __init__(self, shard: int) -> None:
        self._shard = shard
        self._began_at = time.monotonic()
        self._standing: Standing | None = None
        self._since = 0.0
        self._console = Console(stderr=True, highlight=False)
        self._moves = can_move(self._console)

    @property
    def line(self) -> AbstractContextManager[object]:
        """A context in which the line is shown."""
        if not self._moves:
            return nullcontext()
        spinner = "line" if self._console.options.ascii_only else "dots"
        return Status(self, console=self._console, spinner=spinner)

    def tell(self, standing: Standing) -> None:
        news = self._standing is None or standing.position != self._standing.position
        self._standing, self._since = standing, time.monotonic()
        if news and not self._moves:
            self._console.print(self, soft_wrap=True)

    def end(self) -> None:
        """Replace the moving line with one that says how it ended."""
        waited = measured(time.monotonic() - self._began_at)
        self._console.print(f"Shard {self._shard} may identify now, after {waited}", soft_wrap=True)

    def __rich__(self) -> Text:
        text = f"Shard {self._shard} waits"
        if self._standing is None:
            return Text(f"{text} for an answer")
        text += f": position {self._standing.position}, {self._standing.reason}"
        if self._standing.expected_in is not None:
            left = self._standing.expected_in - (time.monotonic() - self._since)
            text += f", {measured(max(left, 0.0))} left"
        return Text(text)


def _become(command: tuple[str, ...]) -> NoReturn:
    """Replace this process with the command, so that its exit code and signals are ours."""
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # by Python; the command would inherit it
        signal.signal(ignored, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)  # noqa: S606 - what the user asked for
    except OSError as error:
        fail(f"cannot run {command[0]!r}: {error.strerror}", EXIT_CANNOT_RUN)
