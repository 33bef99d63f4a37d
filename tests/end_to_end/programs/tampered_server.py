"""Our server with some things changed, which the first argument names, with commas between.

The other arguments are the server's.
"""

import gc
import json
import math
import os
import random
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from inspect import iscoroutinefunction
from pkgutil import resolve_name
from typing import Any
from unittest.mock import patch

import trio

from gateway_queue import discord, log, server
from gateway_queue.cli.main import main
from gateway_queue.http import connection, head, request, stack, wire
from gateway_queue.queue.queue import Queue
from gateway_queue.queue.rules.line import Line
from gateway_queue.queue.rules.pace import Pace

SABOTAGE = RuntimeError("sabotage")


def say(event: str, **fields: object) -> None:
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


def short_way_is_closed() -> None:
    """All requests go through Hypercorn."""
    patch.object(connection, "SHORT_WAY", new=False).start()


def way_through_hypercorn_is_closed() -> None:
    """Whatever is not held on the short way ends its connection."""
    patch.object(connection, "HypercornConnection", side_effect=SABOTAGE).start()


def replicas_are_forgotten_soon() -> None:
    """A second and a half after they died; and they talk to each other all the time."""
    patch("gateway_queue.replicas.membership.FORGET", 1.5).start()
    patch("gateway_queue.replicas.post.QUIET", 0.1).start()


def grants_are_handed_over_late() -> None:
    """By a replica, up to a minute after it began to take them."""
    patch("gateway_queue.replicas.doorman.WINDOW", 60.0).start()


def bucket_crashes() -> None:
    """At its first grant."""
    patch.object(Line, "grant", side_effect=SABOTAGE).start()


def refresh_crashes() -> None:
    """As the limits are first read, which takes long enough for somebody to wait."""

    async def crash(*_: object) -> None:
        await trio.sleep(1)
        raise SABOTAGE

    patch.object(discord.Discord, "read_limit", crash).start()


def short_way_fails_at_first() -> None:
    """Before the first request is understood."""
    plain_head, failures = head.plain_head, [SABOTAGE]

    def fail(data: bytes) -> head.Head | None:
        if failures:
            raise failures.pop()
        return plain_head(data)

    patch.object(connection, "plain_head", fail).start()


def turn_fails() -> None:
    patch.object(Queue, "turn", side_effect=SABOTAGE).start()


def turn_of_shard_1_fails() -> None:
    turn = Queue.turn

    def fail(queue: Queue, shard: int | None, *about: Any, **more: Any) -> Any:
        if shard == 1:
            raise SABOTAGE
        return turn(queue, shard, *about, **more)

    patch.object(Queue, "turn", fail).start()


def loop_stalls_in_first_grant() -> None:
    """For a second, after the grant and before its answer."""
    grant, stalls = Pace.grant, [1.0]

    def stall(pace: Pace, *about: Any, **more: Any) -> None:
        grant(pace, *about, **more)
        if stalls:
            say("stalling")
            time.sleep(stalls.pop())

    patch.object(Pace, "grant", stall).start()


def stops_itself() -> None:
    """At a step of each grant, as by SIGSTOP; somebody else is to let it go on.

    STOPS says when, for one grant after the other, with commas between:
    ``after gateway_queue.http.wire:PlainWire.send 2`` is after the second call of this.
    """
    stops = [tuple(stop.split()) for stop in os.environ["STOPS"].split(",")]
    awaited: list[tuple[str, ...]] = []
    calls: Counter[str] = Counter()

    def stop_if_awaited(*stop: str) -> None:
        if stop in awaited:
            awaited.clear()
            say("stopping")
            os.kill(os.getpid(), signal.SIGSTOP)

    @contextmanager
    def counted(step: str) -> Iterator[None]:
        calls[step] += 1
        number = str(calls[step])
        stop_if_awaited("before", step, number)
        yield
        stop_if_awaited("after", step, number)

    @contextmanager
    def next_grant(_: str) -> Iterator[None]:
        awaited[:] = [stops.pop(0)] if stops else []
        calls.clear()
        yield

    for step in {step for _, step, _ in stops}:
        call_within(counted, step)
    call_within(next_grant, "gateway_queue.queue.starts:Starts.spend")
    call_within(next_grant, "gateway_queue.replicas.doorman:Doorman._take")


