"""Shared by the commands: the settings, where the server is, and how to fail."""

import math
import signal
import sys
from collections.abc import Mapping
from ipaddress import ip_address
from typing import NoReturn

import click
import httpx
import trio
from rich.console import Console

from gateway_queue.settings import SECRETS, Settings, SettingsError, load

Flags = Mapping[str, str]  # by the settings' names

# As the first process of a container, we only get signals that we handle.
ENDING = signal.SIGINT, signal.SIGTERM, signal.SIGHUP

# Added to the number of the signal to make the exit code, as shells do.
EXIT_SIGNAL = 128

WHERE = "HOST and PORT, or --url, say where the server is"


def settings_of(flags: Flags) -> Settings:
    try:
        return load(**flags)
    except SettingsError as error:
        fail(error, 2)


def api_key(settings: Settings) -> str | None:
    return settings.api_key.get_secret_value() if settings.api_key else None


def refusal(key: str | None) -> str:
    """What a 401 means for a client with this API key."""
    if key:
        return "does not accept the API key that is in GATEWAY_QUEUE_API_KEY here"
    return (
        "requires an API key: set GATEWAY_QUEUE_API_KEY or GATEWAY_QUEUE_API_KEY_FILE,"
        f" or put it into a file GATEWAY_QUEUE_API_KEY in {SECRETS}"
    )


def address_of(settings: Settings) -> str:
    """The address of a server with these settings, seen from this machine."""
    if settings.port == 0:
        fail(
            "with PORT=0, only the log says where the server listens; pass that to --url",
            2,
        )
    host = settings.host
    try:
        ip = ip_address(host)
    except ValueError:
        pass  # a name
    else:
        if ip.is_unspecified:  # all addresses of this machine
            host = "127.0.0.1" if ip.version == 4 else "::1"
    scheme = "http" if settings.certfile is None else "https"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.port}"


def _address(_context: click.Context, _option: click.Parameter, url: str | None) -> str | None:
    """The address given with --url, whose scheme may be missing."""
    if url is None:
        return None
    address = url if "://" in url else f"http://{url}"
    try:
        parts = httpx.URL(address)
    except httpx.InvalidURL as error:
        raise click.BadParameter(f"{url!r}: {error}") from None
    more_than_an_address = parts.userinfo or parts.query or parts.fragment
    if parts.scheme not in {"http", "https"} or not parts.host or more_than_an_address:
        raise click.BadParameter(
            f"{url!r} is not an http or https URL without user, password or query"
        )
    return address.rstrip("/")


url_option = click.option(
    "--url",
    metavar="URL",
    envvar="GATEWAY_QUEUE_URL",
    callback=_address,
    help="Address of the server, also from GATEWAY_QUEUE_URL.  [default: from HOST and PORT]",
)


def no_nan(_context: click.Context, _option: click.Parameter, seconds: float) -> float:
    if math.isnan(seconds):  # click's ranges do not exclude it
        raise click.BadParameter("nan is not a number of seconds")
    return seconds


async def told_to_end() -> int:
    """Wait for a signal that ends the command, such as Ctrl-C's; returns its number."""
    # Signals that are ignored, for example by nohup, stay ignored.
    if heeded := [number for number in ENDING if signal.getsignal(number) != signal.SIG_IGN]:
        with trio.open_signal_receiver(*heeded) as signals:
            return await anext(signals)
    return await trio.sleep_forever()


def can_move(console: Console) -> bool:
    """Whether a line can be updated in place: in a terminal, even if colours are forced."""
    return console.is_interactive and console.file.isatty()


def fail(error: BaseException | str, code: int, hint: str = "") -> NoReturn:
    if isinstance(error, BaseExceptionGroup):
        error = ungrouped(error)
    click.echo(f"gateway-queue: {error}" + (f"; {hint}" if hint else ""), err=True)
    sys.exit(code)


def ungrouped(error: BaseException) -> BaseException:
    """The first error of a group; there is rarely more than one."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
