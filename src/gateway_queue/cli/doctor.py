"""``gateway-queue doctor``."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click
import httpx
import trio
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gateway_queue import __version__
from gateway_queue.cli.common import (
    EXIT_SIGNAL,
    WHERE,
    Flags,
    address_of,
    api_key,
    can_move,
    fail,
    no_nan,
    settings_of,
    told_to_end,
    url_option,
)
from gateway_queue.cli.diagnosis import of_status, who_answers
from gateway_queue.cli.examination import Way
from gateway_queue.cli.findings import Finding, Holding, conclusion
from gateway_queue.cli.page import of_bot
from gateway_queue.cli.way_diagnosis import of_holding, of_leaving
from gateway_queue.cli.words import measured

# As long as the longest time-out of the usual proxies.
SECONDS = 300.0
MOST_SECONDS = 900.0

STYLES = {"ok": "green", "note": "yellow", "bad": "red"}

BAR = 30  # cells


@click.command()
@url_option
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True, max=MOST_SECONDS),
    default=SECONDS,
    show_default=True,
    callback=no_nan,
    metavar="S",
    help="For how long a request must be held on its way to the server.",
)
@click.option("--bot", metavar="NAME", help="One of several bots.")
@click.pass_obj
def doctor(flags: Flags, *, url: str | None, seconds: float, bot: str | None) -> None:
    """Find out what keeps a bot from its turn.

    Checks the server and the way to it: whether a request is held for the time of --seconds, and
    whether the server notices when a client disconnects. Each finding says what to change.
    Takes no turn. Run it where the bot runs, with the address that the bot uses.

    If the server has an API key, provide it in the environment as GATEWAY_QUEUE_API_KEY, or in
    the file of that name in /run/secrets.

    The exit code is 0 if all is well, 1 if something is in the way, 2 if an option or a setting
    is wrong, 130 after Ctrl-C, and 143 after SIGTERM.
    """
    settings = settings_of(flags)
    address = of_bot(bot, url or address_of(settings))
    try:
        httpx.URL(address)
    except httpx.InvalidURL as error:
        fail(f"{address} is not an address: {error}", 2, WHERE)
    sys.exit(trio.run(_Examination(address, api_key(settings), seconds).run))


class _Examination:
    """Runs the checks, and shows each finding at once."""

    def __init__(self, address: str, key: str | None, seconds: float) -> None:
        self._address = address
        self._key = key
        self._seconds = seconds
        self._way = Way(address, key)
        self._found: list[Finding] = []
        self._console = Console(highlight=False)

    async def run(self) -> int:
        """Run all checks; returns the exit code."""
        code: int | None = None

        async def be_told() -> None:
            nonlocal code
            code = EXIT_SIGNAL + await told_to_end()
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(be_told)
            await self._examine()
            nursery.cancel_scope.cancel()
        end = conclusion(self._found)
        if code is None:
            self._show(end)
            return 1 if end.mark == "bad" else 0
        return code

    async def _examine(self) -> None:
        if await self._is_there():
            with _moving("Leaving a request that is held", None):
                leaving = await self._way.leave()
            self._find(of_leaving(leaving))
            await self._hold()

    async def _is_there(self) -> bool:
        """Whether a server answers that can be checked further."""
        reply = await self._way.ask("/status")
        if stranger := who_answers(reply, self._address, self._key):
            self._find(stranger)
            return False
        ready = await self._way.ask("/readyz")
        found, is_ours = of_status(reply.body, self._address, __version__, ready.problem)
        self._find(*found)
        return is_ours

    async def _hold(self) -> None:
        began_at = trio.current_time()
        try:
            with _moving(f"Being held for {measured(self._seconds)}", self._seconds):
                holding = await self._way.hold(self._seconds)
        except trio.Cancelled:
            after = trio.current_time() - began_at
            self._find(of_holding(Holding(self._seconds, after, None)))
            raise
        self._find(of_holding(holding))

    def _find(self, *found: Finding) -> None:
        self._found += found
        for finding in found:
            self._show(finding)

    def _show(self, finding: Finding) -> None:
        row = Table.grid(padding=(0, 2))
        row.add_column(width=4)
        row.add_column(overflow="fold")
        row.add_row(Text(finding.mark, STYLES[finding.mark]), Text(f"{finding.text}."))
        if finding.advice:
            row.add_row("", Text(f"{finding.advice}.", "dim"))
        self._console.print(row)


@contextmanager
def _moving(what: str, seconds: float | None) -> Iterator[None]:
    """Show what is being done, and its progress if this is a terminal."""
    console = Console(stderr=True, highlight=False)
    if not can_move(console):
        console.print(f"{what} ...", soft_wrap=True)
        yield
        return
    began_at = time.monotonic()

    def line() -> Table:
        passed = time.monotonic() - began_at
        row = Table.grid(padding=(0, 1))
        bar = ProgressBar(seconds, passed, width=BAR, pulse=seconds is None)
        row.add_row(what, bar, measured(passed))
        return row

    with Live(get_renderable=line, console=console, transient=True):
        yield
