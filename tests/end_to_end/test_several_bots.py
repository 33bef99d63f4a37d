"""Several bots at one server and one Discord: who is served, who comes and goes, and how apart."""

import os
import signal
import sys
from base64 import b64encode
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from fake_discord import FakeDiscord, fake_discords
from harness import SERVER, Program, run_server, running, running_server
from patience import PATIENCE
from raw import Answer, Client, connect, connect_http2
from ways import on_one_server

BOT = Path(__file__).parent / "bots" / "discord_py_bot.py"

# A tenth of what is usual, but the window: here is no margin of half a second.
INTERVAL, WINDOW = 0.5, 0.4

LOOK = 15.0  # seconds until a change is seen without a signal


def token_of(application: int) -> str:
    return f"{b64encode(str(application).encode()).decode().rstrip('=')}.fake.token"


def discord_bot(application: int, **settings: Any) -> FakeDiscord:
    return FakeDiscord(token=token_of(application), window=WINDOW, **settings)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "bots"
    folder.mkdir()
    return folder


def serving(folder: Path, **settings: object) -> AbstractAsyncContextManager[Program]:
    return running_server(
        GATEWAY_QUEUE_BOTS=folder, **({"GATEWAY_QUEUE_INTERVAL": INTERVAL} | settings)
    )


def hang_up(server: Program) -> None:
    os.kill(server.pid, signal.SIGHUP)


async def ask(client: Client, path: str, *headers: str) -> Answer:
    await client.send(f"GET {path} HTTP/1.1", "Host: queue", *headers)
    return await client.answer()


def bot_processes(discord: FakeDiscord, queue: str) -> list[AbstractAsyncContextManager[Program]]:
    """Two processes of a bot with discord.py, each with half of the shards."""
    shards = range(discord.shards)
    return [
        running(
            sys.executable,
            str(BOT),
            f"--discord={discord.url}",
            f"--queue={queue}",
            f"--shards={','.join(map(str, half))}",
            f"--shard-count={discord.shards}",
            "--sharded",
            "--library=discord",
            DISCORD_TOKEN=discord.token,
        )
        for half in (shards[::2], shards[1::2])
    ]


async def test_bots_identify_side_by_side_while_others_come_go_and_are_refused(
    folder: Path,
) -> None:
    small, large, late = (
        discord_bot(number, shards=4, max_concurrency=max_concurrency)
        for number, max_concurrency in ((1, 1), (2, 2), (3, 4))
    )
    for name, bot in (("small", small), ("large", large)):
        (folder / name).write_text(bot.token)
    (folder / "refused").write_text(token_of(4))
    (folder / "leaving.toml").write_text("seat_ttl = 1")
    async with (
        fake_discords(small, large, late) as discord,
        serving(
            folder,
            GATEWAY_QUEUE_DISCORD_API=discord.api,
            GATEWAY_QUEUE_SHUTDOWN_GRACE=0.5,
        ) as server,
        AsyncExitStack() as clients,
    ):
        url = server.url
        waiting = [await clients.enter_async_context(connect(server)) for _ in range(10)]
        for number, client in enumerate(waiting):
            await client.send(f"GET /bots/leaving/?shard={number} HTTP/1.1", "Host: queue")
        for name, bot in (("small", small), ("large", large), ("late", late)):
            for process in bot_processes(bot, f"{url}/bots/{name}"):
                await clients.enter_async_context(process)
        refused = await clients.enter_async_context(connect(server))
        await refused.send("GET /bots/refused/?shard=0 HTTP/1.1", "Host: queue")

        (folder / "late").write_text(late.token)
        (folder / "leaving.toml").unlink()
        hang_up(server)
        await server.logged("bot_added", bot="late")
        await server.logged("bot_removed", bot="leaving")
        with trio.fail_after(PATIENCE):
            for bot in (small, large, late):
                await bot.wait_ready(bot.shards)
        for client in waiting[2:]:
            assert b"Not yet" not in await client.rest()
        await server.logged("limits_unreadable", bot="refused")
        async with httpx.AsyncClient(base_url=url) as operator:
            bots = {bot["name"]: bot for bot in (await operator.get("/status")).json()["bots"]}
            metrics = (await operator.get("/metrics")).text

    for bot in (small, large, late):
        assert bot.violations == []
        assert len(bot.identifies) == bot.shards
    assert set(bots) == {"small", "large", "late", "refused"}
    assert bots["refused"]["obstacle"] == "limits_unknown"
    assert "401" in bots["refused"]["limits"]["failure"]["error"]
    assert 'gateway_queue_grants_total{bot="large",bucket="1"} 2.0' in metrics
    said = "\n".join(server.lines)
    assert not any(bot.token in said or bot.token in metrics for bot in (small, large, late))


