"""The server as a process, and crowds of clients, for the benchmarks beside this file.

It knows /proc, sockets, the server's log and its journal; ``waiting.py`` says what the figures
mean.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import resource
import select
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded, StreamReset

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SO_TIMESTAMPNS = 35  # asm-generic/socket.h; Python does not name it
LISTENING, ESTABLISHED = "0A", "01"  # include/net/tcp_states.h
SPARE_FILES = 100
DAY = 86_400.0


class Server:
    """``python -m gateway_queue`` on a port of its own choice, killed on the way out.

    Another interpreter than ours runs what is installed there, whatever our PYTHONPATH says.
    """

    def __init__(
        self,
        python: str,
        directory: Path,
        *,
        buckets: int,
        interval: float,
        more: dict[str, str] | None = None,
    ) -> None:
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
        } | (more or {})
        ours = ["GATEWAY_QUEUE_", "DISCORD_TOKEN", "HOST", "PORT"]
        if python != sys.executable:
            ours.append("PYTHON")
        inherited = {k: v for k, v in os.environ.items() if not k.upper().startswith(tuple(ours))}
        with self._log.open("wb") as log:  # a file: unlike a pipe it never makes the server wait
            self._process = subprocess.Popen(
                [python, "-m", "gateway_queue"],
                env=inherited | settings,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        self._proc = Path("/proc") / str(self._process.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        signal.alarm(0)
        self._process.kill()  # it would grant for its grace period, and then close thousands
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

    def stop(self) -> None:
        """Halt the server until it is resumed."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> float:
        """Return the instant, on the monotonic clock, until which it was halted for certain."""
        at = time.monotonic()
        self._process.send_signal(signal.SIGCONT)
        return at

    def cpu(self) -> float:
        """As ``cpu`` below."""
        return cpu(self._process.pid)

    def sleeps(self) -> bool:
        return (self._proc / "stat").read_text().rpartition(")")[2].split()[0] == "S"

    def rss(self) -> int:
        """KiB in memory."""
        status = (self._proc / "status").read_text()
        return int(status.partition("VmRSS:")[2].split(maxsplit=1)[0])


def cpu(pid: int) -> float:
    """A process's seconds on a CPU, user and system, by the scheduler's own account.

    Not the clock ticks of ``stat``: those are sampled, and count too much for a process that
    wakes with the timer.
    """
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


@contextmanager
def serving(
    python: str, *, buckets: int, interval: float, seconds: float, rows: int = 0
) -> Iterator[Server]:
    """A server on our first core, while this process has the second, and so many seconds.

    ``rows``: the grants of the last day that are in the journal when the server starts.
    """
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as directory:
        if rows:
            _fill_journal(python, Path(directory), rows)
        signal.alarm(math.ceil(seconds))
        os.sched_setaffinity(0, cores[:1])  # the server inherits it
        try:
            with Server(python, Path(directory), buckets=buckets, interval=interval) as server:
                os.sched_setaffinity(0, cores[1:2] or cores)
                yield server
        finally:
            os.sched_setaffinity(0, cores)


def _fill_journal(python: str, directory: Path, rows: int) -> None:
    """Have a server create its journal; then write one grant each for so many shards."""
    signal.alarm(60)
    with Server(python, directory, buckets=1, interval=1) as server:
        server.port()
    a_day_ago = time.time() - DAY + 600
    grants = ((n + 1, a_day_ago + n * (DAY - 1200) / rows, n) for n in range(rows))
    with closing(sqlite3.connect(directory / "journal.sqlite")) as database, database:
        columns = [name for _, name, *_ in database.execute("PRAGMA table_info(grants)")]
        of_whom = "'no-token', " if columns[0] == "bot" else ""  # there was one bot once
        database.executemany(f"INSERT INTO grants VALUES ({of_whom}?, ?, ?, 0, 0)", grants)  # noqa: S608


@dataclass(frozen=True, slots=True)
class Answer:
    shard: int
    at: float


