"""One shard that starts again and again is slowed down alone, and the token is safe."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from asgi import Client
from background import background
from journals import journal_at
from serving import GATEWAY, INTERVAL, MOMENT, limit, serving
from structlog.testing import capture_logs


async def crash(client: Client, shard: int, granted: list[float]) -> None:
    """A shard that is ended right after each identify."""
    while True:
        granted.append((await client.get(f"/?shard={shard}")).at)
        await trio.sleep(0.2)


async def test_a_shard_in_a_crash_loop_is_slowed_down_and_nobody_else() -> None:
    async with serving(crash_loop="6/600") as client, background() as nursery:
        looping: list[float] = []
        nursery.start_soon(crash, client, 0, looping)
        await trio.sleep(60)
        assert len(looping) == 7
        others = [await client.get(f"/?shard={shard}") for shard in range(1, 5)]
        assert others[-1].at - others[0].at == pytest.approx(3 * INTERVAL)
        await trio.sleep(4 * 3600)
        pauses = [round(later - earlier) for earlier, later in pairwise(looping)]
        assert pauses[6:11] == [60, 120, 240, 480, 960]


async def test_it_keeps_its_rank_and_holds_up_nobody() -> None:
    async with serving(crash_loop="1/600") as client:
        for _ in range(2):
            await client.get("/?shard=0")
        slowed = client.ask("/?shard=0")
        await trio.sleep(MOMENT)
        other = await client.get("/?shard=1")
        assert slowed.answer is None
        assert (await slowed.answered()).at > other.at


async def test_it_is_remembered_across_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    async with serving(crash_loop="2/600", journal=journal_at(path)) as client:
        for _ in range(3):
            await client.get("/?shard=0")
    async with serving(crash_loop="2/600", journal=journal_at(path)) as client:
        started_at = trio.current_time()
        assert (await client.get("/?shard=1")).at - started_at == pytest.approx(INTERVAL)
        assert (await client.get("/?shard=0")).at - started_at > 30


async def test_an_operator_sees_who_is_slowed_down() -> None:
    async with serving(crash_loop="1/600") as client:
        for _ in range(2):
            await client.get("/?shard=7")
        found = json.loads((await client.get("/status")).body)["slowed_down"]
        assert found == {
            "shards": 1,
            "longest": [
                {"shard": 7, "level": 1, "eligible_in": pytest.approx(60), "starts": 2},
            ],
        }
        assert (
            b'gateway_queue_slowed_shards{bot="default"} 1.0' in (await client.get("/metrics")).body
        )


async def test_shards_that_are_slowed_down_are_not_counted_as_ahead() -> None:
    async with serving(crash_loop="1/600") as client, background() as nursery:
        for shard in range(5):
            nursery.start_soon(crash, client, shard, [])
        await trio.sleep(58)  # all five wait for their pause to end
        healthy = client.ask("/?shard=9")
        polled = client.ask("/?shard=10&wait=0.5")
        await trio.sleep(0.4)
        now = trio.current_time()
        seats = json.loads((await client.get("/status?seats=true")).body)["seats"]
        expected = {seat["shard"]: now + seat["expected_in"] for seat in seats}
        told = json.loads((await polled.answered()).body)["expected_in"]
        assert abs(trio.current_time() + told - expected[10]) < INTERVAL
        assert abs((await healthy.answered()).at - expected[9]) < INTERVAL


async def test_requests_without_a_shard_are_one_shard_where_there_is_one_bucket(
    tmp_path: Path,
) -> None:
    path = tmp_path / "journal.sqlite"
    async with serving(crash_loop="6/600", journal=journal_at(path)) as client:
        calls = [client.ask("/") for _ in range(20)]
        await trio.sleep(60)
        assert sum(call.answer is not None for call in calls) == 7
        shards = [await client.get(f"/?shard={shard}") for shard in range(3)]
        assert shards[-1].at - shards[0].at == pytest.approx(2 * INTERVAL)
        (slowed,) = json.loads((await client.get("/status")).body)["slowed_down"]["longest"]
        assert (slowed["shard"], slowed["level"], slowed["starts"]) == (None, 1, 7)
        await trio.sleep(60)
        assert sum(call.answer is not None for call in calls) == 8
        for call in calls:
            call.leave()
    # The journal remembers them.
    async with serving(crash_loop="6/600", journal=journal_at(path)) as client:
        nameless, named = client.ask("/"), client.ask("/?shard=9")
        assert (await named.answered()).at < (await nameless.answered()).at - 60


async def test_requests_without_a_shard_do_not_count_as_a_shard_if_there_are_several_buckets() -> (
    None
):
    async with serving(crash_loop="1/600", token=True) as client:
        queue = client.queue
        queue.read(limit(), GATEWAY, trio.current_time())
        calls = [client.ask("/") for _ in range(6)]
        await trio.sleep(4 * INTERVAL)
        assert sum(call.answer is not None for call in calls) == 2
        queue.read(limit(max_concurrency=2), GATEWAY, trio.current_time())
        await trio.sleep(4.5 * INTERVAL)
        assert all(call.answer is not None for call in calls)
        assert json.loads((await client.get("/status")).body)["slowed_down"]["shards"] == 0


async def test_each_raise_of_its_level_is_logged() -> None:
    with capture_logs() as logs:
        async with serving(crash_loop="2/600") as client:
            for _ in range(4):
                await client.get("/?shard=0")
    raised = [entry for entry in logs if entry["event"] == "crash_loop"]
    assert [(entry["shard"], entry["level"]) for entry in raised] == [(0, 1), (0, 2)]


@pytest.mark.parametrize(
    ("rule", "first_hour", "day"),
    [("6/600", 192, 560), ("off", 950, 950)],
)
async def test_a_fleet_in_a_crash_loop_never_costs_the_token(
    rule: str, first_hour: int, day: int
) -> None:
    """16 shards crash for a day against 1,000 starts, of which 50 are the reserve."""
    async with serving(token=True, crash_loop=rule, reserve="5%") as client:
        client.queue.read(limit(max_concurrency=16), GATEWAY, trio.current_time())
        granted: list[float] = []
        async with background() as nursery:
            for shard in range(16):
                nursery.start_soon(crash, client, shard, granted)
            await trio.sleep(3600)
            assert len(granted) == pytest.approx(first_hour, abs=16)
            await trio.sleep(23 * 3600)
            assert len(granted) == pytest.approx(day, abs=16)
            assert len(granted) <= 950
