"""The app for the ``hypercorn`` command: ``hypercorn -k trio gateway_queue.asgi:app``.

The core runs in the app's lifespan; each of several workers is a replica. Prefer
``gateway-queue``: the ``hypercorn`` command exits with 0 even if its worker crashed, has a
backlog of 100 unless told otherwise, and knows no grace period except ``--graceful-timeout``.
Its ``--bind`` replaces ``HOST`` and ``PORT``.
"""

from typing import Any

import structlog
import trio
from hypercorn.config import Config
from hypercorn.utils import LifespanFailureError
from quart_trio.asgi import TrioASGILifespan

from gateway_queue import bots, log, server
from gateway_queue.bots import Bots
from gateway_queue.http import connection
from gateway_queue.http.app import create_app
from gateway_queue.settings import Settings, SettingsError, load


class Lifespan(TrioASGILifespan):
    async def __call__(self, receive: Any, send: Any) -> None:
        # Hypercorn's `receive` is a method of its lifespan object, which has the configuration.
        if why := _unfit(receive.__self__.config):
            await receive()  # Hypercorn loses errors raised before the first event
            raise LifespanFailureError("startup", why)
        await super().__call__(receive, send)


def _unfit(config: Config) -> str | None:
    """Why the queue cannot run with this configuration of Hypercorn; None if it can."""
    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        return "the queue runs on trio: run it with --worker-class trio"
    if config.workers > 1 and not _has_replicas():
        return (
            "without GATEWAY_QUEUE_REDIS the queue is one process:"
            " set that, or run it with --workers 1"
        )
    if config.quic_bind:
        return "the queue does not speak HTTP/3: run it without --quic-bind"
    return None


def _has_replicas() -> bool:
    try:
        return load().redis is not None
    except SettingsError:
        return True  # the start will say what is wrong


app = create_app()
app.asgi_lifespan_class = Lifespan
core = trio.CancelScope()
connection.install()


@app.before_serving
async def start() -> None:
    settings = load()
    log.configure(settings.log_level, settings.log_format)
    server.tune_process()
    server.tune_environment()
    app.serve_for(await app.nursery.start(_run_core, settings))
    server.announce(settings, app.bots, "as given to hypercorn")


@app.after_serving
async def stop() -> None:
    await app.bots.leave()
    core.cancel()


async def _run_core(settings: Settings, *, task_status: trio.TaskStatus[Bots]) -> None:
    try:
        with core:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(app.reader.run)
                await bots.run(settings, task_status=task_status)
    except Exception as error:
        # Hypercorn would log any other error raised here, and go on serving.
        structlog.get_logger().exception("core_crashed")
        log.writer.flush()
        raise LifespanFailureError("running", str(error)) from error
