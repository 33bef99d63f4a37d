"""Several replicas on one Redis or Valkey: each grants what one process would."""

import json
import signal
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from background import background
from coredis import Redis
from engines import INSTALLED, Server, servers
from fake_discord import fake_discord
from harness import DEFAULTS, Program, run_server, running, running_server, server_with
from instants import EXACT, dial, logged_at
from patience import PATIENCE
from raw import Answer, Client, answer_of, connect, connect_http2, tampered_server

from gateway_queue.replicas.engine import Engine, EngineError

pytestmark = pytest.mark.skipif(not INSTALLED, reason="neither Redis nor Valkey is installed")

INTERVAL = 0.5
KEY = "sesame-51b0"

# What an interval of 60 seconds keeps from being granted while a test looks.
LONG = 60.0

# As many replicas as are started in one moment.
MANY = 16

# A bucket goes on so soon after a replica has died, with some time for a busy machine.
GOES_ON_WITHIN = 2.0 + 3.0


@pytest.fixture
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """One of those that are installed; for what either might do in its own way, each of them."""
    with servers(tmp_path) as make:
        yield make(getattr(request, "param", INSTALLED[-1]))


on_each_engine = pytest.mark.parametrize("engine", INSTALLED, indirect=True)


@dataclass
class Replicas:
    leader: Program
    others: list[Program]

    @property
    def all(self) -> list[Program]:
        return [self.leader, *self.others]


def settings_of(engine: Server, **settings: object) -> dict[str, object]:
    shared = {
        "GATEWAY_QUEUE_JOURNAL": None,
        "GATEWAY_QUEUE_REDIS": engine.url,
        "GATEWAY_QUEUE_INTERVAL": INTERVAL,
    }
    return shared | settings


@asynccontextmanager
async def replicas(engine: Server, number: int, **settings: object) -> AsyncIterator[Replicas]:
    """So many replicas, one of which leads."""
    await engine.start()
    async with AsyncExitStack() as stack:
        running = running_server(**settings_of(engine, **settings))
        leader = await stack.enter_async_context(running)
        await leader.logged("leading")
        others = [
            await stack.enter_async_context(running_server(**settings_of(engine, **settings)))
            for _ in range(number - 1)
        ]
        for other in others:
            await other.logged("replica_joined")
        yield Replicas(leader, others)


async def granted(at: Program, shard: int) -> Answer:
    """Ask a replica for a turn, and wait for it."""
    answer = await answer_of(at, f"GET /?shard={shard} HTTP/1.1", "Host: queue")
    assert answer.is_grant, answer
    return answer


async def granted_to(bot: str, at: Program, shard: int) -> None:
    """Ask for one of several bots."""
    answer = await answer_of(at, f"GET /bots/{bot}/?shard={shard} HTTP/1.1", "Host: queue")
    assert answer.is_grant, answer


@asynccontextmanager
async def asking(at: Program, leader: Program, shard: int, more: str = "") -> AsyncIterator[Client]:
    """A client of a replica, whose shard has a place."""
    async with connect(at) as client:
        await client.send(f"GET /?shard={shard}{more} HTTP/1.1", "Host: queue")
        await leader.logged("identify_queued", shard=shard)
        yield client


async def page(at: Program, path: str, method: str = "GET", **given: Any) -> httpx.Response:
    async with httpx.AsyncClient(base_url=at.url, timeout=PATIENCE) as client:
        return await client.request(method, path, **given)


