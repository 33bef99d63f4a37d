"""What ``/plan`` says, compared with what then becomes of the launch."""

import json
from typing import Any

import pytest
import trio
from asgi import Client
from serving import FIRST, GATEWAY, INTERVAL, MOMENT, limit, serving

from gateway_queue.settings import DEFAULT

# Shards that are of no launch here.
OTHERS = 1_000_000


async def planned(client: Client, query: str) -> dict[str, Any]:
    answer = await client.get(f"/plan?{query}")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    found = json.loads(answer.body)
    assert isinstance(found, dict)
    return found


async def crowd(client: Client, numbers: range) -> None:
    """So many wait, in this order, who are of no launch."""
    for number in numbers:
        client.ask(f"/?shard={OTHERS + number}")
        await trio.sleep(MOMENT)


async def all_in_in(client: Client, shards: int) -> float:
    """Seconds until all shards of a launch are in that begins now."""
    began_at = trio.current_time()
    calls = [client.ask(f"/?shard={shard}") for shard in range(shards)]
    answers = [await call.answered() for call in calls]
    assert {answer.status for answer in answers} == {200}
    return max(answer.at for answer in answers) - began_at


def about(seconds: float) -> Any:
    return pytest.approx(seconds, abs=0.01)


# What it promises


@pytest.mark.parametrize("waiting", [range(0), range(17), range(0, 40, 4)])
@pytest.mark.parametrize(("buckets", "cap"), [(1, None), (4, None), (16, 6)])
@pytest.mark.parametrize("seconds", [0.0, 30.0])
async def test_everyone_is_in_when_it_says(
    waiting: range, buckets: int, cap: int | None, seconds: float
) -> None:
    """Right after the start, and when some of those who wait are in."""
    async with serving(token=True, cap=cap) as client:
        client.queue.read(limit(max_concurrency=buckets), GATEWAY, trio.current_time())
        await crowd(client, waiting)
        await trio.sleep(seconds)
        plan = await planned(client, "shards=50")
        assert await all_in_in(client, 50) == about(plan["all_in_in"])


async def test_everyone_is_in_when_it_says_after_a_change_of_max_concurrency() -> None:
    async with serving(token=True) as client:
        queue = client.queue
        queue.read(limit(max_concurrency=1), GATEWAY, trio.current_time())
        await crowd(client, range(20))
        await trio.sleep(FIRST + 3.5 * INTERVAL)
        plan = await planned(client, "shards=50&max_concurrency=4")
        assert plan["waiting"] == 16
        queue.read(limit(max_concurrency=4), GATEWAY, trio.current_time())
        assert await all_in_in(client, 50) == about(plan["all_in_in"])


async def test_everyone_is_in_when_it_says_with_another_interval() -> None:
    async with serving(buckets=4) as client:
        plan = await planned(client, "shards=50&interval=8")
    async with serving(buckets=4, interval=8) as client:
        assert await all_in_in(client, 50) == about(plan["all_in_in"])


async def test_shards_that_stand_aside_do_not_break_estimates() -> None:
    async with serving(crash_loop="1/600") as client:
        for _ in range(2):
            await client.get(f"/?shard={OTHERS}")
        client.ask(f"/?shard={OTHERS}")
        await trio.sleep(MOMENT)
        plan = await planned(client, "shards=5")
        took = await all_in_in(client, 5)
        assert plan["all_in_in"] - INTERVAL <= took + 0.01 <= plan["all_in_in"] + 0.02


async def test_as_many_starts_are_missing_as_it_says() -> None:
    async with serving(buckets=4, starts=40, reserve="10") as client:
        await crowd(client, range(5))
        plan = await planned(client, "shards=50")
        assert (plan["missing"], plan["all_in_in"]) == (25, None)
        calls = [client.ask(f"/?shard={shard}") for shard in range(50)]
        await trio.sleep(3600)
        assert client.queue.starts.last_day.granted(trio.current_time()) == 30
        assert sum(call.answer is None for call in calls) == 25


# What it says


