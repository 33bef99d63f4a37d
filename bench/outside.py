"""The server as a process, and a crowd of clients, for the benchmarks beside this file.

It knows /proc, sockets and the server's log; what the figures mean is said in ``waiting.py``.
"""

from __future__ import annotations

import itertools
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

SO_TIMESTAMPNS = 35  # asm-generic/socket.h; Python does not name it
LISTENING, ESTABLISHED = "0A", "01"  # include/net/tcp_states.h


class Server:
    """``python -m gateway_queue`` on a port of its own choice, stopped on the way out."""

    def __init__(self, directory: Path, *, buckets: int, interval: float) -> None:
        self._log = directory / "server.log"
        settings = {
            "HOST": "127.0.0.1",
            "PORT": "0",
            "GATEWAY_QUEUE_DAILY_STARTS": "1000000",
            "GATEWAY_QUEUE_DISCORD_API": "http://127.0.0.1:9",  # nobody: it must stay local
            "GATEWAY_QUEUE_INTERVAL": str(interval),
            "GATEWAY_QUEUE_JOURNAL": f"sqlite:{directory / 'journal.sqlite'}",
            "GATEWAY_QUEUE_LOG_FORMAT": "json",
            "GATEWAY_QUEUE_MAX_CONCURRENCY": str(buckets),
            "GATEWAY_QUEUE_RESERVE": "0",
        }
        ours = ("GATEWAY_QUEUE_", "DISCORD_TOKEN", "HOST", "PORT")
        inherited = {k: v for k, v in os.environ.items() if not k.upper().startswith(ours)}
        with self._log.open("wb") as log:  # a file: unlike a pipe it never makes the server wait
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gateway_queue"],
                env=inherited | settings,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        self._proc = Path("/proc") / str(self._process.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        signal.alarm(0)  # what follows has a bound of its own
        self._process.terminate()
        try:
            self._process.wait(timeout=15)
        finally:
            self._process.kill()  # does nothing to one that has ended
            self._process.wait()

    def port(self) -> int:
        """Wait until the server listens."""
        while not (lines := self.lines("listening")):
            self.must_live()
            time.sleep(0.05)
        return int(lines[0]["address"].rpartition(":")[2])

    def lines(self, event: str) -> list[dict[str, Any]]:
        text = self._log.read_text(errors="replace")
        whole = text[: text.rfind("\n") + 1].splitlines()
        lines = (json.loads(line) for line in whole if line.startswith("{"))
        return [line for line in lines if line.get("event") == event]

    def must_live(self) -> None:
        if self._process.poll() is not None:
            print(self._log.read_text(errors="replace")[-4000:], file=sys.stderr)
            sys.exit(f"the server ended early, exit code {self._process.returncode}")

    def cpu(self) -> float:
        """Seconds on a CPU, user and system, by the scheduler's own account.

        Not the clock ticks of ``stat``: those are sampled, and count too much for a process
        that wakes with the timer.
        """
        tasks = (self._proc / "task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9

    def sleeps(self) -> bool:
        return (self._proc / "stat").read_text().rpartition(")")[2].split()[0] == "S"

    def rss(self) -> int:
        """KiB in memory."""
        status = (self._proc / "status").read_text()
        return int(status.partition("VmRSS:")[2].split(maxsplit=1)[0])


@dataclass(frozen=True, slots=True)
class Answer:
    shard: int
    at: float


@dataclass(slots=True)
class Client:
    shard: int
    stream: socket.socket
    received: bytes = b""


@dataclass
class Crowd:
    """The clients; each asks for a shard of its own."""

    port: int
    answers: list[Answer] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    waiting: dict[int, Client] = field(default_factory=dict)
    _shards: Iterator[int] = field(default_factory=itertools.count)
    _poll: select.epoll = field(default_factory=select.epoll)

    def join(self) -> None:
        """Connect, ask, and leave the answer to `listen`."""
        shard = next(self._shards)
        try:
            stream = socket.create_connection(("127.0.0.1", self.port), timeout=5)
            stream.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            stream.sendall(b"GET /?shard=%d HTTP/1.1\r\nHost: bench\r\n\r\n" % shard)
        except OSError as error:
            self.lost.append(f"shard {shard}: {error}")
            return
        stream.settimeout(0)
        self.waiting[stream.fileno()] = Client(shard, stream)
        self._poll.register(stream, select.EPOLLIN)

    def listen(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while True:
            for fd, _ in self._poll.poll(max(0.0, until - time.monotonic())):
                self._hear(fd)
            if time.monotonic() >= until:
                return

    def _hear(self, fd: int) -> None:
        client = self.waiting[fd]
        why = stamps = None
        try:
            data, stamps, _, _ = client.stream.recvmsg(4096, 64)
        except OSError as error:
            data, why = b"", str(error)
        client.received += data
        if data and not client.received.endswith(b"}"):
            return  # the rest is still to come
        if data and client.received.startswith(b"HTTP/1.1 200 "):
            self.answers.append(Answer(client.shard, received_at(stamps)))
        else:
            self.lost.append(f"shard {client.shard}: {why or client.received or 'closed'!r}")
        self.waiting.pop(fd).stream.close()


def received_at(stamps: list[tuple[int, int, bytes]] | None) -> float:
    """When the kernel received it, on the monotonic clock (the stamp is wall-clock time)."""
    if not stamps:
        return time.monotonic()
    seconds, nanoseconds = struct.unpack("ll", stamps[0][2])
    # The largest of three: a pause between the two readings makes the difference smaller.
    offset = max(time.time_ns() - time.monotonic_ns() for _ in range(3))
    return float(seconds * 10**9 + nanoseconds - offset) / 1e9


def receive_queues(port: int, state: str) -> Iterator[int]:
    """Of a listening socket: connections to accept. Of the others: unread bytes."""
    with Path("/proc/net/tcp").open() as lines:  # listening sockets come first, so that is cheap
        for line in lines:
            _, local, _, its_state, queues, *_ = line.split()
            if its_state == state and local.endswith(f":{port:04X}"):
                yield int(queues.rpartition(":")[2], 16)
