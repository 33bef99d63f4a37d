"""The shell code of ``docs/clients/curl.md``, as it stands there."""

import re
import shutil
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import pytest
import trio
from background import background
from crowd import granted
from harness import Program, free_port, running, running_server
from patience import PATIENCE
from raw import GRANT

PAGE = Path(__file__).parents[2] / "docs" / "clients" / "curl.md"
_, LOOP, _, CONFIRM = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)

INTERVAL = 0.3
LONG = 60.0  # seconds of an interval whose end no test waits for
KEY = "sesame-9f2c"

STRANGERS = [
    (200, b"<h1>Welcome</h1>"),
    (202, b"<h1>Accepted</h1>"),
    (302, b"<h1>Found</h1>"),
    (404, GRANT),
    (503, b'{"reason": "no upstream"}'),
]

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def shell(queue: str, script: str) -> AbstractAsyncContextManager[Program]:
    """A shell that has the page's loop, and hardly pauses between two attempts."""
    code = f"{LOOP}\nsleep() {{ command sleep 0.1; }}\n{script}"
    return running("sh", "-c", code, QUEUE=queue)


async def test_it_waits_for_its_turn_through_a_restart() -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    async with shell(url, "turn 0") as one, shell(url, "turn 1") as other:
        async with running_server(PORT=port, GATEWAY_QUEUE_INTERVAL=LONG) as server:
            await server.logged("identify_queued", shard=0)
            await server.logged("identify_queued", shard=1)
            assert await server.stop() == 0  # which tells them to ask again
        async with running_server(PORT=port, GATEWAY_QUEUE_INTERVAL=INTERVAL) as server:
            assert (await one.ended(), await other.ended()) == (0, 0)
            assert await granted(server, {0, 1}, 2) == [0, 1]


async def test_nothing_but_the_queues_own_words_is_a_permission() -> None:
    answered = 0
    all_answered = trio.Event()

    async def answer(stream: trio.SocketStream) -> None:
        nonlocal answered
        async with stream:
            await stream.receive_some()
            if answered == len(STRANGERS):
                all_answered.set()
                return
            status, body = STRANGERS[answered]
            answered += 1
            head = (
                f"HTTP/1.1 {status} Strange\r\nLocation: /?shard=0\r\n"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            )
            await stream.send_all(head.encode() + body)

    async with background() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        async with shell(f"http://127.0.0.1:{port}", "turn 0") as asking:
            with trio.fail_after(PATIENCE):
                await all_answered.wait()
            assert asking.returncode is None


async def test_it_has_the_key_and_confirms(tmp_path: Path) -> None:
    """With the header in a file, as the page says, so that it cannot be seen by others."""
    header = tmp_path / "key.txt"
    header.write_text(f"Authorization: Bearer {KEY}\n")
    curl = f'curl() {{ command curl --header "@{header}" "$@"; }}\n'
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=INTERVAL, GATEWAY_QUEUE_API_KEY=KEY) as server,
        shell(server.url, f"{curl} turn 42 && {CONFIRM}") as asking,
    ):
        assert await asking.ended() == 0
        await server.logged("identify_granted", shard=42)
