"""On an HTTP/2 connection, an answer that is due by a time ends no other."""

from typing import Any

import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.events import Response
from hypercorn.trio.task_group import TaskGroup
from hypercorn.typing import ConnectionState

from gateway_queue.http.http2 import Http2
from gateway_queue.http.stack import Context, Timed
from gateway_queue.http.wire import Due

HEADERS = [(":method", "GET"), (":scheme", "http"), (":authority", "queue"), (":path", "/")]


async def app(_: Any, receive: Any, *__: Any) -> None:
    """Hold the request until its client leaves."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def test_the_answer_to_an_ended_stream_hurries_nothing() -> None:
    sent: list[Event] = []

    async def send(event: Event) -> None:
        sent.append(event)

    client = H2Connection(H2Configuration())
    async with TaskGroup() as tasks:
        state = ConnectionState({"connection": None})
        rest = False, None, None, send  # no TLS, and nobody to name
        server = Http2(app, Config(), Context(None), tasks, state, *rest)

        async def hear() -> None:
            await server.handle(RawData(client.data_to_send()))

        await server.initiate()
        client.initiate_connection()
        client.send_headers(1, HEADERS, end_stream=True)
        await hear()
        client.reset_stream(1)
        await hear()
        due = Due(trio.current_time() + 1)
        with server.answering(1, due):
            await server.stream_send(Response(1, headers=[], status_code=200))
        await trio.sleep(2)  # others wait meanwhile
        sent.clear()
        client.ping(b"00000000")
        await hear()
        [pong] = sent
        assert isinstance(pong, Timed)
        assert not pong.due.is_over
        await server.handle(Closed())