async def page_until(
    at: Program, path: str, holds: Callable[[httpx.Response], bool]
) -> httpx.Response:
    """Ask for a page until this holds of it."""
    with trio.fail_after(PATIENCE):
        while not holds(answer := await page(at, path)):  # noqa: ASYNC110 - it tells nobody
            await trio.sleep(0.05)
    return answer


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait until this holds of Redis, which tells nobody."""
    with trio.fail_after(PATIENCE):
        while True:
            if await holds():
                return
            await trio.sleep(0.01)


def waiting(answer: httpx.Response) -> dict[str, int]:
    """How many wait for each of several bots, by a ``/status``."""
    return {bot["name"]: bot["waiting"] for bot in answer.json().get("bots", ())}


def is_without_engine(answer: httpx.Response) -> bool:
    """Whether a ``/status`` says that grants cannot be recorded, as Redis is away."""
    return answer.is_success and answer.json()["obstacle"] == "engine"


def is_paused(answer: httpx.Response, reason: str) -> bool:
    """Whether a ``/status`` says that everything is paused for this reason."""
    return answer.is_success and (answer.json()["paused"] or {}).get("reason") == reason


@on_each_engine
async def test_each_bucket_keeps_its_interval_whichever_replica_is_asked(engine: Server) -> None:
    answers: dict[int, list[float]] = {0: [], 1: []}

    async def ask(at: Program, shard: int) -> None:
        answers[shard % 2].append((await granted(at, shard)).at)

    async with (
        replicas(engine, 3, GATEWAY_QUEUE_MAX_CONCURRENCY=2) as house,
        trio.open_nursery() as nursery,
    ):
        for shard in range(12):
            nursery.start_soon(ask, house.all[shard % 3], shard)
    for times in answers.values():
        times.sort()
        gaps = [late - soon for soon, late in pairwise(times)]
        assert len(gaps) == 5
        assert min(gaps) > INTERVAL - EXACT


async def test_of_many_that_start_at_once_one_leads(engine: Server) -> None:
    await engine.start()
    answers: defaultdict[int, list[float]] = defaultdict(list)
    settings = DEFAULTS | settings_of(engine, GATEWAY_QUEUE_MAX_CONCURRENCY=MANY)

    async def ask(at: Program, shard: int) -> None:
        answers[shard % MANY].append((await granted(at, shard)).at)

    async with AsyncExitStack() as stack:
        house = [
            await stack.enter_async_context(running(*server_with(), **settings))
            for _ in range(MANY)
        ]
        for at in house:
            await at.logged("replica_joined")
        async with trio.open_nursery() as nursery:
            for shard, at in enumerate(2 * house):
                nursery.start_soon(ask, at, shard)
        status = await page_until(house[0], "/status", lambda answer: answer.is_success)

    members = status.json()["replicas"]
    assert len(members) == MANY
    assert [member["leads"] for member in members].count(True) == 1
    assert len(answers) == MANY
    assert all(max(times) - min(times) > INTERVAL - EXACT for times in answers.values())


async def test_several_bots_wait_side_by_side_at_all_replicas(
    engine: Server, tmp_path: Path
) -> None:
    """Each keeps its own pace and places, also when another replica comes to lead."""
    bots = tmp_path / "bots"
    bots.mkdir()
    for name in "quick", "slow":
        (bots / f"{name}.toml").write_text("" if name == "quick" else "interval = 60")
    async with replicas(engine, 3, GATEWAY_QUEUE_BOTS=bots) as house, AsyncExitStack() as stack:
        one, two = house.others
        for shard, at in enumerate((one, two, one)):
            await granted_to("quick", at, shard)
        waits = await stack.enter_async_context(connect(one))
        await waits.send("GET /bots/slow/?shard=0 HTTP/1.1", "Host: queue")
        await house.leader.logged("identify_queued", bot="slow", shard=0)
        stranger = await stack.enter_async_context(connect(two))
        await stranger.send("GET /bots/unknown/?shard=0 HTTP/1.1", "Host: queue")
        await house.leader.logged("unknown_bot", bot="unknown")
        assert (await page(one, "/status")).json()["unknown_bot_waiting"] == 1
        await house.leader.kill()
        await granted_to("quick", two, 3)
        await page_until(two, "/status", lambda page: waiting(page) == {"quick": 0, "slow": 1})


async def test_the_engine_keeps_no_offer_of_which_all_is_known(engine: Server) -> None:
    async with replicas(engine, 2) as house, engine.client() as client:
        for shard, at in enumerate(house.all):
            await granted(at, shard)
        with trio.fail_after(PATIENCE):
            while await client.hlen("gateway-queue:offers") > 1:  # noqa: ASYNC110 - it tells nobody
                await trio.sleep(0.05)  # the era remains


async def test_who_came_first_goes_first_and_who_comes_back_has_its_place(engine: Server) -> None:
    async with replicas(engine, 3, GATEWAY_QUEUE_INTERVAL=2) as house, AsyncExitStack() as stack:
        one, two = house.others
        await granted(one, 0)
        async with asking(one, house.leader, 1):
            waits = await stack.enter_async_context(asking(two, house.leader, 2))
        await house.leader.logged("identify_left", shard=1)
        came_back = await stack.enter_async_context(connect(two))
        await came_back.ask(1)
        first, second = await came_back.answer(), await waits.answer()
    assert first.is_grant
    assert second.is_grant
    assert first.at < second.at


async def test_a_replica_that_is_killed_costs_its_clients_nothing_but_a_new_connection(
    engine: Server,
) -> None:
    async with replicas(engine, 3) as house:
        one, two = house.others
        async with asking(one, house.leader, 1), asking(two, house.leader, 2):
            await one.kill()
            await granted(two, 1)
            order = [
                line["shard"] for line in await house.leader.logged_times(2, "identify_granted")
            ]
    assert order == [1, 2]


async def test_who_is_granted_as_the_leader_is_killed_has_no_place_afterwards(
    engine: Server,
) -> None:
    async with replicas(engine, 2) as house:
        (other,) = house.others
        await granted(other, 1)
        await granted(other, 0)  # after an interval, so its place has been noted
        await house.leader.kill()
        await other.logged("leading")
        async with asking(other, other, 0):  # which is not said to return
            pass


async def test_who_is_granted_while_another_comes_to_lead_has_no_place_afterwards(
    engine: Server,
) -> None:
    seats = {"GATEWAY_QUEUE_SEAT_TTL": 600}
    changes = "grants_are_handed_over_late,answers_must_be_taken_late"
    async with (
        replicas(engine, 1, **seats) as house,
        tampered_server(changes, **settings_of(engine, **seats)) as other,
        connect_http2(other, window=0) as client,
    ):
        await other.logged("replica_joined")
        grant = await client.ask("/?shard=0")
        await client.answer_begun(grant)
        house.leader.process.terminate()
        await other.logged("leading")
        async with asking(other, other, 1) as later:
            client.protocol.increment_flow_control_window(1_000, grant)
            await client.flush()
            assert (await client.answers([grant]))[0].is_grant
            # Anybody who is believed to have waited for longer would go first.
            assert (await later.answer()).is_grant
        await page_until(other, "/status", lambda answer: not answer.json()["away"])
        async with asking(other, other, 0):  # which is not said to return
            pass


async def test_when_the_leader_is_killed_another_goes_on_with_places_and_pace(
    engine: Server,
) -> None:
    async with replicas(engine, 3, GATEWAY_QUEUE_INTERVAL=3) as house, AsyncExitStack() as stack:
        one, two = house.others
        before = await granted(one, 0)
        async with asking(two, house.leader, 1):
            pass
        await house.leader.logged("identify_left", shard=1)
        waits = await stack.enter_async_context(asking(one, house.leader, 2))
        came_back = await stack.enter_async_context(asking(two, house.leader, 1))
        await trio.sleep(0.2)  # until what happened is noted: see `journal.COLLECT`
        await house.leader.kill()
        first, second = await came_back.answer(), await waits.answer()
    assert first.is_grant
    assert second.is_grant
    assert first.at - before.at > 3 - EXACT
    assert second.at - first.at > 3 - EXACT
    assert first.at - before.at < 3 + GOES_ON_WITHIN


async def test_a_leader_that_ends_lets_another_lead_at_once(engine: Server) -> None:
    async with replicas(engine, 2, GATEWAY_QUEUE_SHUTDOWN_GRACE=30) as house:
        (other,) = house.others
        await granted(other, 0)
        async with connect(house.leader) as client:
            house.leader.process.terminate()
            ending = await house.leader.logged("ending")
            leading = await other.logged("leading")
            await client.ask(1)
        await granted(other, 2)
        assert await house.leader.ended() == 0
    assert logged_at(leading) - logged_at(ending) < GOES_ON_WITHIN


@on_each_engine
async def test_while_the_engine_is_dead_everybody_is_held(engine: Server) -> None:
    async with replicas(engine, 2) as house:
        (other,) = house.others
        await granted(other, 0)
        async with asking(other, house.leader, 1) as client:
            pass
        async with connect(other) as client:
            engine.signal(signal.SIGSTOP)
            await other.logged("engine_away")
            await client.ask(1)
            ready = await page(other, "/readyz")
            assert ready.status_code == 503
            assert "Redis" in ready.json()["detail"]
            await page_until(house.leader, "/status", is_without_engine)
            engine.signal(signal.SIGCONT)
            assert (await client.answer()).is_grant
            await page_until(other, "/readyz", lambda page: page.status_code == 200)


@on_each_engine
async def test_a_new_engine_that_knows_nothing_grants_no_earlier(engine: Server) -> None:
    async with replicas(engine, 2) as house:
        (other,) = house.others
        before = await granted(other, 0)
        await engine.flush()
        after = await granted(other, 1)
    assert after.at - before.at > INTERVAL + 1.0  # and the window of a claim


async def test_each_replica_answers_for_all(engine: Server) -> None:
    async with replicas(engine, 2, GATEWAY_QUEUE_OPERATOR_KEY=KEY) as house:
        (other,) = house.others
        answer = await granted(other, 5)
        grant = answer.headers["x-gateway-queue-grant"]
        operator = {"Authorization": f"Bearer {KEY}"}
        confirmed = await page(other, f"/confirm?shard=5&grant={grant}", "POST")
        assert confirmed.status_code == 204
        assert (await page(other, "/confirm?shard=6", "POST")).status_code == 404
        status = (await page(other, "/status")).json()
        assert status == status | {"ready": True, "last_24_hours": {"granted": 1, "shards": 1}}
        members = [(member["waiting"], member["leads"]) for member in status["replicas"]]
        assert sorted(members) == [(0, False), (0, True)]
        assert (await page(other, "/plan?shards=8")).json()["shards"] == 8
        paused = await page(
            other, "/operator/pause", "PUT", headers=operator, json={"reason": "a test"}
        )
        assert paused.is_success, paused.text
        await page_until(house.leader, "/status", lambda page: is_paused(page, "a test"))
        assert (await page(other, "/operator/pause", "PUT")).status_code == 401

        # Also to whoever leads next.
        async with Redis.from_url(engine.url) as state:

            async def is_recorded() -> bool:
                return bool(await state.exists(["gateway-queue:orders"]))

            await until(is_recorded)
        await house.leader.kill()
        await other.logged("leading")
        found = await page_until(other, "/status", lambda page: is_paused(page, "a test"))
        assert found.json()["last_24_hours"]["granted"] == 1


async def test_a_place_is_recorded_once_however_often_its_client_asks(engine: Server) -> None:
    async def recorded(client: Redis[str], places: int) -> int:
        """How often something was written, once so many places are recorded."""
        with trio.fail_after(PATIENCE):
            while await client.hlen("gateway-queue:seats") < places:  # noqa: ASYNC110 - it tells nobody
                await trio.sleep(0.05)
        return (await engine.calls())["hset"]

    async with (
        replicas(engine, 2, GATEWAY_QUEUE_INTERVAL=LONG) as house,
        engine.client() as client,
    ):
        [at] = house.others
        numbers = []
        for shard, times in (0, 1), (1, 1), (0, 3), (2, 1):
            for _ in range(times):
                answer = await answer_of(at, f"GET /?shard={shard}&wait=0.1 HTTP/1.1", "Host: q")
                assert answer.status == 202, answer
            if times == 1:
                numbers.append(await recorded(client, shard + 1))
    one, two, three = numbers
    assert three - two == two - one


async def test_who_asks_to_be_put_off_is_told_its_place(engine: Server) -> None:
    async with replicas(engine, 2, GATEWAY_QUEUE_INTERVAL=LONG) as house:
        (other,) = house.others
        async with asking(house.leader, house.leader, 1), connect(other) as client:
            await client.send("GET /?shard=2&wait=0.2 HTTP/1.1", "Host: queue")
            answer = await client.answer()
    told = json.loads(answer.body)
    assert (answer.status, told["position"], told["reason"]) == (202, 2, "interval")


async def test_who_asks_a_replica_that_ends_is_told_so(engine: Server) -> None:
    async with replicas(engine, 2, GATEWAY_QUEUE_INTERVAL=LONG) as house:
        for shard, ending in enumerate(reversed(house.all)):
            async with asking(ending, house.leader, shard, "&wait=3600") as client:
                ending.process.terminate()
                answer = await client.answer()
                assert answer.status == 202
                assert json.loads(answer.body)["reason"] == "ending"
                assert await ending.ended() == 0


async def test_the_page_is_fed_at_each_replica(engine: Server) -> None:
    seen = b""
    async with replicas(engine, 2) as house:
        (other,) = house.others
        async with await dial(other.url) as stream:
            await stream.send_all(b"GET /dashboard/feed HTTP/1.1\r\nHost: queue\r\n\r\n")
            with trio.fail_after(PATIENCE):
                while b"event: change" not in seen:
                    seen += await stream.receive_some()
    assert seen.index(b"event: whole") < seen.index(b"event: change")


async def test_only_who_has_the_key_gets_in(engine: Server) -> None:
    async with replicas(engine, 2, GATEWAY_QUEUE_API_KEY=KEY) as house:
        (other,) = house.others
        right = f"Authorization: Bearer {KEY}"
        answer = await answer_of(other, "GET /?shard=1 HTTP/1.1", "Host: queue", right)
        assert answer.is_grant
        for lines in ((), ("Authorization: Bearer wrong",)):
            answer = await answer_of(other, "GET /?shard=1 HTTP/1.1", "Host: queue", *lines)
            assert answer.status == 401
            answer = await answer_of(other, "GET /status HTTP/1.1", "Host: queue", *lines)
            assert answer.status == 401


async def test_one_replica_reads_discord_for_all(engine: Server) -> None:
    async with (
        fake_discord(max_concurrency=4) as discord,
        replicas(
            engine, 3, DISCORD_TOKEN=discord.token, GATEWAY_QUEUE_DISCORD_API=discord.api
        ) as house,
    ):
        await house.leader.logged("limits_read")
        for shard in range(4):
            await granted(house.others[shard % 2], shard)
        assert len(discord.requests) == 1
        gateway = (await page(house.others[0], "/gateway/bot")).json()
        assert gateway["session_start_limit"]["max_concurrency"] == 4


async def test_other_settings_are_refused_and_named(engine: Server) -> None:
    async with replicas(engine, 1):
        settings = settings_of(engine, GATEWAY_QUEUE_INTERVAL=0.6)
        code, words = await run_server(**settings)
    assert code == 1
    assert "GATEWAY_QUEUE_INTERVAL is 0.6 here and 0.5 there" in words


async def test_a_weak_engine_is_warned_of(tmp_path: Path) -> None:
    with servers(tmp_path) as make:
        engine = make(INSTALLED[-1], "--maxmemory-policy", "allkeys-lru")
        async with replicas(engine, 1) as house:
            line = await house.leader.logged("engine_weak")
    assert "maxmemory-policy, which is allkeys-lru, to noeviction" in line["hint"]


async def test_metrics_tell_of_the_replicas(engine: Server) -> None:
    async with replicas(engine, 2) as house:
        (other,) = house.others
        answer = await page_until(
            other, "/metrics", lambda page: "gateway_queue_replicas 2.0" in page.text
        )
        metrics = answer.text
        assert "gateway_queue_leading 0.0" in metrics
        assert "gateway_queue_engine_up 1.0" in metrics
        assert "gateway_queue_leading 1.0" in (await page(house.leader, "/metrics")).text


async def test_a_replica_that_comes_and_goes_is_no_loss(engine: Server) -> None:
    """Its heart beats now and then, but it never takes what it is offered in time."""
    async with replicas(engine, 2) as house, background() as nursery:
        (other,) = house.others

        async def flicker() -> None:
            while True:
                other.process.send_signal(signal.SIGSTOP)
                await trio.sleep(0.4)
                other.process.send_signal(signal.SIGCONT)
                await trio.sleep(0.05)

        async with asking(other, house.leader, 1):
            nursery.start_soon(flicker)
            await granted(house.leader, 2)
            await house.leader.logged("identify_granted", shard=2)
            nursery.cancel_scope.cancel()


async def test_a_leader_ends_while_the_engine_does_not_answer(engine: Server) -> None:
    async with replicas(engine, 1) as house, AsyncExitStack() as stack:
        for shard in range(5):
            await stack.enter_async_context(asking(house.leader, house.leader, shard))
        engine.signal(signal.SIGSTOP)
        await house.leader.logged("engine_away")
        house.leader.process.send_signal(signal.SIGTERM)
        house.leader.process.send_signal(signal.SIGINT)
        assert await house.leader.ended() == 0
        engine.signal(signal.SIGCONT)


async def break_news(client: Redis[str]) -> None:
    """Break the connection that waits for news, once there is one."""
    while True:
        for found in await client.client_list():
            if found["cmd"].startswith("xread"):
                await client.client_kill(identifier=int(found["id"]))
                return
        await trio.sleep(0.005)


async def test_news_are_heard_however_often_the_connection_breaks(engine: Server) -> None:
    await engine.start()
    async with (
        Engine.at(engine.url, "gq") as asked,
        Redis.from_url(engine.url, decode_responses=True) as client,
    ):
        with trio.fail_after(PATIENCE):
            for _ in range(70):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(break_news, client)
                    with pytest.raises(EngineError):
                        await asked.news("era", "one", 0, 0)


async def test_a_message_that_is_lost_is_said_again(engine: Server) -> None:
    """Nobody says anything more meanwhile, so the client might wait for ever."""
    async with (
        replicas(engine, 2) as house,
        Redis.from_url(engine.url, decode_responses=True) as state,
        connect(house.others[0]) as client,
    ):
        house.leader.process.send_signal(signal.SIGSTOP)
        for found in await state.client_list():  # what the leader waits for was as good as read
            if found["cmd"].startswith("xread"):
                await state.client_kill(identifier=int(found["id"]))
        if earlier := await state.keys("*:to:*"):
            await state.delete(earlier)
        await client.ask(0)

        async def something_is_said() -> bool:
            return bool(await state.keys("*:to:*"))

        await until(something_is_said)
        await state.delete(await state.keys("*:to:*"))
        house.leader.process.send_signal(signal.SIGCONT)

        assert (await client.answer()).is_grant


@asynccontextmanager
async def forgetful(engine: Server) -> AsyncIterator[tuple[Program, Program]]:
    """A leader and another replica, which forget each other soon, and have talked."""
    await engine.start()
    settings = settings_of(engine)
    change = "replicas_are_forgotten_soon"
    async with tampered_server(change, **settings) as leader:
        await leader.logged("leading")
        async with tampered_server(change, **settings) as other:
            await other.logged("replica_joined")
            for _ in range(3):
                await page_until(other, "/status", lambda answer: answer.is_success)
            yield leader, other


async def test_a_replica_that_was_forgotten_is_heard_when_it_is_back(engine: Server) -> None:
    async with forgetful(engine) as (_, other), Redis.from_url(engine.url) as state:
        other.process.send_signal(signal.SIGSTOP)

        async def is_forgotten() -> bool:
            return await state.hlen("gateway-queue:beats") == 1

        await until(is_forgotten)
        other.process.send_signal(signal.SIGCONT)
        await other.logged("replica_joins_again")
        await granted(other, 0)
        assert (await page(other, "/status")).is_success


async def test_nothing_is_said_to_a_replica_that_has_left(engine: Server) -> None:
    async with forgetful(engine) as (leader, other), Redis.from_url(engine.url) as state:

        async def said_to(replica: Program) -> int:
            name = replica.logged_so_far("replica_joined")[0]["replica"]
            inboxes = await state.keys(f"gateway-queue:to:*:{name}")
            return sum([await state.xlen(inbox) for inbox in inboxes])

        async def nothing_more_is_said() -> bool:
            return not await said_to(other)

        async def more_is_said_to_the_leader() -> bool:
            return await said_to(leader) >= so_far + 3

        assert await said_to(other)
        await other.stop()
        await until(nothing_more_is_said)
        so_far = await said_to(leader)  # by itself, as it holds clients, too
        await until(more_is_said_to_the_leader)
        assert await nothing_more_is_said()


async def test_a_state_that_was_put_back_is_noticed(engine: Server) -> None:
    """By the same Redis, so what replicas have heard is ahead of what they could hear next."""
    async with replicas(engine, 2) as house, Redis.from_url(engine.url) as state:
        (other,) = house.others
        await granted(other, 0)
        keys = await state.keys("gateway-queue:*")
        for key in keys:
            await state.copy(key, b"backup:" + key)
        await granted(other, 1)
        for key in keys:
            await state.copy(b"backup:" + key, key, replace=True)
        put_back_at = time.time()
        for replica in house.all:
            await replica.logged("replica_joins_again")
        answer = await granted(other, 2)
        eras = {replica.logged_so_far("replica_joined")[-1]["era"] for replica in house.all}
        assert eras != {house.leader.logged_so_far("replica_joined")[0]["era"]}
    assert answer.at - put_back_at > INTERVAL + 1.0  # and the window of a claim


async def test_a_password_is_as_it_was_before_it_was_put_into_a_url(engine: Server) -> None:
    await engine.start()
    async with Redis.from_url(engine.url) as asked:
        await asked.config_set({"requirepass": "open@sesame/51b0"})
    url = engine.url.replace("unix://", "unix://:open%40sesame%2F51b0@")
    async with running_server(**settings_of(engine, GATEWAY_QUEUE_REDIS=url)) as server:
        await granted(server, 0)
        assert not server.logged_so_far("engine_away")


async def test_a_key_of_another_type_is_named(engine: Server) -> None:
    async with replicas(engine, 1) as deployment, Redis.from_url(engine.url) as asked:
        await granted(deployment.leader, 0)
        [grants] = await asked.keys("gateway-queue:grants:*")
        await asked.delete([grants])
        await asked.set(grants, "of somebody else")
        async with asking(deployment.leader, deployment.leader, 1) as client:
            line = await deployment.leader.logged("engine_refuses", step="take")
            await asked.delete([grants])
            answer = await client.answer()

    assert grants.decode() in line["error"]
    assert answer.is_grant
