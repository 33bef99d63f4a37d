"""What many bots in one server cost, and whether they stay apart.

    python bench/bots.py [--bots 200]

starts a server with an empty directory of bots, another with this many bots of one shard each,
and a fake Discord that answers all of them. The difference of the two gives, per bot: KiB of
memory, and CPU time from the start until all limits are read. Then, with all of them there: CPU
while idle, and what ``/metrics`` and ``/status`` cost and how large they are.

After that it runs two bots in this process. One is granted every few milliseconds, and the log
says how late, while 10,000 shards that ask for the other in one tick are seated.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import threading
import time
from base64 import b64encode
from contextlib import closing, contextmanager
from functools import partial
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import trio
from outside import Server

from gateway_queue.bot import Bot
from gateway_queue.keeper.sqlite import Journals
from gateway_queue.settings import Settings
from gateway_queue.watch.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway_queue.queue.queue import Queue

SECONDS = 600
IDLE = 10.0  # seconds
REPEATS = 5
CROWD = 10_000
SHORT = 0.02  # seconds; the interval of the bot that the crowd does not ask for

TARGETS = {
    "KiB per bot": 100,
    "CPU ms per bot until its limits are read": 5,
    "/metrics, kB": 200,
    "/metrics, CPU ms": 50,
    "late while another bot's crowd comes, ms": 50,
}


class FakeDiscord(BaseHTTPRequestHandler):
    """Tells every bot the same limits."""

    protocol_version = "HTTP/1.1"
    body = json.dumps(
        {
            "url": "wss://gateway.test",
            "shards": 1,
            "session_start_limit": {
                "total": 1000,
                "remaining": 1000,
                "reset_after": 86_400_000,
                "max_concurrency": 1,
            },
        }
    ).encode()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def discord() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), FakeDiscord) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/api"
        server.shutdown()


def name_of(number: int) -> str:
    return f"customer-{number:04}"


def settings_of(bots: int, api: str, folder: Path) -> dict[str, str]:
    """What a server of so many bots needs; their directory is made in this one."""
    directory = folder / "bots"
    directory.mkdir()
    for number in range(bots):
        head = b64encode(str(10**18 + number).encode()).decode().rstrip("=")
        (directory / name_of(number)).write_text(f"{head}.fake.token")
    return {"GATEWAY_QUEUE_BOTS": str(directory), "GATEWAY_QUEUE_DISCORD_API": api}


@contextmanager
def serving(bots: int, api: str) -> Iterator[Server]:
    """A server of so many bots, whose limits have all been read."""
    with tempfile.TemporaryDirectory() as name:
        more = settings_of(bots, api, Path(name))
        with Server(sys.executable, Path(name), buckets=1, interval=5.5, more=more) as server:
            server.port()
            while len(server.lines("limits_read")) < bots:
                server.must_live()
                time.sleep(0.1)
            time.sleep(1)
            yield server


def ask(server: Server, path: str) -> int:
    """The length of the answer."""
    with closing(HTTPConnection("127.0.0.1", server.port(), timeout=60)) as connection:
        connection.request("GET", path)
        return len(connection.getresponse().read())


def measure_process(bots: int) -> dict[str, float]:
    with discord() as api:
        with serving(0, api) as server:
            rss, cpu = server.rss(), server.cpu()
        with serving(bots, api) as server:
            figures = {
                "KiB per bot": (server.rss() - rss) / bots,
                "CPU ms per bot until its limits are read": (server.cpu() - cpu) / bots * 1e3,
            }
            before = server.cpu()
            time.sleep(IDLE)
            figures["CPU % while idle"] = (server.cpu() - before) / IDLE * 100
            for path in ("/metrics", "/status"):
                ask(server, path)
                before = server.cpu()
                for _ in range(REPEATS):
                    figures[f"{path}, kB"] = ask(server, path) / 1e3
                    time.sleep(1.1)  # for which /status is kept
                figures[f"{path}, CPU ms"] = (server.cpu() - before) / REPEATS * 1e3
    return figures


class Somebody:
    """A client that takes its answer at once."""

    peer = "somebody"

    def has_left(self) -> bool:
        return False

    def hand_over(self, grant: int) -> bool:  # noqa: ARG002
        return True


async def measure_apart() -> dict[str, float]:
    late: list[float] = []

    def note(_: object, __: str, event: structlog.typing.EventDict) -> str:
        if event["event"] == "identify_granted" and event["bot"] == "other":
            late.append(event["late"])
        raise structlog.DropEvent

    log = structlog.wrap_logger(None, processors=[note])
    metrics = Metrics()
    with closing(Journals.in_memory()) as journals:
        crowded, other = (
            Bot(
                name,
                Settings.model_construct(interval=interval, crash_loop=None, daily_starts=10**6),
                partial(journals.of, name),
                metrics.of(name),
                log.bind(bot=name),
            )
            for name, interval in (("crowded", 60.0), ("other", SHORT))
        )
        crowd = [crowded.queue.turn(shard, Somebody()) for shard in range(CROWD)]
        with trio.move_on_after(3):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(other.queue.run)
                nursery.start_soon(go_on_asking, other.queue)
                await trio.sleep(1)
                late.clear()
                nursery.start_soon(crowded.queue.run)
        assert crowded.queue.buckets[0].line.waiting == len(crowd)
    return {"late while another bot's crowd comes, ms": max(late) * 1e3}


async def go_on_asking(queue: Queue) -> None:
    while True:
        with queue.turn(0, Somebody()) as turn:
            await turn.wait(trio.sleep_forever)


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bots", type=int, default=200)
    options = parser.parse_args()
    signal.alarm(SECONDS)
    figures = measure_process(options.bots) | trio.run(measure_apart)
    print(f"{options.bots} bots, CPython {sys.version.split()[0]}\n")
    for name, figure in figures.items():
        target = f"<= {TARGETS[name]}" if name in TARGETS else ""
        print(f"{name:<44}{figure:>10.2f}  {target}".rstrip())


if __name__ == "__main__":
    main()
