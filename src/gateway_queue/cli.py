"""The ``gateway-queue`` command: serves, and shows what a running server is doing."""

import re
import sys
import time
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import NoReturn

import click
import httpx
import trio
from rich.console import Console

from gateway_queue import __version__, log
from gateway_queue.discord import CannotAskError, TokenRefusedError
from gateway_queue.journal import JournalError
from gateway_queue.report import Status, parse, report
from gateway_queue.settings import SECRETS, Setting, Settings, SettingsError, describe, load

Flags = Mapping[str, str]  # by the settings' names

# EX_CONFIG of sysexits.h: to start again would not mend it.
EXIT_TOKEN_REFUSED = 78

# A server that grants on time answers within milliseconds.
ANSWER_SECONDS = 5.0

# A hundred bytes for each of a million seats.
LONGEST_ANSWER = 10**8

WHERE = "HOST and PORT, or --url, say where the server is"


class Commands(click.Group):
    """The settings are options of all commands, and its help has room for them."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_commands(ctx, formatter)
        names = {setting.name for setting in describe()}
        others = [option for option in self.get_params(ctx) if option.name not in names]
        with formatter.section("Options"):
            formatter.write_dl([record for o in others if (record := o.get_help_record(ctx))])
        with formatter.section("Settings, by option or by environment"):
            for number, setting in enumerate(describe()):
                if number:
                    formatter.write_paragraph()
                _write_setting(setting, formatter)


def _write_setting(setting: Setting, formatter: click.HelpFormatter) -> None:
    ways = f"{setting.name}=VALUE"
    if not setting.is_secret:
        ways = f"{setting.flag} VALUE, or {ways}"
    # Not as text, which might be broken within a name.
    formatter.write(f"{'':{formatter.current_indent}}{ways}\n")
    with formatter.indentation():
        formatter.write_text(f"{setting.meaning[0].upper()}{setting.meaning[1:]}.")
        formatter.write_text(f"Allowed: {setting.allowed}")
        formatter.write_text(f"Default: {setting.default}")


def _settings_flags(command: Callable[..., None]) -> Callable[..., None]:
    for setting in reversed(describe()):
        if not setting.is_secret:
            command = click.option(setting.flag, setting.name, metavar="VALUE")(command)
    return command


@click.group(
    cls=Commands,
    invoke_without_command=True,
    subcommand_metavar="[COMMAND]",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="gateway-queue")
@_settings_flags
@click.pass_context
def main(context: click.Context, /, **flags: str | None) -> None:
    """Tell each shard of a Discord bot when it may IDENTIFY.

    Without a command it serves: shards ask GET /?shard=N and are held until it is their
    turn. Options win over the environment, and that wins over files in /run/secrets named
    like the variables. Secrets have no option, as it would show in the list of processes.
    """
    context.obj = {name: value for name, value in flags.items() if value is not None}
    if context.invoked_subcommand is None:
        _serve(_load(context.obj))


@main.command()
@click.option(
    "--url", metavar="URL", help="Address of the server.  [default: where HOST and PORT say]"
)
@click.option("--json", "as_json", is_flag=True, help="Print the server's JSON as it came.")
@click.pass_obj
def status(flags: Flags, *, url: str | None, as_json: bool) -> None:
    """Show what a running server is doing.

    Asks the server's /status: its session starts, who waits in which bucket, who is next
    and when, and how long it takes until everyone is in.

    A server with an API key wants it here too: in the environment as
    GATEWAY_QUEUE_API_KEY, or in the file of that name in /run/secrets.

    The exit code is 0 if the server answered, 1 if not, and 2 if an option or a setting is
    wrong.
    """
    settings = _load(flags)
    address = _address(settings) if url is None else _address_of(url)
    # What our own settings name is near: no proxy that the environment has for the world.
    body, shown = _ask(address, settings, trust_env=url is not None)
    if as_json:
        click.echo(body)
        return
    Console(highlight=False).print(report(shown, address))


def _serve(settings: Settings) -> None:
    # Here, for it loads Quart and Hypercorn, which the other commands do without.
    from gateway_queue.server import CannotListenError, serve  # noqa: PLC0415

    log.configure(settings.log_level, settings.log_format)
    try:
        trio.run(serve, settings)
    except* TokenRefusedError as group:
        _fail(group, EXIT_TOKEN_REFUSED, "check DISCORD_TOKEN")
    except* (CannotAskError, CannotListenError, JournalError) as group:
        _fail(group, 1)


def _ask(address: str, settings: Settings, *, trust_env: bool) -> tuple[bytes, Status]:
    """The server's /status: as it came, and as it is understood."""
    key = settings.api_key.get_secret_value() if settings.api_key else None
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    foreign = f"what answers at {address} is not a Gateway Queue"
    try:
        with (
            httpx.Client(headers=headers, timeout=ANSWER_SECONDS, trust_env=trust_env) as client,
            client.stream("GET", f"{address}/status") as response,
        ):
            if response.status_code == 401:
                _fail(f"the server at {address} {_refusal(key)}", 1)
            if response.status_code != 200:
                _fail(f"{foreign}, or a proxy before it answers: {_outcome(response)}", 1, WHERE)
            if not response.headers.get("Content-Type", "").startswith("application/json"):
                _fail(f"{foreign}: it sends no JSON", 1, WHERE)
            body = _read(response)
        return body, parse(body)
    except (ImportError, OSError) as error:
        _fail(f"cannot use the proxy or the certificates that the environment names: {error}", 1)
    except httpx.InvalidURL as error:
        _fail(f"{address} is no address: {error}", 2, WHERE)
    except httpx.TimeoutException:
        _fail(f"no answer from {address} within {ANSWER_SECONDS:g} s", 1, WHERE)
    except httpx.ConnectError as error:
        _fail(f"no server answers at {address}: {_without_number(error)}", 1, WHERE)
    except (httpx.RequestError, ValueError) as error:
        _fail(f"{foreign}: {error}", 1, WHERE)


