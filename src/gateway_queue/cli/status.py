"""``gateway-queue status``."""

import click
from rich.console import Console, RenderableType

from gateway_queue.cli import bots_report, report
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


@click.command()
@url_option
@click.option("--bot", metavar="NAME", help="One of several bots.  [default: all]")
@click.option("--json", "as_json", is_flag=True, help="Print the server's JSON as it came.")
@click.pass_obj
def status(flags: Flags, *, url: str | None, bot: str | None, as_json: bool) -> None:
    """Show what a running server is doing.

    Asks the server's /status: its session starts, who waits in which bucket, who is next
    and when, and how long it takes until all who wait are in. Of several bots it shows how
    each of them stands, and all that with --bot.

    A server with an API key wants it here too: in the environment as
    GATEWAY_QUEUE_API_KEY, or in the file of that name in /run/secrets.

    The exit code is 0 if the server answered, 1 if not, and 2 if an option or a setting is
    wrong.
    """
    settings = settings_of(flags)
    address = of_bot(bot, url or address_of(settings))
    # What our own settings name is near: no proxy that the environment has for the world.
    trust_env = url is not None
    try:
        body, shown = fetch(address, "/status", _shown, api_key(settings), trust_env=trust_env)
    except NoServerError as error:
        fail(error, 1, WHERE)
    if as_json:
        click.echo(body)
        return
    Console(highlight=False).print(shown)


def _shown(body: bytes, address: str) -> RenderableType:
    """A /status for people. Raises ValueError if it is none."""
    if bots_report.is_of_several(body):
        return bots_report.report(bots_report.parse(body), address)
    return report.report(report.parse(body), address)
