"""What a client may opt in to: to be told to ask again, and to say when it has identified."""

import json
from typing import Any

import pytest
import trio
from asgi import Client
from serving import FIRST, GATEWAY, INTERVAL, MOMENT, limit, serving

from gateway_queue.queue.rules.pace import AFTER_CONFIRMATION, CONFIRM_HOLD


async def body(client: Client, target: str) -> dict[str, Any]:
    answer = await client.get(target)
    assert answer.status == 202
    assert (answer.headers["retry-after"], answer.headers["x-retry-after-ms"]) == ("0", "1")
    found = json.loads(answer.body)
    assert isinstance(found, dict)
    return found


async def poll(client: Client, shard: int, wait: float) -> float:
    answer = await client.get(f"/?shard={shard}&wait={wait}")
    while answer.status == 202:
        await trio.sleep(MOMENT)
        answer = await client.get(f"/?shard={shard}&wait={wait}")
    assert answer.status == 200
    return answer.at


async def test_a_client_that_polls_gets_in_when_one_that_holds_would() -> None:
    async with serving() as client:
        started_at = trio.current_time()
        granted: dict[int, float] = {}

        async def shard(number: int) -> None:
            granted[number] = await poll(client, number, wait=20)

        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(shard, number)
                await trio.sleep(MOMENT)
        assert list(granted) == sorted(granted)
        for number, at in granted.items():
            assert at - started_at - FIRST - number * INTERVAL == pytest.approx(0, abs=0.1)


async def test_it_learns_its_position_and_the_expected_time() -> None:
    async with serving() as client:
        for shard in range(3):
            client.ask(f"/?shard={shard}")
            await trio.sleep(MOMENT)
        told = await body(client, "/?shard=9&wait=1")
        assert told["position"] == 4
        assert told["expected_in"] == pytest.approx(FIRST + 3 * INTERVAL - 1, abs=0.1)
        assert told["reason"] == "interval"


async def test_it_is_told_why_nothing_is_granted() -> None:
    async with serving(token=True) as client:
        queue = client.queue
        told = await body(client, "/?shard=0&wait=1")
        assert (told["reason"], told["expected_in"]) == ("limits_unknown", None)
        assert "reset_in" not in told
        queue.read(limit(remaining=0, reset_after=3600), GATEWAY, trio.current_time())
        told = await body(client, "/?shard=0&wait=1")
        assert (told["reason"], told["expected_in"]) == ("reserve", None)
        assert told["reset_in"] == pytest.approx(3599)
        queue.end()
        began = trio.current_time()
        told = await body(client, "/?shard=0&wait=3600")
        assert (told["reason"], trio.current_time()) == ("ending", began)


async def test_nobody_is_granted_while_it_is_told_to_ask_again() -> None:
    async with serving(starts=1) as client:
        slow = client.ask(f"/?shard=0&wait={INTERVAL - 1}", slow=2)  # told across the opening
        assert (await slow.answered()).status == 202
        assert (await client.get("/?shard=0")).status == 200  # the one start is still there


async def test_without_a_token_it_says_when_the_next_start_is_available() -> None:
    async with serving(starts=2, reserve="1") as client:
        await client.get("/?shard=0")
        granted_at = trio.current_time()
        await trio.sleep(600)
        told = await body(client, "/?shard=1&wait=1")
        assert told["reason"] == "reserve"
        back_at = trio.current_time() + told["reset_in"]
        assert (await client.get("/?shard=1")).at == pytest.approx(back_at, abs=0.1)
        assert back_at - granted_at == pytest.approx(86_400, abs=1)


async def test_when_it_ends_only_clients_that_set_wait_are_answered_at_once() -> None:
    async with serving() as client:
        patient = client.ask("/?shard=0&wait=3600")
        plain = client.ask("/?shard=1")
        await trio.sleep(1)
        client.queue.end()
        assert (await patient.answered()).status == 202
        assert (await plain.answered()).status == 200


async def test_when_it_ends_many_clients_that_set_wait_are_answered_at_once() -> None:
    async with serving(token=True) as client:
        queue = client.queue
        queue.read(limit(), GATEWAY, trio.current_time())
        patient = [client.ask(f"/?shard={shard}&wait=3600") for shard in range(500)]
        await trio.sleep(1)
        queue.read(limit(max_concurrency=16), GATEWAY, trio.current_time())
        queue.end()
        began = trio.current_time()
        for call in patient:
            answer = await call.answered()
            assert (answer.status, answer.at) == (202, began)


async def test_clients_arriving_at_the_instant_of_the_end_are_answered_at_once() -> None:
    async with serving() as client:
        await trio.sleep(MOMENT)
        patient = client.ask("/?shard=0&wait=3600")
        await trio.lowlevel.checkpoint()
        client.queue.end()
        began = trio.current_time()
        assert (await patient.answered()).at == began


