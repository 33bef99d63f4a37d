"""Our app under the ``hypercorn`` command."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import trio
from harness import DEFAULTS, Program, free_port, running

APP = "gateway_queue.asgi:app"
TAMPERED_APP = f"{Path(__file__).parent / 'programs' / 'tampered_app.py'}:app"


@asynccontextmanager
async def hypercorn(address: str, *options: str, **settings: object) -> AsyncIterator[Program]:
    """TAMPERING names changes of ``programs/tampered_server.py``."""
    app = TAMPERED_APP if "TAMPERING" in settings else APP
    command = sys.executable, "-m", "hypercorn", "--worker-class", "trio", "--bind", address
    async with running(*command, *options, app, **(DEFAULTS | settings)) as program:
        try:
            yield program
        finally:
            with trio.CancelScope(shield=True):
                await program.stop()  # the worker would outlive a parent that is killed


@asynccontextmanager
async def serving(*options: str, **settings: object) -> AsyncIterator[Program]:
    """As ``running_server``."""
    address = f"127.0.0.1:{free_port()}"
    async with hypercorn(address, *options, **settings) as server:
        scheme = "https" if "--certfile" in options else "http"
        workers = int(dict(pairwise(options)).get("--workers", 1))
        for listening in await server.logged_times(workers, "listening"):
            listening["address"] = f"{scheme}://{address}"  # our server is not told
        yield server
