"""The ``gateway-queue`` command. Without a subcommand, it runs the server."""

import sys
from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from typing import cast

import click
import structlog
import trio

from gateway_queue import __version__, log
from gateway_queue.cli import COMMANDS
from gateway_queue.cli.common import fail, settings_of
from gateway_queue.discord import CannotAskError, TokenRefusedError
from gateway_queue.queue.journal import JournalError
from gateway_queue.settings import Setting, Settings, describe

# EX_CONFIG of sysexits.h: a restart would not help.
EXIT_TOKEN_REFUSED = 78


class Commands(click.Group):
    """A group whose help lists the settings, and which loads commands lazily.

    The server does not need the other commands.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"gateway_queue.cli.{COMMANDS[cmd_name]}")
        return cast("click.Command", getattr(module, cmd_name))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            # Click itself suggests options, but only commands that are loaded.
            if nearest := get_close_matches(args[0], COMMANDS, n=1):
                hint = f"{error.message} Did you mean {nearest[0]!r}?"
                raise click.UsageError(hint, ctx) from None
            raise

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
    variable = f"{setting.name}=VALUE"
    if setting.is_secret:
        ways = f"{variable}, or {setting.file_variable}=PATH"
    else:
        ways = f"{setting.flag} VALUE, or {variable}"
    # Not with `write_text`, which might wrap in the middle of a name.
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

    Without a command, this runs the server: shards ask GET /?shard=N and are held until it
    is their turn. Options take precedence over the environment, and the environment over
    files in /run/secrets that are named after the variables. There are no options for
    secrets, because they would show in the process list.
    """
    context.obj = {name: value for name, value in flags.items() if value is not None}
    if context.invoked_subcommand is None:
        _serve(settings_of(context.obj))


def _serve(settings: Settings) -> None:
    # Imported here because it loads Quart and Hypercorn, which the other commands do not need.
    from gateway_queue.server import CannotListenError, serve  # noqa: PLC0415

    log.configure(settings.log_level, settings.log_format)
    try:
        trio.run(serve, settings)
    except* TokenRefusedError as group:
        log.writer.flush()
        fail(group, EXIT_TOKEN_REFUSED, "check DISCORD_TOKEN")
    except* (CannotAskError, CannotListenError, JournalError) as group:
        log.writer.flush()
        fail(group, 1)
    except* Exception as group:  # noqa: BLE001 - whatever it was, the process ends
        # With the log: Python's own traceback would block if nobody reads stderr.
        structlog.get_logger().error("core_crashed", exc_info=group)
        sys.exit(1)
