"""Holds a request until its shard may identify: the same for every way it may have come."""

from typing import Protocol

import structlog
import trio

from gateway_queue.http.answers import Answer, granted, put_off
from gateway_queue.http.asking import Ask
from gateway_queue.queue import turn
from gateway_queue.queue.queue import Queue
from gateway_queue.queue.standing import standing_of

log = structlog.get_logger()


class Client(turn.Client, Protocol):
    """Who asks for a turn, on the other end of a connection."""

    async def leaving(self) -> None:
        """Return when the client has hung up."""
        ...

    async def answer(self, answer: Answer) -> None:
        """Hand an answer to the client. Raises TooSlowError if it does not take it."""
        ...

    def cut(self) -> None:
        """Close the connection at once, whatever was answered or not."""
        ...


async def hold(ask: Ask, queue: Queue, client: Client) -> bool:
    """Hold a request until it is answered; False if its client hung up instead.

    The answer is a grant, or, for a request that opted in by ``wait``, that it is to ask again.
    """
    try:
        with queue.turn(ask.shard, client, confirm=ask.confirm, wait=ask.wait) as turn:
            await turn.wait(client.leaving)
            standing = standing_of(turn, queue) if turn.was_put_off else None
            if turn.grant is not None and not turn.is_handed_over:
                await client.answer(granted(turn.grant))
        # Out of the line, or it might be granted while it is being told to ask again.
        if standing is not None:
            await client.answer(put_off(standing))
    except trio.TooSlowError:
        log.warning("answer_not_taken", shard=ask.shard, peer=client.peer)
    except Exception:
        log.exception("request_failed", shard=ask.shard, peer=client.peer)
    else:
        return not turn.has_left
    # Unanswered: Hypercorn would send a 500, and old clients would identify.
    client.cut()
    return False