def call_within(context: Callable[[str], AbstractContextManager[None]], step: str) -> None:
    """Have a function, which may be async, called in a context that is given its name."""
    function = resolve_name(step)

    def call(*about: Any, **more: Any) -> Any:
        with context(step):
            return function(*about, **more)

    async def call_async(*about: Any, **more: Any) -> Any:
        with context(step):
            return await function(*about, **more)

    owner, _, name = step.rpartition(".")
    instead = call_async if iscoroutinefunction(function) else call
    patch.object(resolve_name(owner), name, instead).start()


def sockets_take_little() -> None:
    """Ten bytes at once."""
    send_now = wire.PlainWire.send_now

    def send_little(to: wire.PlainWire, data: bytes) -> int:
        return send_now(to, data[:10])

    patch.object(wire.PlainWire, "send_now", send_little).start()


def sockets_have_small_buffers() -> None:
    """As small as the system lets them be; accepted sockets inherit this."""
    listen = server._listen  # noqa: SLF001

    def listen_with_small_buffer(*where: Any) -> socket.socket:
        listening = listen(*where)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        return listening

    patch.object(server, "_listen", listen_with_small_buffer).start()


def answers_must_be_taken_soon() -> None:
    patch.object(request, "ANSWER_SECONDS", 0.3).start()
    patch.object(wire, "SEND_SECONDS", 0.3).start()


def answers_must_be_taken_late() -> None:
    patch.object(request, "ANSWER_SECONDS", 60.0).start()


def idle_connections_close_soon() -> None:
    patch.object(connection, "IDLE_SECONDS", 0.3).start()
    patch.object(stack, "IDLE_SECONDS", 0.3).start()


def unknown_past_is_not_waited_for() -> None:
    """A new leader takes what it has not heard of for nothing."""
    from gateway_queue.queue.rules.heard import Heard  # noqa: PLC0415

    patch.object(Heard, "opens_at", lambda *_: 0.0).start()


def hand_overs_are_late() -> None:
    """Now and then, and nobody looks at the clock."""
    from gateway_queue.replicas.doorman import Doorman  # noqa: PLC0415

    hand_over = Doorman._hand_over  # noqa: SLF001

    async def late(doorman: Doorman, offer: Any, until: float) -> bool:  # noqa: ARG001
        if random.random() < 0.1:  # noqa: S311
            await trio.sleep(random.uniform(0.5, 2.5))  # noqa: S311
        return await hand_over(doorman, offer, math.inf)

    patch.object(Doorman, "_hand_over", late).start()


def keep_alive_is_refused() -> None:
    """As on macOS for a client that has left before it was accepted."""
    setsockopt = trio.SocketStream.setsockopt

    def refuse(stream: trio.SocketStream, level: int, option: int, *value: Any) -> None:
        if option == socket.SO_KEEPALIVE:
            raise OSError(22, "Invalid argument")
        setsockopt(stream, level, option, *value)

    patch.object(trio.SocketStream, "setsockopt", refuse).start()


def log_holds_few_lines() -> None:
    patch.object(log, "MOST_LINES", 100).start()


def has_no_thread_at_first() -> None:
    """As where the system allows no more of them, until another program ends."""
    start, refusals = threading.Thread.start, [RuntimeError("can't start new thread")]

    def refuse(thread: threading.Thread) -> None:
        if refusals and thread.name != "log":
            raise refusals.pop()
        start(thread)

    patch.object(threading.Thread, "start", refuse).start()


def tells_its_thresholds() -> None:
    """Those of the garbage collector."""
    announce = server.announce

    def tell(*about: Any) -> None:
        announce(*about)
        say("thresholds", gc=gc.get_threshold())

    patch.object(server, "announce", tell).start()


def change(names: str) -> None:
    for name in names.split(","):
        globals()[name]()


if __name__ == "__main__":
    change(sys.argv.pop(1))
    main()
