"""``gateway-queue status``."""

import re
import time
from urllib.parse import quote

import click
import httpx
from rich.console import Console, RenderableType

from gateway_queue import no_proxy
from gateway_queue.cli import bots_report, report
from gateway_queue.cli.common import (
    WHERE,
    Flags,
    address_of,
    api_key,
    fail,
    refusal,
    settings_of,
    url_option,
)

# A server that grants on time answers within milliseconds.
ANSWER_SECONDS = 5.0

# A few hundred bytes for each of ten thousand buckets, and to spare.
LONGEST_ANSWER = 10**7


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
    address = url or address_of(settings)
    if bot is not None:
        address = f"{address}/bots/{quote(bot, safe='')}"
    # What our own settings name is near: no proxy that the environment has for the world.
    body, shown = _ask(address, api_key(settings), trust_env=url is not None)
    if as_json:
        click.echo(body)
        return
    Console(highlight=False).print(shown)


def _ask(address: str, key: str | None, *, trust_env: bool) -> tuple[bytes, RenderableType]:
    """The server's /status: as it came, and as it is shown."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    foreign = _foreign(address)
    if trust_env and (unreadable := no_proxy.leave_out_unreadable()):
        ignored = ", ".join(unreadable)
        click.echo(f"gateway-queue: ignoring what cannot be read in NO_PROXY: {ignored}", err=True)
    try:
        asking = httpx.Client(headers=headers, timeout=ANSWER_SECONDS, trust_env=trust_env)
    except (ImportError, OSError, ValueError, httpx.InvalidURL) as error:
        fail(f"cannot use the proxy or the certificates that the environment names: {error}", 1)
    try:
        with asking as client, client.stream("GET", f"{address}/status") as response:
            _check(response, address, key)
            body = _read(response)
        if bots_report.is_of_several(body):
            return body, bots_report.report(bots_report.parse(body), address)
        return body, report.report(report.parse(body), address)
    except httpx.InvalidURL as error:
        fail(f"{address} is no address: {error}", 2, WHERE)
    except httpx.TimeoutException:
        fail(f"no answer from {address} within {ANSWER_SECONDS:g} s", 1, WHERE)
    except httpx.ConnectError as error:
        fail(f"no server answers at {address}: {_without_number(error)}", 1, WHERE)
    except (httpx.RequestError, ValueError) as error:
        fail(f"{foreign}: {error}", 1, WHERE)


def _foreign(address: str) -> str:
    return f"what answers at {address} is not a Gateway Queue"


def _check(response: httpx.Response, address: str, key: str | None) -> None:
    """Fail unless it may be what was asked for."""
    foreign = _foreign(address)
    if response.status_code == 401:
        fail(f"the server at {address} {refusal(key)}", 1)
    if response.status_code == 404 and "/bots/" in address:
        fail(f"the server has no such bot, or not several: nothing is found at {address}", 1)
    if response.status_code != 200:
        fail(f"{foreign}, or a proxy before it answers: {_outcome(response)}", 1, WHERE)
    if not response.headers.get("Content-Type", "").startswith("application/json"):
        fail(f"{foreign}: it sends no JSON", 1, WHERE)


def _read(response: httpx.Response) -> bytes:
    """All of the answer; httpx itself limits only each pause in it."""
    deadline = time.monotonic() + ANSWER_SECONDS
    body = b""
    for piece in response.iter_bytes():
        body += piece
        if time.monotonic() > deadline or len(body) > LONGEST_ANSWER:
            raise httpx.ReadTimeout("the answer does not end")
    return body


def _outcome(response: httpx.Response) -> str:
    code = response.status_code
    outcome = f"{code} {httpx.codes.get_reason_phrase(code)}".rstrip()
    to = response.headers.get("Location")
    return f"{outcome}, to {to!r}" if to else outcome


def _without_number(error: Exception) -> str:
    """What the system says, without its ``[Errno 111]``."""
    return re.sub(r"^\[[^]]*\] ", "", str(error))
