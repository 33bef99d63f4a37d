"""``gateway-queue status``."""

from contextlib import nullcontext
from datetime import datetime

import click
import httpx
import trio
from rich.console import Console, RenderableType
from rich.live import Live

from gateway_queue.cli import bots_report, report
from gateway_queue.cli.common import (
    WHERE,
    Flags,
    address_of,
    api_key,
    can_move,
    fail,
    settings_of,
    told_to_end,
    url_option,
)
from gateway_queue.cli.page import NoServerError, fetch, of_bot
from gateway_queue.cli.watch_report import Watched, data_of

# The feed sends something every second.
SILENT_SECONDS = 10.0


@click.command()
@url_option
@click.option("--bot", metavar="NAME", help="One of several bots.  [default: all]")
@click.option("--json", "as_json", is_flag=True, help="Print the server's JSON unchanged.")
@click.option("--watch", is_flag=True, help="Show how many are in, each second, until Ctrl-C.")
@click.pass_obj
def status(flags: Flags, *, url: str | None, bot: str | None, as_json: bool, watch: bool) -> None:
    """Show what a running server is doing.

    Shows its session starts, which shards wait in which bucket, which is next and when, and
    when all waiting shards will be in. For a server of several bots it lists them; with --bot it
    shows one of them.

    If the server has an API key, provide it in the environment as GATEWAY_QUEUE_API_KEY, or
    in the file of that name in /run/secrets.

    With --watch it updates every second until Ctrl-C; in a pipe it prints a line for each
    change.

    The exit code is 0 if the server answered, 1 if not, and 2 if an option or a setting is
    wrong.
    """
    settings = settings_of(flags)
    address = of_bot(bot, url or address_of(settings))
    # The server in our own settings is nearby, so proxies from the environment do not apply.
    trust_env = url is not None
    try:
        body, shown = fetch(address, "/status", _shown, api_key(settings), trust_env=trust_env)
    except NoServerError as error:
        fail(error, 1, WHERE)
    if watch:
        if bots_report.is_of_several(body):
            fail("there are several bots: choose one to --watch with --bot NAME", 2)
        if why := trio.run(_watch, address, api_key(settings), trust_env):
            fail(f"the feed of {address} ended: {why}", 1)
        return
    if as_json:
        click.echo(body)
        return
    Console(highlight=False).print(shown)


async def _watch(address: str, key: str | None, trust_env: bool) -> str | None:  # noqa: FBT001
    """Show the feed until a signal comes (returns None) or it ends (returns the reason)."""
    why = None
    async with trio.open_nursery() as nursery:

        async def be_told() -> None:
            await told_to_end()
            nursery.cancel_scope.cancel()

        nursery.start_soon(be_told)
        try:
            await _follow(f"{address}/dashboard/feed", key, trust_env=trust_env)
            why = "the server ended it"
        except (httpx.HTTPError, ValueError) as error:
            why = str(error) or type(error).__name__
        nursery.cancel_scope.cancel()
    return why


async def _follow(url: str, key: str | None, *, trust_env: bool) -> None:
    console = Console(highlight=False)
    live = Live(console=console, auto_refresh=False) if can_move(console) else None
    watched, told, event = Watched(), object(), list[str]()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with (
        httpx.AsyncClient(headers=headers, timeout=SILENT_SECONDS, trust_env=trust_env) as client,
        client.stream("GET", url) as response,
    ):
        response.raise_for_status()
        with live or nullcontext():
            async for line in response.aiter_lines():
                if line:
                    event.append(line)
                    continue
                watched.take(data_of(event))
                event.clear()
                now = datetime.now().astimezone()
                if live is not None:
                    live.update(watched.shown(now), refresh=True)
                elif watched.news != told:
                    told, verdict = watched.news, watched.verdict(now)
                    click.echo(f"{verdict.headline}. {verdict.detail}")


def _shown(body: bytes, address: str) -> RenderableType:
    """The content of /status, for people. Raises ValueError if it is something else."""
    now = datetime.now().astimezone()
    if bots_report.is_of_several(body):
        return bots_report.report(bots_report.parse(body), address, now)
    return report.report(report.parse(body), address, now)