# Of several replicas only the one that leads reads the directory.
@on_one_server
@pytest.mark.usefixtures("way")
async def test_a_request_for_an_unknown_bot_is_held_until_it_is_added(folder: Path) -> None:
    async with (
        serving(folder) as server,
        connect(server) as client,
        connect_http2(server) as http2,
    ):
        await client.send("GET /bots/main/?shard=1 HTTP/1.1", "Host: queue")
        async with connect(server) as leaver:
            await leaver.send("GET /bots/main/?shard=2 HTTP/1.1", "Host: queue")
        stream = await http2.ask("/bots/main/?shard=3")
        await server.logged("unknown_bot", bot="main")
        async with connect(server) as patient:
            answer = await ask(patient, "/bots/main/?shard=4&wait=0.2")
            assert (answer.status, b'"unknown_bot"' in answer.body) == (202, True)
        (folder / "main.toml").write_text("")
        hang_up(server)
        assert (await client.answer()).is_grant
        [answer] = await http2.answers([stream])
        assert answer.is_grant
        assert (await ask(client, "/bots/main/?shard=1")).is_grant


@on_one_server
@pytest.mark.usefixtures("way")
async def test_a_bots_key_opens_that_bot(folder: Path) -> None:
    for name in ("one", "two"):
        (folder / f"{name}.toml").write_text(f"api_key = 'key-of-{name}'")
    async with serving(folder, GATEWAY_QUEUE_API_KEY="of-all") as server:
        for key, status in (("key-of-one", 200), ("of-all", 200), ("key-of-two", 401)):
            async with connect(server) as client:
                answer = await ask(client, "/bots/one/?shard=1", f"Authorization: Bearer {key}")
                assert answer.status == status


@on_one_server
@pytest.mark.usefixtures("way")
async def test_requests_for_a_removed_bot_are_closed_unanswered(folder: Path) -> None:
    (folder / "one.toml").write_text("interval = 60")
    (folder / "two.toml").write_text("")
    async with (
        serving(folder, GATEWAY_QUEUE_SHUTDOWN_GRACE=0.5) as server,
        connect(server) as client,
        connect(server) as other,
    ):
        await client.send("GET /bots/one/?shard=1 HTTP/1.1", "Host: queue")
        await server.logged("identify_queued", bot="one")
        (folder / "one.toml").unlink()
        hang_up(server)
        assert await client.rest() == b""
        assert (await ask(other, "/bots/two/?shard=1")).is_grant


async def test_kubernetes_swaps_a_whole_directory_and_it_is_seen(folder: Path) -> None:
    def mount(version: str, *bots: str) -> None:
        """As the kubelet does it with a secret."""
        (folder / f"..{version}").mkdir()
        for bot in bots:
            (folder / f"..{version}" / f"{bot}.toml").write_text("")
        (folder / "..data_tmp").symlink_to(f"..{version}")
        (folder / "..data_tmp").rename(folder / "..data")
        for bot in bots:
            if not (folder / f"{bot}.toml").is_symlink():
                (folder / f"{bot}.toml").symlink_to(f"..data/{bot}.toml")

    mount("1", "one", "two")
    async with serving(folder) as server:
        mount("2", "two", "three")
        (folder / "one.toml").unlink()
        await server.logged("bot_added", bot="three", within=LOOK + PATIENCE)
        await server.logged("bot_removed", bot="one")
        assert await server.stop() == 0
    assert not server.logged_so_far("bot_removed", bot="two")