def _read(response: httpx.Response) -> bytes:
    """All of the answer; httpx itself limits only each pause in it."""
    deadline = time.monotonic() + ANSWER_SECONDS
    body = b""
    for piece in response.iter_bytes():
        body += piece
        if time.monotonic() > deadline or len(body) > LONGEST_ANSWER:
            raise httpx.ReadTimeout("the answer does not end")
    return body


def _refusal(key: str | None) -> str:
    if key:
        return "does not take the API key that GATEWAY_QUEUE_API_KEY has here"
    return f"wants an API key: set GATEWAY_QUEUE_API_KEY, or have a file of that name in {SECRETS}"


def _outcome(response: httpx.Response) -> str:
    code = response.status_code
    outcome = f"{code} {httpx.codes.get_reason_phrase(code)}".rstrip()
    to = response.headers.get("Location")
    return f"{outcome}, to {to!r}" if to else outcome


def _without_number(error: Exception) -> str:
    """What the system says, without its ``[Errno 111]``."""
    return re.sub(r"^\[[^]]*\] ", "", str(error))


def _address(settings: Settings) -> str:
    """Where the server of these settings is, seen from this machine."""
    if settings.port == 0:
        _fail("with PORT=0 only the server's log says where it is: give that to --url", 2)
    host = settings.host
    try:
        ip = ip_address(host)
    except ValueError:
        pass  # a name
    else:
        if ip.is_unspecified:  # which is every address of this machine
            host = "127.0.0.1" if ip.version == 4 else "::1"
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def _address_of(url: str) -> str:
    """The address that --url names, which may lack its scheme."""
    address = url if "://" in url else f"http://{url}"
    try:
        parts = httpx.URL(address)
    except httpx.InvalidURL as error:
        raise click.BadParameter(f"{url!r}: {error}", param_hint="--url") from None
    more_than_an_address = parts.userinfo or parts.query or parts.fragment
    if parts.scheme not in {"http", "https"} or not parts.host or more_than_an_address:
        raise click.BadParameter(
            f"{url!r} is not an http or https URL without user, password or query",
            param_hint="--url",
        )
    return address.rstrip("/")


def _load(flags: Flags) -> Settings:
    try:
        return load(**flags)
    except SettingsError as error:
        _fail(error, 2)


def _fail(error: BaseException | str, code: int, hint: str = "") -> NoReturn:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    click.echo(f"gateway-queue: {error}" + (f"; {hint}" if hint else ""), err=True)
    sys.exit(code)