@dataclass(slots=True)
class Client:
    shard: int
    stream: socket.socket
    request: bytes
    polls: bool
    received: bytes = b""


@dataclass
class Crowd:
    """Clients with a connection each, which ask for a shard each."""

    port: int
    answers: list[Answer] = field(default_factory=list)
    polls: int = 0  # answers that said: ask again
    lost: list[str] = field(default_factory=list)
    left: set[int] = field(default_factory=set)
    waiting: dict[int, Client] = field(default_factory=dict)
    _shards: Iterator[int] = field(default_factory=itertools.count)
    _poll: select.epoll = field(default_factory=select.epoll)

    def join(self, wait: float | None = None) -> None:
        """Connect, ask, and leave the answer to `listen`; with ``wait`` ask until granted."""
        shard = next(self._shards)
        port, path = self.address(shard)
        target = f"{path}?shard={shard}" + (f"&wait={wait:.3f}" if wait else "")
        request = f"GET {target} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()
        try:
            stream = socket.create_connection(("127.0.0.1", port), timeout=5)
            stream.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            stream.sendall(request)
        except OSError as error:
            self.lost.append(f"shard {shard}: {error}")
            return
        stream.settimeout(0)
        self.waiting[stream.fileno()] = Client(shard, stream, request, polls=bool(wait))
        self._poll.register(stream, select.EPOLLIN)

    def address(self, shard: int) -> tuple[int, str]:  # noqa: ARG002
        """The port and the path at which a shard asks."""
        return self.port, "/"

    def leave(self, clients: Iterable[Client]) -> None:
        for client in clients:
            del self.waiting[client.stream.fileno()]
            client.stream.close()
            self.left.add(client.shard)

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
        if data and client.polls and client.received.startswith(b"HTTP/1.1 202 "):
            self.polls += 1
            client.received = b""
            client.stream.send(client.request)
            return
        if data and client.received.startswith(b"HTTP/1.1 200 "):
            self.answers.append(Answer(client.shard, received_at(stamps)))
        else:
            self.lost.append(f"shard {client.shard}: {why or client.received or 'closed'!r}")
        self.waiting.pop(fd).stream.close()


class Http2Crowd:
    """Clients that share one HTTP/2 connection, with a stream each."""

    def __init__(self, port: int) -> None:
        self.waiting = 0
        self.answers = 0
        self.lost: list[str] = []
        self._stream = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._http = H2Connection(H2Configuration())
        self._http.initiate_connection()
        self._send()
        self._hear()  # the server's settings

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    @property
    def most_streams(self) -> int:
        return self._http.remote_settings.max_concurrent_streams

    def join(self, shard: int) -> None:
        """Ask, and leave the answer to `listen`."""
        head = {":method": "GET", ":path": f"/?shard={shard}", ":scheme": "http"}
        stream = self._http.get_next_available_stream_id()
        self._http.send_headers(stream, [*head.items(), (":authority", "bench")], end_stream=True)
        self._send()
        self.waiting += 1

    def listen(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while select.select([self._stream], [], [], max(0.0, until - time.monotonic()))[0]:
            self._hear()

    def _hear(self) -> None:
        data = self._stream.recv(2**16)
        if not data:
            sys.exit("the server closed the HTTP/2 connection")
        for event in self._http.receive_data(data):
            match event:
                case ResponseReceived(headers=headers):
                    if (b":status", b"200") not in headers:
                        self.lost.append(f"stream {event.stream_id}: {headers}")
                case DataReceived(flow_controlled_length=length):
                    self._http.acknowledge_received_data(length, event.stream_id)
                case StreamEnded():
                    self.answers += 1
                    self.waiting -= 1
                case StreamReset():
                    self.lost.append(f"stream {event.stream_id}: reset")
        self._send()

    def _send(self) -> None:
        self._stream.sendall(self._http.data_to_send())


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


def most_clients() -> int:
    """How many clients the limits on open files and ports allow, of this process and a server."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    return (high - low if hard == resource.RLIM_INFINITY else min(hard, high - low)) - SPARE_FILES
