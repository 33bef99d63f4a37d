"""Replicas find Redis by asking its Sentinels, and follow when another server becomes primary."""

import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import trio
from coredis import Redis
from coredis.exceptions import RedisError
from engines import INSTALLED, SERVERS, Server, servers
from harness import free_port, running_server
from instants import logged_at
from patience import PATIENCE
from raw import grant_of

from gateway_queue.queue.rules.heard import WINDOW
from gateway_queue.redis_url import RedisURL
from gateway_queue.replicas.connections import client
from gateway_queue.replicas.engine import FAILOVER

pytestmark = pytest.mark.skipif(not INSTALLED, reason="neither Redis nor Valkey is installed")

INTERVAL = 0.3

# Each that fails takes a place in a pool of 64 connections, were it not given back.
MORE_THAN_A_POOL = 100


@dataclass
class Deployment:
    """A primary with one replica, and the port of the Sentinel that would promote it."""

    primary: Server
    sentinel: int

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{self.sentinel}/main"


@contextmanager
def sentinel(folder: Path, kind: str, primary: int, port: int) -> Iterator[None]:
    """A Sentinel that promotes another server where this one has not answered for a second."""
    rules = folder / "sentinel.conf"
    rules.write_text(
        f"port {port}\n"
        "bind 127.0.0.1\n"
        f"sentinel monitor main 127.0.0.1 {primary} 1\n"
        "sentinel down-after-milliseconds main 1000\n"
        "sentinel failover-timeout main 2000\n"
    )
    server = SERVERS[kind]
    assert server is not None
    with (folder / "sentinel.log").open("wb") as log:
        process = subprocess.Popen([server, rules, "--sentinel"], stdout=log, stderr=log)
    try:
        yield
    finally:
        process.kill()
        process.wait()


@pytest.fixture
async def deployment(tmp_path: Path) -> AsyncIterator[Deployment]:
    kind = INSTALLED[-1]
    first, second = free_port(), free_port()
    with servers(tmp_path) as make:
        primary = make(kind, "--bind", "127.0.0.1", "--port", str(first))
        replica = make(kind, "--bind", "127.0.0.1", "--port", str(second))
        await primary.start()
        await replica.start()
        await replica.follow(first)
        port = free_port()
        with sentinel(tmp_path, kind, first, port):
            url = RedisURL.parse(f"redis://127.0.0.1:{port}")
            async with client(url, PATIENCE, PATIENCE) as asked:
                await until(partial(knows_a_replica, asked))
            yield Deployment(primary, port)


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Ask until this holds; who is asked need not have started."""
    with trio.fail_after(PATIENCE):
        while True:
            with suppress(RedisError):
                if await holds():
                    return
            await trio.sleep(0.05)


async def knows_a_replica(sentinel: Redis[str]) -> bool:
    return bool(await sentinel.sentinel_replicas("main"))


async def answers(server: Redis[str]) -> bool:
    return bool(await server.ping())


@pytest.mark.parametrize("what", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
async def test_they_follow_to_the_server_that_is_promoted(
    deployment: Deployment, what: signal.Signals
) -> None:
    settings = {"GATEWAY_QUEUE_REDIS": deployment.url, "GATEWAY_QUEUE_INTERVAL": INTERVAL}
    async with running_server(**settings) as leader, running_server(**settings) as other:
        await leader.logged("leading")
        await grant_of(other, 0)
        deployment.primary.signal(what)
        for replica in (leader, other):
            await replica.logged_times(2, "replica_joined")
        await grant_of(other, 1)
        leads = other if other.logged_so_far("leading") else leader
        granted = await leads.logged("identify_granted", shard=1)
        [_, joined] = leads.logged_so_far("replica_joined")

    # What was cut off may have granted until then.
    assert logged_at(granted) >= logged_at(joined) + FAILOVER + WINDOW + INTERVAL


async def test_an_outage_of_all_sentinels_takes_no_connection_for_good(tmp_path: Path) -> None:
    kind, primary, port = INSTALLED[-1], free_port(), free_port()
    url = RedisURL.parse(f"redis+sentinel://127.0.0.1:{port}/main")
    async with client(url, PATIENCE, PATIENCE) as asked:
        for _ in range(MORE_THAN_A_POOL):
            with pytest.raises(RedisError):
                await asked.ping()
        with servers(tmp_path) as make:
            await make(kind, "--bind", "127.0.0.1", "--port", str(primary)).start()
            with sentinel(tmp_path, kind, primary, port):
                await until(partial(answers, asked))
