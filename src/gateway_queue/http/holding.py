"""Holds a request until its shard may identify; the same for all protocols."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import structlog
import trio

from gateway_queue.bots import Bots
from gateway_queue.http.answers import Answer, granted, put_off
from gateway_queue.http.asking import Ask
from gateway_queue.http.guard import key_in
from gateway_queue.http.wire import Due
from gateway_queue.lobby import Outcome
from gateway_queue.queue import turn
from gateway_queue.queue.standing import standing_of
from gateway_queue.watch.lines import Log

if TYPE_CHECKING:
    from gateway_queue.replicas.doorman import Doorman


class Client(turn.Client, Protocol):
    """A client that asks for a turn, at the other end of a connection."""

    async def leaving(self) -> None:
        """Return when the client has hung up."""
        ...

    async def answer(self, answer: Answer, due: Due | None = None) -> None:
        """Send an answer to the client. Raises TooSlowError if it does not take it in time."""
        ...

    def cut(self) -> None:
        """Close the connection at once, answered or not."""
        ...


async def hold(
    ask: Ask,
    bots: Bots,
    client: Client,
    lets_in: Callable[[], bool],
    authorization: bytes | None = None,
) -> bool:
    """Hold a request until it is answered; False if its connection ended instead.

    The answer is a grant, or, if the request set ``wait``, that it should ask again. A request
    for a bot that does not exist waits until it is added; then ``lets_in`` tells whether the
    request has that bot's key.
    """
    try:
        if bots.doorman is None:
            outcome = await _hold(ask, bots, client, lets_in)
        else:
            outcome = await _hold_for_leader(ask, bots.doorman, client, authorization)
    except trio.TooSlowError:
        log = _log_of(ask, bots)
        log.warning("answer_not_taken", shard=ask.shard, peer=client.peer)
        outcome = None
    except Exception:
        log = _log_of(ask, bots)
        log.exception("request_failed", shard=ask.shard, peer=client.peer)
        outcome = None
    if outcome is None:
        # No answer: Hypercorn would send a 500, and old clients would identify.
        client.cut()
    return bool(outcome)


async def _hold(ask: Ask, bots: Bots, client: Client, lets_in: Callable[[], bool]) -> bool | None:
    """True if it was answered, False if the client left, None if it must not be answered."""
    wait = ask.wait
    while (bot := bots.find(ask.bot)) is None:
        came_at = trio.current_time()
        match await bots.lobby.wait(ask.bot, client.leaving, wait):
            case Outcome.CALLED if lets_in():
                wait = None if wait is None else wait - (trio.current_time() - came_at)
            case Outcome.PUT_OFF:
                await client.answer(put_off(bots.lobby.standing(ask.bot)))
                return True
            case Outcome.LEFT:
                return False
            case _:
                return None
    with bot.queue.turn(ask.shard, client, confirm=ask.confirm, wait=wait) as turn:
        await turn.wait(client.leaving)
        standing = standing_of(turn, bot.queue) if turn.was_put_off else None
        if turn.grant is not None and turn.handed_over is None:
            await client.answer(granted(turn.grant))
    # Leave the line first; otherwise it might be granted while it is told to ask again.
    if standing is not None:
        await client.answer(put_off(standing))
    return None if turn.was_dropped else not turn.has_left


async def _hold_for_leader(
    ask: Ask, doorman: "Doorman", client: Client, authorization: bytes | None
) -> bool | None:
    """As `_hold`, where there are several replicas."""
    key = key_in(authorization)
    with doorman.turn(
        ask.bot, ask.shard, client, confirm=ask.confirm, wait=ask.wait, key=key
    ) as turn:
        await turn.wait(client.leaving)
        standing = await doorman.standing_of(turn) if turn.was_put_off else None
        if turn.grant is not None and turn.handed_over is None:
            due = Due(turn.answer_by)
            try:
                with trio.fail_at(due.by):
                    await client.answer(granted(turn.grant), due)
            except trio.TooSlowError:
                if due.has_begun:
                    raise
                turn.grant = None  # it is given back
                return None
    if standing is not None:
        await client.answer(put_off(standing))
    return None if turn.was_dropped else not turn.has_left


def _log_of(ask: Ask, bots: Bots) -> Log:
    bot = bots.find(ask.bot)
    log: Log = structlog.get_logger() if bot is None else bot.log
    return log