async def test_two_swapped_files(folder: Path) -> None:
    one, two = (discord_bot(number) for number in (1, 2))
    (folder / "one").write_text(one.token)
    (folder / "two").write_text(two.token)
    async with fake_discords(one, two) as discord:
        settings = {"GATEWAY_QUEUE_DISCORD_API": discord.api, "GATEWAY_QUEUE_SHUTDOWN_GRACE": 0}
        async with serving(folder, **settings) as server, connect(server) as client:
            assert (await ask(client, "/bots/one/?shard=0")).is_grant
            (folder / "one").rename(folder / ".swapped")
            (folder / "two").rename(folder / "one")
            (folder / ".swapped").rename(folder / "two")
            hang_up(server)
            await server.logged("bot_added", bot="one", application="2")
            await server.logged("bot_added", bot="two", application="1")
            assert (await ask(client, "/bots/two/?shard=0")).headers["x-gateway-queue-grant"] == "2"


async def test_the_commands(folder: Path) -> None:
    (folder / "one.toml").write_text("")
    (folder / "bad").write_text("two words")
    async with serving(folder) as server:
        base = f"{server.url}/bots/one"
        for command, code, words in (
            (("wait", "--shard=1", f"--url={base}"), 0, "Shard 1 may identify now"),
            (("status", f"--url={server.url}"), 0, "bad: its token is not allowed"),
            (("status", f"--url={server.url}", "--bot=one"), 0, "1 grant to 1 shard"),
            (("status", f"--url={server.url}", "--bot=two"), 1, "no such bot"),
            (("status", f"--url={server.url}", "--json"), 0, '"name": "one"'),
        ):
            async with running(*SERVER, *command, COLUMNS=200) as program:
                assert await program.ended() == code
            assert words in "\n".join(program.lines)


async def test_a_directory_that_is_missing_stops_the_start(folder: Path) -> None:
    missing = folder / "missing"
    code, words = await run_server(GATEWAY_QUEUE_BOTS=missing)

    assert code == 2
    assert f"GATEWAY_QUEUE_BOTS={missing} is not allowed (No such file or directory)" in words


async def test_a_single_token_that_is_refused_ends_no_server_of_several(folder: Path) -> None:
    good = discord_bot(1)
    (folder / "good").write_text(good.token)
    async with (
        fake_discords(good) as discord,
        serving(
            folder,
            DISCORD_TOKEN=token_of(9),
            GATEWAY_QUEUE_DISCORD_API=discord.api,
        ) as server,
        connect(server) as client,
    ):
        assert (await ask(client, "/bots/good/?shard=0")).is_grant
        await server.logged("limits_unreadable", bot="default")
        assert (await ask(client, "/readyz")).status == 503
        assert server.returncode is None


async def test_history_goes_with_the_application(folder: Path, tmp_path: Path) -> None:
    journal = {"GATEWAY_QUEUE_JOURNAL": f"sqlite:{tmp_path / 'journal'}"}
    one = discord_bot(1)
    (folder / "one").write_text(one.token)
    async with fake_discords(one) as discord:
        api = {"GATEWAY_QUEUE_DISCORD_API": discord.api}
        async with serving(folder, **journal, **api) as server, connect(server) as client:
            assert (await ask(client, "/bots/one/?shard=7")).is_grant
            assert await server.stop() == 0
        (folder / "one").rename(folder / "renamed")
        async with serving(folder, **journal, **api) as server, connect(server) as client:
            assert (await ask(client, "/bots/renamed/status/shards/7")).status == 200
            answer = await ask(client, "/bots/renamed/?shard=7")
            assert answer.headers["x-gateway-queue-grant"] == "2"
