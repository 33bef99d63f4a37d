"""``gateway-queue pause``, ``resume``, ``slow``, ``first``, ``drop`` and ``forgive``."""

import re
from typing import Any

import click

from gateway_queue.cli.common import WHERE, Flags, address_of, fail, settings_of, url_option
from gateway_queue.cli.page import NoServerError, of_bot, send
from gateway_queue.cli.words import length

KEY = "GATEWAY_QUEUE_OPERATOR_KEY"

UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def _seconds(_context: click.Context, _option: click.Parameter, text: str | None) -> float | None:
    """Parse a time such as 90, 90s, 30m, 2h or 1d; returns seconds."""
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)([smhd]?)", text.strip())
    if match is None or not float(match[1]):
        raise click.BadParameter(f"{text!r} is not a time such as 90s, 30m or 2h")
    return float(match[1]) * UNITS[match[2]]


bot_option = click.option("--bot", metavar="NAME", help="One of several bots.")
for_option = click.option(
    "--for", "seconds", metavar="TIME", callback=_seconds, help="End it after 90s, 30m or 2h."
)
shard_argument = click.argument("shard", type=click.IntRange(0, 2**32 - 1))


def _order(
    flags: Flags, url: str | None, bot: str | None, method: str, path: str, body: object = None
) -> dict[str, Any]:
    """Send an order; returns the server's answer. Ends the command if the server refuses."""
    settings = settings_of(flags)
    if settings.operator_key is None:
        fail(f"this needs the server's operator key: set {KEY} or {KEY}_FILE", 2)
    key = settings.operator_key.get_secret_value()
    address = of_bot(bot, url or address_of(settings))
    try:
        return send(address, method, f"/operator{path}", key, body, trust_env=url is not None)
    except NoServerError as error:
        fail(error, 1, WHERE)


def _lasts(order: dict[str, Any]) -> str:
    """How long an order lasts, and whether a restart ends it."""
    ends_in = order["ends_in"]
    lasts = "until somebody ends it" if ends_in is None else f"for {length(ends_in)}"
    return lasts if order["survives_restart"] else f"{lasts}, or until the server restarts"


@click.command()
@for_option
@url_option
@bot_option
@click.argument("reason", nargs=-1)
@click.pass_obj
def pause(
    flags: Flags,
    *,
    seconds: float | None,
    url: str | None,
    bot: str | None,
    reason: tuple[str, ...],
) -> None:
    """Stop all grants of a running server. Its pages show the REASON.

    Waiting shards keep their places. All commands that steer a server need its operator key:
    in GATEWAY_QUEUE_OPERATOR_KEY, in the file that GATEWAY_QUEUE_OPERATOR_KEY_FILE names, or
    in /run/secrets.
    """
    body = {"reason": " ".join(reason), "for": seconds}
    said = _order(flags, url, bot, "PUT", "/pause", body)
    click.echo(f"Paused {_lasts(said['paused'])}")


@click.command()
@url_option
@bot_option
@click.pass_obj
def resume(flags: Flags, *, url: str | None, bot: str | None) -> None:
    """End a pause.

    Each bucket opens when it would have opened without the pause.
    """
    _order(flags, url, bot, "DELETE", "/pause")
    click.echo("Not paused")


@click.command()
@for_option
@url_option
@bot_option
@click.argument("interval", metavar="SECONDS|off")
@click.pass_obj
def slow(
    flags: Flags, *, seconds: float | None, url: str | None, bot: str | None, interval: str
) -> None:
    """Set a longer interval than the configured one, or end that with `off`.

    Either takes effect with the next grant of each bucket.
    """
    if interval == "off":
        _order(flags, url, bot, "DELETE", "/interval")
        click.echo("The configured interval applies again from the next grant of each bucket on")
        return
    try:
        body = {"seconds": float(interval), "for": seconds}
    except ValueError:
        raise click.BadParameter(
            f"{interval!r} is neither a number of seconds nor off", param_hint="SECONDS|off"
        ) from None
    said = _order(flags, url, bot, "PUT", "/interval", body)["interval"]
    click.echo(
        f"{said['current']:g} s between grants instead of {said['configured']:g} s {_lasts(said)}"
    )


@click.command()
@shard_argument
@url_option
@bot_option
@click.pass_obj
def first(flags: Flags, *, shard: int, url: str | None, bot: str | None) -> None:
    """Move a waiting shard to the front of its bucket."""
    _order(flags, url, bot, "PUT", f"/shards/{shard}/first")
    click.echo(f"Shard {shard} is next in its bucket")


@click.command()
@shard_argument
@url_option
@bot_option
@click.pass_obj
def drop(flags: Flags, *, shard: int, url: str | None, bot: str | None) -> None:
    """Forget a shard's place, and close its requests unanswered."""
    _order(flags, url, bot, "DELETE", f"/shards/{shard}/seat")
    click.echo(f"Shard {shard} no longer has a place")


@click.command()
@shard_argument
@url_option
@bot_option
@click.pass_obj
def forgive(flags: Flags, *, shard: int, url: str | None, bot: str | None) -> None:
    """Stop slowing down a shard for its crash loop."""
    _order(flags, url, bot, "DELETE", f"/shards/{shard}/crash-loop")
    click.echo(f"Shard {shard} is no longer slowed down")
