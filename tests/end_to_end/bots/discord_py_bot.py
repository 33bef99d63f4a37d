"""A bot with discord.py or one of its relatives, which asks the queue before each IDENTIFY.

``--library`` names the package to import: one program serves all of them, as our mixin does. It
prints a line of JSON for what becomes of a shard. At SIGUSR1 it closes itself, at SIGUSR2 it
has its first shard reconnected.
"""

import argparse
import asyncio
import importlib
import json
import logging
import os
import signal
import sys
from types import SimpleNamespace
from typing import Any, cast

import yarl

from gateway_queue.client import GatewayQueue, discord_py
from gateway_queue.client.discord_py import QueuedIdentify


def say(event: str, **fields: object) -> None:
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


class Talkative:
    """Says what becomes of the bot and its shards; a bot that is not sharded has one of them."""

    async def connect(self: Any, *args: Any, **kwargs: Any) -> None:
        tasks = []

        def start(coroutine: Any) -> None:
            tasks.append(asyncio.create_task(coroutine))

        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, lambda: start(self.close()))
        loop.add_signal_handler(
            signal.SIGUSR2, lambda: start(self.get_shard(self.shard_ids[0]).reconnect())
        )
        await super().connect(*args, **kwargs)  # type: ignore[misc]

    async def on_connect(self: Any) -> None:
        if not hasattr(self, "launch_shard"):
            say("ready", shard=self.shard_id)

    async def on_shard_connect(self, shard_id: int) -> None:
        say("ready", shard=shard_id)

    async def on_shard_resumed(self, shard_id: int) -> None:
        say("resumed", shard=shard_id)


class Reluctant:
    """Takes a second until it counts as closed, as bots do whose cogs have something to save."""

    async def close(self) -> None:
        await asyncio.sleep(1)
        say("cogs_ended")
        await super().close()  # type: ignore[misc]


def hooked(base: type, who: str, takes: float) -> type:
    """A class with a hook of its own, as frameworks have to tell their plugins."""

    async def before_identify_hook(
        self: Any, shard_id: int | None, *, initial: bool = False
    ) -> None:
        say("hook", of=who, shard=shard_id, initial=initial)
        await asyncio.sleep(takes)
        await super(derived, self).before_identify_hook(shard_id, initial=initial)

    derived: Any = type(who, (base,), {"before_identify_hook": before_identify_hook})
    return cast("type", derived)


def point(library: Any, discord: str) -> None:
    """Have the library talk to the fake."""
    route = library.http.Route
    if hasattr(route, "API_BASE_URL"):  # py-cord
        route.API_BASE_URL = f"{discord}/api/v10"
    route.BASE = f"{discord}/api/v10"
    library.gateway.DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(discord).with_scheme("ws")

    async def get_gateway(http: Any, **options: Any) -> Any:
        """The fake's ``/gateway/bot`` says what its ``/gateway`` would, if it had one."""
        _, gateway, *_ = await http.get_bot_gateway(**options)
        return gateway

    library.http.HTTPClient.get_gateway = get_gateway


def hasten(library: Any, scale: float) -> None:
    """Scale the library's timeouts for a connection, which it has as plain numbers."""

    def wait_for(awaitable: Any, timeout: float | None) -> Any:
        return asyncio.wait_for(awaitable, timeout and timeout * scale)

    hasty = SimpleNamespace(**{**vars(asyncio), "wait_for": wait_for})
    for module in ("client", "shard"):
        vars(importlib.import_module(f"{library.__name__}.{module}"))["asyncio"] = hasty


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--discord", required=True, help="address of the fake, http://...")
    parser.add_argument("--queue", required=True, help="address of the queue, or none")
    parser.add_argument("--shards", required=True, help="for example 0,2,4")
    parser.add_argument("--shard-count", required=True, type=int)
    parser.add_argument("--library", default="discord", help="discord, disnake or nextcord")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--sharded", action="store_true", help="the default")
    form.add_argument("--single", action="store_true", help="not sharded: the first shard only")
    parser.add_argument("--timeouts", type=float, default=1.0, help="of the library, scaled by")
    parser.add_argument("--turn-lasts", type=float, default=discord_py.TURN_LASTS, help="seconds")
    parser.add_argument("--reluctant", action="store_true", help="takes a second to close")
    parser.add_argument("--hooks", action="store_true", help="the bot and its framework have some")
    parser.add_argument("--hooks-take", type=float, default=0.0, help="seconds")
    options = parser.parse_args()

    logging.basicConfig(level=logging.INFO, stream=sys.stdout)
    library = importlib.import_module(options.library)
    point(library, options.discord)
    hasten(library, options.timeouts)
    discord_py.TURN_LASTS = options.turn_lasts

    bases: list[type] = [Talkative]
    arguments: dict[str, Any] = {
        "intents": library.Intents.none(),
        "shard_count": options.shard_count,
    }
    shards = [int(shard) for shard in options.shards.split(",")]
    if options.queue != "none":
        bases.append(QueuedIdentify)
        key = os.environ.get("GATEWAY_QUEUE_API_KEY")
        arguments["queue"] = GatewayQueue(options.queue, api_key=key) if key else options.queue
    if options.reluctant:
        bases.append(Reluctant)
    if options.single:
        client = library.Client
        arguments["shard_id"] = shards[0]
    else:
        client = library.AutoShardedClient
        arguments["shard_ids"] = shards
    bot = type(
        "Bot",
        (*bases, hooked(client, "framework", options.hooks_take) if options.hooks else client),
        {},
    )
    if options.hooks:
        bot = hooked(bot, "bot", options.hooks_take)
    asyncio.set_event_loop(asyncio.new_event_loop())  # all but discord.py take it from there
    bot(**arguments).run(os.environ["DISCORD_TOKEN"])


if __name__ == "__main__":
    main()
