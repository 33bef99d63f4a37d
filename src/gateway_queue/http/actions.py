"""What an operator may see and do at ``/operator``. The app has already checked the key."""

import json
import math
from typing import TYPE_CHECKING, Any

import trio
from quart import Response, request

from gateway_queue.http.answers import JSON
from gateway_queue.http.asking import Problem, shard_of
from gateway_queue.http.bodies import LONGEST_BODY, interval_of, pause_of
from gateway_queue.watch import status

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway_queue.bot import Bot
    from gateway_queue.http.app import App

# A client has this many seconds to send its small body.
BODY_SECONDS = 5.0


def add_actions(app: "App", bot: "Callable[[], Bot]") -> None:
    """Add the operator's routes to the app. ``bot`` returns the bot that a request is about."""
    _add_orders(app, bot)
    _add_actions_on_shards(app, bot)

    @app.get("/operator")
    async def operator() -> Response:
        return _state(bot())

    @app.post("/operator/limits/read")
    async def read_limits() -> Response:
        asked = bot()
        if not asked.queue.starts.allowance.read_from_discord:
            raise Problem(409, "there is no token, so the limits are counted here")
        if wait := math.ceil(asked.may_read_limits_in):
            raise Problem(
                429,
                f"the limits were read on demand just now; ask again in {wait} s",
                headers=((b"retry-after", b"%d" % wait),),
            )
        asked.read_limits_now()
        return Response(b"", status=202)


def _add_orders(app: "App", bot: "Callable[[], Bot]") -> None:
    @app.put("/operator/pause")
    async def pause() -> Response:
        said = pause_of(await _body())
        bot().operator.pause(said.reason, said.seconds)
        return _state(bot())

    @app.delete("/operator/pause")
    async def resume() -> Response:
        bot().operator.resume()
        return _done()

    @app.put("/operator/interval")
    async def slow_down() -> Response:
        said = interval_of(await _body(), bot().queue.configured.interval)
        bot().operator.slow_down(said.interval, said.seconds)
        return _state(bot())

    @app.delete("/operator/interval")
    async def speed_up() -> Response:
        bot().operator.speed_up()
        return _done()


def _add_actions_on_shards(app: "App", bot: "Callable[[], Bot]") -> None:
    @app.put("/operator/shards/<shard>/first")
    async def put_first(shard: str) -> Response:
        if not bot().operator.put_first(shard_of(shard)):
            raise _no_seat(shard)
        return _done()

    @app.delete("/operator/shards/<shard>/first")
    async def take_back(shard: str) -> Response:
        if not bot().operator.take_back(shard_of(shard)):
            raise Problem(404, f"shard {shard} was not put first, or has already been granted")
        return _done()

    @app.delete("/operator/shards/<shard>/seat")
    async def drop(shard: str) -> Response:
        if not bot().operator.drop(shard_of(shard)):
            raise _no_seat(shard)
        return _done()

    @app.delete("/operator/shards/<shard>/crash-loop")
    async def forgive(shard: str) -> Response:
        if not bot().operator.forgive(shard_of(shard)):
            raise Problem(
                404, f"shard {shard} is not in a crash loop; /status lists those that are"
            )
        return _done()


def _state(bot: "Bot") -> Response:
    return Response(json.dumps(state_of(bot)), content_type=JSON)


def state_of(bot: "Bot") -> dict[str, Any]:
    """What an operator has ordered, and the state that results from it."""
    now, queue = trio.current_time(), bot.queue
    slower, pace = queue.starts.orders.slower, status.pace(queue, now)
    return {
        "paused": status.paused(queue, now),
        "interval": {
            "configured": pace["configured"],
            "current": pace["interval"],
            "ends_in": pace["ends_in"],
            "survives_restart": slower is None or slower.survives_restart,
        },
        "first": bot.operator.first,
    }


def _done() -> Response:
    return Response(b"", status=204)


def _no_seat(shard: str) -> Problem:
    return Problem(404, f"shard {shard} is not waiting, and no place is kept for it")


async def _body() -> bytes:
    """The body of the request. Raises Problem if it is too long or takes too long."""
    body = b""
    with trio.move_on_after(BODY_SECONDS):
        if (request.content_length or 0) <= LONGEST_BODY:
            async for part in request.body:
                body += part
                if len(body) > LONGEST_BODY:
                    break
            else:
                return body
        raise Problem(413, f"the body is longer than {LONGEST_BODY} bytes")
    raise Problem(408, f"the body did not arrive within {BODY_SECONDS:g} s")