async def test_estimates_are_off_by_less_than_an_interval_if_clients_leave() -> None:
    async with serving(buckets=4) as client:
        expected: dict[int, float] = {}
        calls = {}
        for shard in range(60):
            calls[shard] = client.ask(f"/?shard={shard}")
        await trio.sleep(2 * INTERVAL)
        for shard in range(40, 60, 3):
            calls.pop(shard).leave()
        await trio.sleep(MOMENT)
        status = json.loads((await client.get("/status?seats=true")).body)
        now = trio.current_time()
        for seat in status["seats"]:
            expected[seat["shard"]] = now + seat["expected_in"]
        assert len(expected) > 40
        for shard, at in expected.items():
            assert abs((await calls[shard].answered()).at - at) < INTERVAL


async def test_nobody_else_is_granted_until_the_confirmation_and_5_3_seconds() -> None:
    async with serving() as client:
        other = None
        granted = await client.ask("/?shard=0&confirm=true").answered()
        other = client.ask("/?shard=1")
        await trio.sleep(2)
        confirmed_at = trio.current_time()
        assert (await client.get("/confirm?shard=0", "POST")).status == 204
        assert (await other.answered()).at - confirmed_at == pytest.approx(AFTER_CONFIRMATION)
        assert confirmed_at - granted.at == pytest.approx(2)


async def test_a_grant_that_is_never_confirmed_is_followed_by_ten_seconds() -> None:
    async with serving() as client:
        granted = await client.get("/?shard=0&confirm=true")
        assert (await client.get("/?shard=1")).at - granted.at == pytest.approx(CONFIRM_HOLD)


async def test_a_confirmation_may_be_repeated_and_then_only_moves_later() -> None:
    async with serving() as client:
        await client.get("/?shard=0&confirm=true")
        other = client.ask("/?shard=1")
        await trio.sleep(1)
        assert (await client.get("/confirm?shard=0", "POST")).status == 204
        await trio.sleep(3)
        again_at = trio.current_time()
        assert (await client.get("/confirm?shard=0", "POST")).status == 204
        assert (await other.answered()).at - again_at == pytest.approx(AFTER_CONFIRMATION)


async def test_a_late_confirmation_moves_the_next_grant_but_never_brings_it_forward() -> None:
    async with serving() as client:
        await client.get("/?shard=0&confirm=true")
        plain = await client.get("/?shard=1")
        await trio.sleep(4)
        confirmed_at = trio.current_time()
        assert (await client.get("/confirm?shard=0", "POST")).status == 204
        after = await client.get("/?shard=2")
        assert after.at - plain.at >= INTERVAL
        assert after.at - confirmed_at == pytest.approx(AFTER_CONFIRMATION)


async def test_a_confirmation_after_a_change_of_buckets_moves_the_shards_new_bucket() -> None:
    async with serving(token=True) as client:
        queue = client.queue
        queue.read(limit(), GATEWAY, trio.current_time())
        granted = await client.get("/?shard=1&confirm=true")
        queue.read(limit(max_concurrency=2), GATEWAY, trio.current_time())
        await trio.sleep(9)
        confirmed_at = trio.current_time()
        assert (await client.get("/confirm?shard=1", "POST")).status == 204
        same, other = client.ask("/?shard=3"), client.ask("/?shard=2")
        assert (await other.answered()).at - granted.at == pytest.approx(CONFIRM_HOLD)
        assert (await same.answered()).at - confirmed_at == pytest.approx(AFTER_CONFIRMATION)


async def test_only_a_grant_of_the_last_15_minutes_can_be_confirmed() -> None:
    async with serving() as client:
        assert (await client.get("/confirm?shard=0", "POST")).status == 404
        await client.get("/?shard=0")
        assert (await client.get("/confirm?shard=0", "POST")).status == 204
        await trio.sleep(901)
        assert (await client.get("/confirm?shard=0", "POST")).status == 404


@pytest.mark.parametrize(
    "query",
    [
        "wait=0",
        "wait=-1",
        "wait=nan",
        "wait=inf",
        "wait=1e9",
        "wait=",
        "wait=1&wait=2",
        "wait=99999",
        "confirm=maybe",
        "confirm=",
        "confirm=true&confirm=true",
    ],
)
async def test_malformed_requests_are_refused_and_cost_nothing(query: str) -> None:
    async with serving(starts=1) as client:
        for _ in range(3):
            answer = await client.get(f"/?shard=0&{query}")
            assert answer.status == 400
            assert json.loads(answer.body)["detail"].startswith(query.partition("=")[0])
        assert (await client.get("/?shard=0")).status == 200
