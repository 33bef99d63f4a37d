"""A queue and its app in this process, on a mock clock that jumps to the next deadline."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

import trio
from asgi import Client
from background import background
from journals import Alone, journal_in_memory
from pydantic import SecretStr
from structlog import get_logger

from gateway_queue.bot import Bot
from gateway_queue.bots import Bots
from gateway_queue.http.app import create_app
from gateway_queue.queue.queue import Gateway
from gateway_queue.queue.rules.allowance import Reserve, SessionStartLimit
from gateway_queue.queue.rules.crash_loop import CrashLoop
from gateway_queue.queue.rules.pace import CONFIRM_HOLD
from gateway_queue.settings import DEFAULT, Settings

INTERVAL = 5.5
FIRST = CONFIRM_HOLD  # from the start to the first grant, where the journal has no past
GATEWAY = Gateway(url="wss://gateway.test", shards=1)
MOMENT = 0.001  # enough for trio to run what is runnable, in the order in which it became so


class Nobody:
    """A client who has asked and gone."""

    peer = "nobody"

    def has_left(self) -> bool:
        return True

    def hand_over(self, grant: int) -> bool:
        raise AssertionError(f"it is gone, and got grant {grant}")


def limit(
    remaining: int = 1000,
    total: int = 1000,
    max_concurrency: int = 1,
    reset_after: float = 86_400,
) -> SessionStartLimit:
    return SessionStartLimit(total, remaining, reset_after, max_concurrency)


@asynccontextmanager
async def serving(
    *,
    buckets: int = 1,
    cap: int | None = None,
    interval: float = INTERVAL,
    starts: int = 1000,
    reserve: str = "0",
    seat_ttl: float = 60.0,
    token: bool = False,
    crash_loop: str = "off",
    api_key: str | None = None,
    operator_key: str | None = None,
    journal: Alone | None = None,
) -> AsyncIterator[Client]:
    """Serve a new queue; with a token, nothing is granted before `queue.read`."""
    settings = Settings.model_construct(
        token=SecretStr("of a bot") if token else None,
        max_concurrency=cap if token else buckets,
        interval=interval,
        daily_starts=starts,
        reserve=Reserve.parse(reserve),
        seat_ttl=seat_ttl,
        crash_loop=CrashLoop.parse(crash_loop),
    )
    journal = journal or journal_in_memory()
    app = create_app()
    app.bots = Bots(api_key=api_key, operator_key=operator_key)
    bot = Bot(
        *(DEFAULT, settings, lambda: journal, app.bots.metrics.of(DEFAULT), get_logger()),
        has_operator=operator_key is not None,
    )
    app.bots.by_name[DEFAULT] = bot
    # A dead-locked test would spin on the mock clock for ever; this ends it at once.
    with trio.fail_after(40 * 24 * 3600), closing(journal):
        async with background() as nursery:
            nursery.start_soon(bot.queue.run)
            nursery.start_soon(bot.operator.run)
            yield Client(app, nursery)
