"""A Redis that refuses what replicas need: they say why, hold everybody, and go on later."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import trio
from engines import INSTALLED, Server, servers
from harness import Program, free_port, running_server
from patience import PATIENCE
from raw import connect

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not INSTALLED, reason="neither Redis nor Valkey is installed")


@dataclass(frozen=True)
class Refusal:
    """What an administrator does to Redis, and what that is undone with.

    ``why`` is what replicas say then; ``user`` is put into their URL.
    """

    why: str
    does: tuple[str, ...]
    undoes: tuple[str, ...]
    user: str = ""


REFUSALS = {
    "wrong password": Refusal(
        "invalid username-password pair",
        ("ACL SETUSER queue on >another ~* +@all",),
        ("ACL SETUSER queue >sesame",),
        "queue:sesame@",
    ),
    "no INFO": Refusal(
        "info",
        ("ACL SETUSER queue on >sesame ~* +@all -info",),
        ("ACL SETUSER queue +info",),
        "queue:sesame@",
    ),
    "another's keys": Refusal(
        "permission",
        ("ACL SETUSER queue on >sesame ~other:* +@all",),
        ("ACL SETUSER queue ~gateway-queue:* ~gateway-queue",),
        "queue:sesame@",
    ),
    "no memory": Refusal(
        "OOM",
        ("CONFIG SET maxmemory 1",),
        ("CONFIG SET maxmemory 0",),
    ),
    "read-only": Refusal(
        "read only replica",
        ("CONFIG SET replica-serve-stale-data yes", "REPLICAOF 127.0.0.1 {nowhere}"),
        ("REPLICAOF NO ONE",),
    ),
    "no replica of its own": Refusal(
        "NOREPLICAS",
        ("CONFIG SET min-replicas-to-write 1",),
        ("CONFIG SET min-replicas-to-write 0",),
    ),
}


async def administer(engine: Server, *commands: str) -> None:
    """Type these commands, as with telnet."""
    async with await trio.open_unix_socket(engine.socket) as stream:
        for command in commands:
            await stream.send_all(command.format(nowhere=free_port()).encode() + b"\r\n")
            answer = await stream.receive_some()
            assert answer == b"+OK\r\n", (command, answer)


@asynccontextmanager
async def replica(engine: Server, user: str) -> AsyncIterator[Program]:
    url = engine.url.replace("unix://", f"unix://{user}")
    async with running_server(
        GATEWAY_QUEUE_JOURNAL=None, GATEWAY_QUEUE_REDIS=url, GATEWAY_QUEUE_INTERVAL=0.2
    ) as server:
        yield server


async def ready(server: Program) -> httpx.Response:
    async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE) as client:
        return await client.get("/readyz")


@pytest.mark.parametrize("kind", INSTALLED)
@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
async def test_it_is_said_why_and_nobody_loses_anything(
    refusal: Refusal, kind: str, tmp_path: Path
) -> None:
    with servers(tmp_path) as make:
        engine = make(kind)
        await engine.start()
        await administer(engine, *refusal.does)
        async with replica(engine, refusal.user) as server, connect(server) as client:
            line = await server.logged("engine_away")
            await client.ask(0)
            answer = await ready(server)
            assert answer.status_code == 503
            assert refusal.why.lower() in line["error"].lower()
            assert refusal.why.lower() in answer.json()["detail"].lower()
            assert "sesame" not in "\n".join(server.lines)
            await administer(engine, *refusal.undoes)
            await server.logged("engine_back")
            assert (await client.answer()).is_grant


@pytest.mark.parametrize("kind", INSTALLED)
async def test_the_user_of_the_page_may_do_all_that_is_needed(kind: str, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "replicas.md").read_text(encoding="utf-8")
    [command] = re.findall(r"^ACL SETUSER .*$", page, re.MULTILINE)
    with servers(tmp_path) as make:
        engine = make(kind)
        await engine.start()
        await administer(engine, command.replace(">PASSWORD", ">sesame"))
        async with (
            replica(engine, "queue:sesame@") as one,
            replica(engine, "queue:sesame@") as two,
        ):
            for shard, server in enumerate((one, two, one, two)):
                async with connect(server) as client:
                    await client.ask(shard)
                    assert (await client.answer()).is_grant
            await two.stop()
            await one.stop()
            for server in (one, two):
                assert not server.logged_so_far("engine_away")
                assert not server.logged_so_far("engine_refuses")
