"""``gateway-queue plan``."""

import json
from dataclasses import asdict
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

import click
from click.core import ParameterSource
from rich.console import Console, RenderableType

from gateway_queue.cli.common import (
    WHERE,
    Flags,
    address_of,
    api_key,
    fail,
    settings_of,
    url_option,
)
from gateway_queue.cli.page import NoServerError, fetch, of_bot
from gateway_queue.cli.plan_report import parse, report
from gateway_queue.operate.plan import (
    LONGEST_INTERVAL,
    MOST_SHARDS,
    Launch,
    Limits,
    shortest_interval,
)
from gateway_queue.operate.plan import plan as work_out
from gateway_queue.queue.rules.allowance import DAY, MOST_BUCKETS
from gateway_queue.queue.rules.pace import Layout
from gateway_queue.settings import MOST_STARTS, Settings


@click.command()
@click.argument("shards", type=click.IntRange(1, MOST_SHARDS))
@url_option
@click.option(
    "--max-concurrency",
    type=click.IntRange(1, MOST_BUCKETS),
    metavar="N",
    help="Plan with this max_concurrency instead of the actual one.",
)
@click.option(
    "--interval",
    type=float,
    metavar="S",
    help="Plan with this interval instead of the actual one, in seconds.",
)
@click.option(
    "--starts",
    type=click.IntRange(1, MOST_STARTS),
    metavar="N",
    help="Plan without a server, with this many session starts a day.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print the plan as JSON, as returned by /plan."
)
@click.option("--bot", metavar="NAME", help="One of several bots.")
@click.pass_obj
def plan(
    flags: Flags,
    /,
    *,
    url: str | None,
    starts: int | None,
    bot: str | None,
    as_json: bool,
    **launch: Any,
) -> None:
    """Show how long it takes to start SHARDS shards.

    Asks a running server's /plan: when all of them are in, after the shards waiting now, and
    whether there are enough session starts.

    With --starts, it plans without a server: one with just these settings, no token, and
    nobody waiting. It does the same if no server answers, unless --url or --bot names one.

    If the server has an API key, provide it in the environment as GATEWAY_QUEUE_API_KEY, or
    in the file of that name in /run/secrets.

    The exit code is 0 if there is a plan, 1 if the server has none, and 2 if an option or a
    setting is wrong.
    """
    settings = settings_of(flags)
    source = click.get_current_context().get_parameter_source("url")
    if starts and (bot or source is ParameterSource.COMMANDLINE):
        raise click.UsageError("--starts plans without a server; leave out --url and --bot")
    planned = Launch(**launch)
    found = None if starts else _ask(settings, url, bot, planned)
    body, shown = found or _without_server(settings, starts, planned)
    if as_json:
        click.echo(body)
        return
    Console(highlight=False).print(shown)


def _ask(
    settings: Settings, url: str | None, bot: str | None, launch: Launch
) -> tuple[bytes, RenderableType] | None:
    """A server's plan; None if no server answers and none was named."""
    address = of_bot(bot, url or address_of(settings))
    query = {name: value for name, value in asdict(launch).items() if value is not None}
    target, key = f"/plan?{urlencode(query)}", api_key(settings)
    try:
        return fetch(address, target, _shown, key, trust_env=url is not None)
    except NoServerError as error:
        if url or bot:
            fail(error, 1, WHERE)
        click.echo(f"gateway-queue: {error}; planning without a server", err=True)
        return None


def _shown(body: bytes, address: str) -> RenderableType:
    """A server's plan, for people. Raises ValueError if it is not one."""
    return report(parse(body), f"at {address}", datetime.now().astimezone())


def _without_server(
    settings: Settings, starts: int | None, launch: Launch
) -> tuple[bytes, RenderableType]:
    """The plan of a server that has these settings, no token and no history."""
    shortest = shortest_interval(settings.interval)
    interval = settings.interval if launch.interval is None else launch.interval
    if not shortest <= interval <= LONGEST_INTERVAL:
        raise click.BadParameter(
            f"{interval:g} is not in the range {shortest:g}<=x<={LONGEST_INTERVAL:g}.",
            param_hint="'--interval'",
        )
    total = starts or settings.daily_starts
    planned = work_out(
        launch.shards,
        Layout(launch.max_concurrency or settings.max_concurrency or 1),
        interval,
        Limits("counted", total, total, settings.reserve.of(total), DAY),
    )
    body = json.dumps(asdict(planned)).encode()
    return body, report(parse(body), "without a server", datetime.now().astimezone())