async def test_a_plan() -> None:
    async with serving(buckets=2, starts=1000, reserve="5%") as client:
        await crowd(client, range(6))
        await trio.sleep(FIRST + 0.5)  # two of them are in
        assert await planned(client, "shards=2000") == {
            "shards": 2000,
            "max_concurrency": 2,
            "buckets": 2,
            "interval": INTERVAL,
            "takes": 999 * INTERVAL,
            "waiting": 4,
            "all_in_in": None,
            "obstacle": None,
            "missing": 1056,
            "limits": {
                "source": "counted",
                "total": 1000,
                "remaining": 998,
                "reserve": 50,
                "reset_in": about(86_400 - 0.5),
            },
        }


async def test_unused_starts_are_available_again_a_day_after_the_first() -> None:
    async with serving() as client:
        assert (await planned(client, "shards=1"))["limits"]["reset_in"] == 86_400


async def test_the_limits_are_discords_and_a_cap_is_a_cap() -> None:
    async with serving(token=True, cap=4) as client:
        queue = client.queue
        assert (await client.get("/plan?shards=1")).status == 503
        read = limit(900, reset_after=3600, max_concurrency=16)
        queue.read(read, GATEWAY, trio.current_time())
        await trio.sleep(60)
        plan = await planned(client, "shards=64&max_concurrency=32")
        assert (plan["max_concurrency"], plan["buckets"]) == (32, 4)
        assert plan["takes"] == 15 * INTERVAL
        assert plan["limits"]["source"] == "discord"
        assert plan["limits"]["reset_in"] == about(3540)


async def test_an_obstacle_leaves_the_time_unknown() -> None:
    async with serving(starts=1) as client:
        plan = await planned(client, "shards=1")
        assert plan["all_in_in"] == about(FIRST)
        await client.get("/?shard=0")
        plan = await planned(client, "shards=1")
        assert (plan["obstacle"], plan["all_in_in"], plan["missing"]) == ("reserve", None, 1)
        client.queue.end()
        assert (await planned(client, "shards=1"))["obstacle"] == "ending"


async def test_each_of_several_bots_has_its_own_plans() -> None:
    async with serving(buckets=2) as client:
        bots = client.app.bots
        bots.several = True
        bots.by_name["main"] = bots.by_name.pop(DEFAULT)
        answer = await client.get("/bots/main/plan?shards=9&shard=1")
        assert (answer.status, json.loads(answer.body)["buckets"]) == (200, 2)
        assert (await client.get("/plan?shards=9")).status == 404
        assert (await client.get("/bots/other/plan?shards=9&shard=1")).status == 404


# What is asked


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("", "shards is missing"),
        ("shard=5", "shards is missing"),
        ("shards=0", "shards is '0'"),
        ("shards=1000001", "from 1 to 1000000"),
        ("shards=-1", "shards is '-1'"),
        ("shards=1e3", "shards is '1e3'"),
        ("shards=" + "9" * 5000, "shards is '999"),
        ("shards=1&shards=2", "more than once"),
        ("shards=1&interval=4.9", "from 5 to 3600"),
        ("shards=1&interval=3601", "from 5 to 3600"),
        ("shards=1&interval=nan", "interval is 'nan'"),
        ("shards=1&interval=", "interval is ''"),
        ("shards=1&max_concurrency=0", "from 1 to 10000"),
        ("shards=1&max_concurrency=10001", "from 1 to 10000"),
    ],
)
async def test_what_cannot_be_planned_is_told(query: str, said: str) -> None:
    async with serving() as client:
        answer = await client.get(f"/plan?{query}")
        assert answer.status == 400
        assert said in json.loads(answer.body)["detail"]


async def test_a_server_for_tests_plans_with_its_own_interval() -> None:
    async with serving(interval=0.01) as client:
        assert (await planned(client, "shards=3"))["takes"] == 0.02
        assert (await planned(client, "shards=3&interval=0.01"))["takes"] == 0.02
        assert (await client.get("/plan?shards=3&interval=0.009")).status == 400


@pytest.mark.parametrize("target", ["/plan?shards=9&shard=1", "/plan?shard=1", "/plan/?shard=1"])
async def test_it_takes_no_turn(target: str) -> None:
    async with serving() as client:
        await trio.sleep(FIRST)
        assert (await client.get(target)).status in {200, 400, 404}
        assert (await client.get(target, "POST")).status in {404, 405}
        assert client.queue.starts.last_day.granted(trio.current_time()) == 0


async def test_another_method_is_refused() -> None:
    async with serving() as client:
        answer = await client.get("/plan?shards=9", "POST")
        assert answer.status == 405
        assert "GET" in answer.headers["allow"]
