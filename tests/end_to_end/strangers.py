"""Servers that are none of ours."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio
from background import background

JSON = "Content-Type: application/json"


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    """The address of somebody who gives this answer to whatever is asked."""

    async def handle(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(answer)
        await stream.aclose()

    async with background() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, handle, 0, host="127.0.0.1"))
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"


def http(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    length = f"Content-Length: {len(body)}"
    head = "\r\n".join([f"HTTP/1.1 {status}", length, "Connection: close", *headers])
    return head.encode() + b"\r\n\r\n" + body
