"""What the viewers of the operator's page cost the queue.

    python bench/viewers.py [--waiting 10000] [--buckets 128] [--seconds 20]

starts our server in a separate process with this many waiting shards (without connections, whose
cost does not depend on viewers), and lets 0, 1, 10, 32 and again 0 viewers follow the feed over
127.0.0.1 in turn. In a second run, the session starts are enough for half of the waiting shards.

What is measured, and how:

CPU       The server's CPU per second (``time.process_time``), the grants of that second included.
step      The longest time between two points at which another task may run (by a Trio
          instrument, in CPU time of the thread, so that a busy machine does not matter), and
          which task that was. A grant may have to wait for this long at most.
late      How late the grants were, median and p99. The buckets open one after another.
"""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from statistics import median
from typing import Any
from unittest.mock import patch

import trio

VIEWERS = (0, 1, 10, 32, 0)
SETTLING = 3  # seconds of each round that do not count


# The server


@dataclass(eq=False)
class Steps(trio.abc.Instrument):
    """Notes the longest steps of a second."""

    longest: dict[str, float] = field(default_factory=dict)
    began_at: float = 0.0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002
        self.began_at = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        took = time.thread_time() - self.began_at
        name = task.name.rpartition(".")[2] if not task.name.startswith("bucket") else "bucket"
        self.longest[name] = max(self.longest.get(name, 0.0), took)


class Waiting:
    """A client who waits."""

    peer = "nobody"

    def has_left(self) -> bool:
        return False

    def hand_over(self, grant: int) -> bool:  # noqa: ARG002
        return True


async def wait(queue: Any, shard: int) -> None:
    with queue.turn(shard, Waiting()) as turn:
        await turn.wait(trio.sleep_forever)


def serve(waiting: int, buckets: int, starts: int) -> None:
    """Run the server, and print each second what it cost."""
    from gateway_queue import bots, server  # noqa: PLC0415 - only the server needs it
    from gateway_queue.queue.events import Event, Granted  # noqa: PLC0415
    from gateway_queue.settings import Settings  # noqa: PLC0415
    from gateway_queue.watch import lines  # noqa: PLC0415

    steps, late = Steps(), list[float]()

    def note(event: Event, log: Any) -> None:  # noqa: ARG001
        if isinstance(event, Granted):
            late.append(event.late)

    async def tell(all_bots: bots.Bots) -> None:
        bot = all_bots.find(None)
        assert bot is not None
        for bucket in bot.queue.buckets:  # let them open one after the other
            bucket.pace.opens_at += bucket.index * bot.settings.interval / buckets
        for shard in range(waiting):
            trio.lowlevel.spawn_system_task(wait, bot.queue, shard)
            if shard % 100 == 99:
                await trio.lowlevel.checkpoint()
        before = time.process_time()
        while True:
            await trio.sleep(1)
            now = time.process_time()
            line = {"cpu": now - before, "steps": steps.longest, "late": late}
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()
            before = now
            steps.longest = {}
            late.clear()

    async def run() -> None:
        settings = Settings.model_validate(
            {
                "PORT": 0,
                "GATEWAY_QUEUE_JOURNAL": "memory",
                "GATEWAY_QUEUE_MAX_CONCURRENCY": buckets,
                "GATEWAY_QUEUE_DAILY_STARTS": starts,
            }
        )
        await server.serve(settings)

    def announce(_: Settings, all_bots: bots.Bots, address: str) -> None:
        trio.lowlevel.spawn_system_task(tell, all_bots)
        sys.stdout.write(json.dumps({"address": address}) + "\n")
        sys.stdout.flush()

    with patch.object(lines, "write", note), patch.object(server, "announce", announce):
        trio.run(run, instruments=[steps])


# The viewers


async def look(host: str, port: int) -> None:
    stream = await trio.open_tcp_stream(host, port)
    async with stream:
        await stream.send_all(b"GET /dashboard/feed HTTP/1.1\r\nHost: queue\r\n\r\n")
        while await stream.receive_some():
            pass
    raise EOFError("the feed ended")


async def measure(waiting: int, buckets: int, seconds: int, starts: int) -> None:
    command = [sys.executable, __file__, "--serve", f"--waiting={waiting}", f"--buckets={buckets}"]
    command.append(f"--starts={starts}")
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:  # noqa: ASYNC220 - blocks nobody
        lines = server.stdout
        assert lines is not None
        host, _, port = json.loads(lines.readline())["address"][7:].rpartition(":")

        async def told_next() -> dict[str, Any]:
            line: bytes = await trio.to_thread.run_sync(lines.readline)
            return json.loads(line)  # type: ignore[no-any-return]

        try:
            while not (await told_next())["late"]:
                pass  # a start waits before its first grant
            for number in VIEWERS:
                async with trio.open_nursery() as nursery:
                    for _ in range(number):
                        nursery.start_soon(look, host, int(port))
                    told = [await told_next() for _ in range(SETTLING + seconds)]
                    nursery.cancel_scope.cancel()
                report(number, told[SETTLING:])
        finally:
            server.kill()


def report(viewers: int, told: list[dict[str, Any]]) -> None:
    late = sorted(late for line in told for late in line["late"])
    step, name = max((took, name) for line in told for name, took in line["steps"].items())
    ours = max(line["steps"].get("run", 0.0) for line in told)
    cpu = median(line["cpu"] for line in told)
    print(
        f"{viewers:3} viewers: CPU {cpu * 1000:5.1f} ms/s, longest step {step * 1000:4.1f} ms"
        f" ({name}; of tasks named run, as the feed's: {ours * 1000:4.1f}),"
        f" {len(late)} grants late by {median(late) * 1000:.2f} ms, p99"
        f" {late[len(late) * 99 // 100] * 1000:.2f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--waiting", type=int, default=10_000)
    parser.add_argument("--buckets", type=int, default=128)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--starts", type=int, default=100_000)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.waiting, given.buckets, given.starts)
        return
    print(f"{given.waiting} wait in {given.buckets} buckets:")
    trio.run(measure, given.waiting, given.buckets, given.seconds, given.starts)
    print("The same, with session starts for half of them:")
    trio.run(measure, given.waiting, given.buckets, given.seconds, given.waiting // 2)


main()
