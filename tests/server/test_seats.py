"""A place in line is kept, whatever cut the client off."""

import json
import re
import time as wall

import pytest
import trio
from asgi import Call, Client
from serving import FIRST, GATEWAY, INTERVAL, MOMENT, Nobody, limit, serving
from structlog.testing import capture_logs


async def insist(client: Client, shard: int, patience: float, pause: float = 0.05) -> float:
    """Ask for a shard, giving up and asking again as so many HTTP clients do; when it got in."""
    while True:
        call = client.ask(f"/?shard={shard}")
        with trio.move_on_after(patience):
            return (await call.answered()).at
        call.leave()
        await trio.sleep(pause)


async def test_61_shards_that_give_up_every_20_seconds_all_get_in_in_order() -> None:
    async with serving() as client:
        started_at = trio.current_time()
        granted: dict[int, float] = {}

        async def shard(number: int) -> None:
            granted[number] = await insist(client, number, patience=20)

        async with trio.open_nursery() as nursery:
            for number in range(61):
                nursery.start_soon(shard, number)
                await trio.sleep(MOMENT)
        assert list(granted) == sorted(granted)
        for number, at in granted.items():
            ideal = started_at + FIRST + number * INTERVAL
            assert 0 <= at - ideal <= 1


async def test_whoever_returns_has_the_old_place() -> None:
    async with serving() as client:
        first = client.ask("/?shard=1")
        await trio.sleep(MOMENT)
        second = client.ask("/?shard=2")
        await trio.sleep(MOMENT)
        first.leave()
        await trio.sleep(1)
        back = client.ask("/?shard=1")
        assert (await back.answered()).at < (await second.answered()).at


async def test_an_absent_seat_is_passed_over_at_no_cost_and_keeps_its_rank() -> None:
    async with serving() as client:
        absent = client.ask("/?shard=1")
        await trio.sleep(MOMENT)
        second = client.ask("/?shard=2")
        await trio.sleep(MOMENT)
        third = client.ask("/?shard=3")
        await trio.sleep(MOMENT)
        absent.leave()
        passed_over_at = (await second.answered()).at
        back_at = (await client.get("/?shard=1")).at
        assert back_at - passed_over_at == pytest.approx(INTERVAL)
        assert (await third.answered()).at - back_at == pytest.approx(INTERVAL)


async def test_a_seat_is_forgotten_when_its_time_is_over() -> None:
    async with serving(seat_ttl=3, token=True) as client:
        early, late = client.ask("/?shard=1"), client.ask("/?shard=2")
        await trio.sleep(MOMENT)
        early.leave()
        await trio.sleep(3.1)
        assert client.queue.buckets[0].line.away == 0
        back = client.ask("/?shard=1")
        await trio.sleep(MOMENT)
        client.queue.read(limit(), GATEWAY, trio.current_time())
        assert (await late.answered()).at < (await back.answered()).at


async def test_the_newest_request_for_a_shard_has_its_best_seat_and_both_are_served() -> None:
    async with serving() as client:
        calls: list[Call] = []
        for target in ("/?shard=1", "/?shard=2", "/?shard=1"):
            calls.append(client.ask(target))
            await trio.sleep(MOMENT)
        older, other, newer = [(await call.answered()).at for call in calls]
        assert newer < other < older


async def test_how_long_it_waited_counts_from_the_first_request_for_its_seat() -> None:
    with capture_logs() as logs:
        async with serving() as client:
            for shard in range(4):
                client.ask(f"/?shard={shard}")
            await trio.sleep(MOMENT)
            for _ in range(3):  # it polls
                assert (await client.get("/?shard=9&wait=4")).status == 202
                await trio.sleep(1)
            once_more = client.ask("/?shard=9")
            await trio.sleep(1)
            seats = json.loads((await client.get("/status?seats=true")).body)["seats"]
            once_more.leave()
            await trio.sleep(1)
            await client.get("/?shard=9")
            metrics = (await client.get("/metrics")).body.decode()

    assert [seat["waited"] for seat in seats if seat["shard"] == 9] == [pytest.approx(16, abs=0.1)]
    (left,) = [entry for entry in logs if entry["event"] == "identify_left"]
    assert left["waited"] == pytest.approx(16, abs=0.1)
    granted = [entry["waited"] for entry in logs if entry["event"] == "identify_granted"]
    assert granted[-1] == pytest.approx(FIRST + 4 * INTERVAL, abs=0.1)
    total = re.search(r"^gateway_queue_wait_seconds_sum{.*} (.+)$", metrics, re.MULTILINE)
    assert total is not None
    assert float(total[1]) == pytest.approx(sum(granted), abs=0.01)


async def test_seats_outlive_a_change_of_max_concurrency() -> None:
    async with serving(token=True) as client:
        queue = client.queue
        queue.read(limit(), GATEWAY, trio.current_time())
        calls = {}
        for shard in (3, 7, 11, 15):  # one bucket of four as well
            calls[shard] = client.ask(f"/?shard={shard}")
            await trio.sleep(MOMENT)
        calls[3].leave()
        await trio.sleep(1)
        queue.read(limit(max_concurrency=4), GATEWAY, trio.current_time())
        calls[3] = client.ask("/?shard=3")
        granted = [(await call.answered()).at for call in calls.values()]
        assert granted == sorted(granted)


async def test_a_request_without_a_shard_keeps_no_seat() -> None:
    async with serving() as client:
        call = client.ask("/")
        await trio.sleep(MOMENT)
        call.leave()
        await call.ended.wait()
        assert client.queue.buckets[0].line.away == 0
        assert (await client.get("/")).status == 200


async def test_a_client_that_asks_all_the_time_only_gets_one_seat() -> None:
    async with serving() as client:
        patient = client.ask("/?shard=9")
        await trio.sleep(MOMENT)
        for _ in range(2000):
            call = client.ask("/?shard=1")
            await trio.sleep(MOMENT)
            call.leave()
            await call.ended.wait()
        line = client.queue.buckets[0].line
        assert (line.waiting, line.away) == (1, 1)
        assert (await patient.answered()).status == 200


async def test_a_hundred_thousand_absent_seats_cost_a_grant_next_to_nothing() -> None:
    with capture_logs():
        await grant_among_absent_seats()


async def grant_among_absent_seats() -> None:
    async with serving(token=True, interval=0.001, seat_ttl=3600) as client:
        queue = client.queue
        for shard in range(100_000):
            with queue.turn(shard, Nobody()):
                pass
        await trio.sleep(MOMENT)
        assert queue.buckets[0].line.away == 100_000
        queue.read(limit(200_000, 200_000), GATEWAY, trio.current_time())
        began = wall.perf_counter()
        for shard in range(0, 100_000, 500):
            await client.get(f"/?shard={shard}")
        # A grant among nobody else takes some 0.3 ms of this; the bound is for slow machines.
        assert (wall.perf_counter() - began) / 200 < 0.01
