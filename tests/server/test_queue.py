"""The queue as a whole, as its clients see it: what it promises, on a mock clock."""

import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from asgi import Answer, Call
from journals import journal_at
from serving import FIRST, GATEWAY, INTERVAL, MOMENT, limit, serving
from structlog.testing import capture_logs

from gateway_queue.http.answers import GRANTED
from gateway_queue.http.request import ANSWER_SECONDS
from gateway_queue.queue.rules.allowance import READING_LAG
from gateway_queue.queue.turn import Turn


async def answers(calls: Sequence[Call]) -> list[Answer]:
    return [await call.answered() for call in calls]


def gaps(granted: Sequence[Answer]) -> list[float]:
    instants = sorted(answer.at for answer in granted)
    return [later - earlier for earlier, later in pairwise(instants)]


async def test_the_answer_is_the_originals_to_the_letter() -> None:
    async with serving() as client:
        answer = await client.get("/?shard=0")
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/json"
        assert answer.body == GRANTED == b'{"message": "You\'re free to connect now! :)"}'


async def test_one_bucket_is_serial_and_in_order_of_arrival() -> None:
    async with serving() as client:
        calls = []
        for shard in (5, 3, 9, 1):
            calls.append(client.ask(f"/?shard={shard}"))
            await trio.sleep(MOMENT)
        granted = await answers(calls)
        assert [answer.at for answer in granted] == sorted(answer.at for answer in granted)
        assert gaps(granted) == pytest.approx([INTERVAL] * 3)
        assert min(gaps(granted)) >= INTERVAL


@pytest.mark.parametrize("buckets", [16, 100])
async def test_buckets_do_not_wait_for_each_other(buckets: int) -> None:
    async with serving(buckets=buckets) as client:
        granted = await answers([client.ask(f"/?shard={shard}") for shard in range(buckets)])
        assert max(gaps(granted)) == 0


async def test_the_last_starts_go_to_those_who_have_waited_longest() -> None:
    """All buckets open in one instant, and only three may grant."""
    async with serving(buckets=8, starts=3) as client:
        calls = []
        for shard in (6, 1, 4, 0, 7, 2, 5, 3):
            calls.append(client.ask(f"/?shard={shard}"))
            await trio.sleep(MOMENT)
        granted = await answers(calls[:3])
        await trio.sleep(2 * INTERVAL)
        assert max(gaps(granted)) == 0
        assert client.queue.starts.last_day.granted(trio.current_time()) == 3


@dataclass
class Taker:
    """A client who takes its grant at once, and tells how many had been logged by then."""

    logged: Callable[[], int]
    peer: str = "taker"
    logged_before: int | None = None

    def has_left(self) -> bool:
        return False

    def hand_over(self, grant: int) -> bool:  # noqa: ARG002
        self.logged_before = self.logged()
        return True


async def test_buckets_that_open_together_all_grant_before_any_grant_is_logged() -> None:
    async def wait(turn: Turn) -> None:
        with turn:
            await turn.wait(trio.sleep_forever)

    def granted() -> list[int]:
        return [line["shard"] for line in lines if line["event"] == "identify_granted"]

    with capture_logs() as lines:
        async with serving(buckets=16) as client:
            takers = [Taker(lambda: len(granted())) for _ in range(16)]
            async with trio.open_nursery() as nursery:
                for shard, taker in enumerate(takers):
                    nursery.start_soon(wait, client.queue.turn(shard, taker))
            counted = (await client.get("/metrics")).body.decode()

    assert [taker.logged_before for taker in takers] == [0] * 16
    assert sorted(granted()) == [*range(16)]
    assert counted.count("gateway_queue_grants_total{") == 16


async def test_an_idle_bucket_grants_at_once() -> None:
    async with serving() as client:
        await trio.sleep(60)
        asked_at = trio.current_time()
        assert (await client.get("/?shard=7")).at == asked_at


async def test_leaving_costs_no_slot_and_no_session_start() -> None:
    async with serving(starts=2) as client:
        leavers = [client.ask(f"/?shard={shard}") for shard in range(50)]
        await trio.sleep(MOMENT)
        stayer = client.ask("/?shard=99")
        await trio.sleep(1)
        for call in leavers:
            call.leave()
            await call.ended.wait()
            assert call.answer is None
        granted = [await stayer.answered(), await client.get("/?shard=100")]
        assert gaps(granted) == pytest.approx([INTERVAL])


async def test_leaving_in_the_instant_of_arrival_costs_nothing() -> None:
    async with serving(starts=1) as client:
        for _ in range(20):
            call = client.ask("/?shard=1")
            call.leave()
            await call.ended.wait()
        assert (await client.get("/?shard=2")).status == 200


async def test_the_interval_counts_from_the_answer_if_that_was_late() -> None:
    async with serving(interval=2) as client:
        slow = client.ask("/?shard=0", slow=1.5)  # for each of two parts: longer than an interval
        await trio.sleep(MOMENT)
        granted = await answers([slow, client.ask("/?shard=1")])
        assert min(gaps(granted)) >= 2


async def test_a_client_that_does_not_take_its_answer_is_cut_off() -> None:
    async with serving() as client:
        stuck = client.ask("/?shard=0", slow=3600)
        await trio.sleep(MOMENT)
        other = client.ask("/?shard=1")
        await trio.sleep(FIRST + ANSWER_SECONDS + MOMENT)
        assert stuck.connection.was_cut
        stuck.leave()
        other.leave()


async def test_nothing_is_granted_before_the_limits_are_known() -> None:
    async with serving(token=True) as client:
        call = client.ask("/?shard=0")
        await trio.sleep(3600)
        assert call.answer is None
        assert (await client.get("/readyz")).status == 503
        client.queue.read(limit(), GATEWAY, trio.current_time())
        assert (await call.answered()).at == trio.current_time()
        assert (await client.get("/readyz")).status == 200


async def test_nobody_is_dropped_when_the_buckets_change() -> None:
    async with serving(token=True) as client:
        queue = client.queue
        queue.read(limit(), GATEWAY, trio.current_time())
        calls = {}
        for shard in range(48):
            calls[shard] = client.ask(f"/?shard={shard}")
            await trio.sleep(MOMENT)
        await trio.sleep(3.2 * INTERVAL)
        widened_at = trio.current_time()
        queue.read(limit(max_concurrency=16), GATEWAY, widened_at)
        await trio.sleep(1.5 * INTERVAL)
        narrowed_at = trio.current_time()
        queue.read(limit(max_concurrency=1), GATEWAY, narrowed_at)
        granted = {shard: await call.answered() for shard, call in calls.items()}
        narrow = [a for a in granted.values() if a.at < widened_at or a.at > narrowed_at]
        assert min(gaps(narrow)) >= INTERVAL
        for key in range(16):
            same_key = [answer for shard, answer in granted.items() if shard % 16 == key]
            assert min(gaps(same_key)) >= INTERVAL
        # Within one bucket the order of arrival outlives the changes.
        for key in range(16):
            instants = [granted[shard].at for shard in range(key, 48, 16)]
            assert instants == sorted(instants)


async def test_a_cap_never_parts_shards_of_one_key() -> None:
    async with serving(token=True, cap=4) as client:
        queue = client.queue
        queue.read(limit(max_concurrency=6), GATEWAY, trio.current_time())
        calls = {shard: client.ask(f"/?shard={shard}") for shard in range(48)}
        await trio.sleep(2.5 * INTERVAL)
        changed_at = trio.current_time()
        queue.read(limit(max_concurrency=16), GATEWAY, changed_at)
        granted = {shard: await call.answered() for shard, call in calls.items()}
        for max_concurrency, since, until in ((6, 0.0, changed_at), (16, changed_at, float("inf"))):
            for key in range(max_concurrency):
                same_key = [
                    answer
                    for shard, answer in granted.items()
                    if shard % max_concurrency == key and since <= answer.at < until
                ]
                assert all(gap >= INTERVAL for gap in gaps(same_key))


async def test_a_resize_at_the_instant_of_arrivals_loses_no_shard() -> None:
    async with serving(token=True, interval=0.01) as client:
        queue = client.queue
        queue.read(limit(100_000, 100_000), GATEWAY, trio.current_time())
        calls = []
        for round_ in range(200):
            calls += [client.ask(f"/?shard={shard}") for shard in range(5)]
            if round_ % 2:
                await trio.lowlevel.checkpoint()
            queue.read(
                limit(100_000, 100_000, max_concurrency=1 + round_ % 7),
                GATEWAY,
                trio.current_time(),
            )
            await trio.lowlevel.checkpoint()
        assert len(await answers(calls)) == 1000


@pytest.mark.parametrize("round_", range(20))
async def test_nobody_goes_before_those_who_move_to_other_buckets(round_: int) -> None:
    """A newcomer comes in the instant in which the limits are first known; they wait since long."""
    async with serving(token=True) as client:
        calls = []
        for shard in range(20):
            calls.append(client.ask(f"/?shard={shard}"))
            await trio.sleep(MOMENT)
        await trio.sleep(4 * INTERVAL)
        client.ask("/?shard=20")
        for _ in range(round_ % 4):
            await trio.lowlevel.checkpoint()
        client.queue.read(limit(max_concurrency=4), GATEWAY, trio.current_time())
        assert max(gaps(await answers(calls[:4]))) == 0


async def test_shards_that_arrive_leave_or_ask_while_seats_move_have_their_places() -> None:
    """They move a hundred at a time, so most of them have not come when the others go on."""
    async with serving(token=True, interval=0.01) as client:
        queue = client.queue
        queue.read(limit(100_000, 100_000), GATEWAY, trio.current_time())
        calls = [client.ask(f"/?shard={shard}") for shard in range(1000)]
        while queue.buckets[0].line.waiting < 1000:
            await trio.lowlevel.checkpoint()
        order = [turn.shard or 0 for turn in queue.buckets[0].line]
        queue.read(limit(100_000, 100_000, max_concurrency=3), GATEWAY, trio.current_time())
        calls[500].leave()
        calls[501].leave()
        await trio.lowlevel.checkpoint()
        calls[500] = client.ask("/?shard=500")
        page = json.loads((await client.get("/status/shards/502")).body)
        assert (page["state"], page["requests"]) == ("waiting", 1)
        assert sum(bucket.line.waiting for bucket in queue.buckets) < 999  # they still move
        queue.read(limit(100_000, 100_000, max_concurrency=2), GATEWAY, trio.current_time())
        order.remove(501)
        granted = {shard: (await calls[shard].answered()).at for shard in order}
        for key in range(2):
            instants = [at for shard, at in granted.items() if shard % 2 == key]
            assert instants == sorted(instants)
        assert calls[501].answer is None
        assert sum(bucket.line.away for bucket in queue.buckets) == 1


async def test_a_grant_on_its_way_blocks_every_bucket_it_may_belong_to() -> None:
    async with serving(token=True, interval=2) as client:
        queue = client.queue
        queue.read(limit(), GATEWAY, trio.current_time())
        slow = client.ask("/?shard=0", slow=2)
        await trio.sleep(FIRST * 2 / 5 + 1)  # it is granted, and its answer on the way
        others = [client.ask(f"/?shard={shard}") for shard in (1, 2, 3)]
        queue.read(limit(max_concurrency=4), GATEWAY, trio.current_time())
        handed_over_at = (await slow.answered()).at
        for answer in await answers(others):
            assert answer.at - handed_over_at >= 2


async def test_the_reserve_is_never_granted_until_a_reading_shows_a_reset() -> None:
    async with serving(token=True, reserve="5%") as client:
        queue = client.queue
        for _ in range(2):  # two exhaustions in a row
            queue.read(limit(remaining=52, reset_after=7200), GATEWAY, trio.current_time())
            calls = [client.ask(f"/?shard={shard}") for shard in range(5)]
            await trio.sleep(3600)
            assert sum(call.answer is not None for call in calls) == 2
            await trio.sleep(7200)  # the clock alone brings nothing back
            assert sum(call.answer is not None for call in calls) == 2
            queue.read(limit(remaining=1000), GATEWAY, trio.current_time())
            await answers(calls)
            await trio.sleep(READING_LAG + 1)


async def test_grants_that_a_reading_may_not_show_yet_are_taken_off_it() -> None:
    async with serving(token=True) as client:
        queue = client.queue
        queue.read(limit(remaining=10), GATEWAY, trio.current_time())
        await answers([client.ask(f"/?shard={shard}") for shard in range(3)])
        queue.read(limit(remaining=3), GATEWAY, trio.current_time())
        call = client.ask("/?shard=4")
        await trio.sleep(3600)
        assert call.answer is None
        queue.read(limit(remaining=3), GATEWAY, trio.current_time())
        assert (await call.answered()).status == 200


async def test_without_a_token_no_24_hours_see_more_than_the_daily_starts() -> None:
    async with serving(starts=10, reserve="2") as client:
        started_at = trio.current_time()
        granted = await answers([client.ask(f"/?shard={shard}") for shard in range(20)])
        instants = sorted(answer.at for answer in granted)
        for first, ninth in zip(instants, instants[8:], strict=False):
            assert ninth - first >= 86_400
        assert instants[-1] - started_at < 2 * 86_400 + 20 * INTERVAL


async def test_each_crossing_of_half_and_of_the_reserve_is_logged_once() -> None:
    with capture_logs() as logs:
        async with serving(starts=8, reserve="2") as client:
            calls = [client.ask(f"/?shard={shard}") for shard in range(7)]
            await trio.sleep(3600)
            assert sum(call.answer is not None for call in calls) == 6
    events = [entry["event"] for entry in logs if entry["log_level"] == "warning"]
    assert events == ["session_starts_half_used", "session_starts_reserve_reached"]


async def test_a_grant_that_cannot_be_recorded_is_not_given(tmp_path: Path) -> None:
    journal = journal_at(tmp_path / "journal.sqlite")
    other = sqlite3.connect(tmp_path / "journal.sqlite", isolation_level=None)
    with capture_logs() as logs:
        async with serving(journal=journal) as client:
            other.execute("BEGIN IMMEDIATE")  # now the journal cannot be written
            call = client.ask("/?shard=0")
            await trio.sleep(10 * INTERVAL)
            assert call.answer is None
            unready = await client.get("/readyz")
            assert unready.status == 503
            assert b"locked" in unready.body
            other.execute("ROLLBACK")
            assert (await client.get("/readyz")).status == 200
            freed_at = trio.current_time()
            assert (await call.answered()).at - freed_at <= INTERVAL
            assert len(journal.last_day()) == 1
    assert [entry["log_level"] for entry in logs].count("error") == 1
    other.close()


@pytest.mark.parametrize("step", [3600.0, -3600.0])
async def test_a_stepped_wall_clock_changes_no_gap(
    step: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving() as client:
        calls = [client.ask(f"/?shard={shard}") for shard in range(6)]
        await trio.sleep(2.5 * INTERVAL)
        stepped = time.time() + step
        monkeypatch.setattr(time, "time", lambda: stepped)
        assert gaps(await answers(calls)) == pytest.approx([INTERVAL] * 5)


async def test_a_day_of_waiting_is_held_without_an_answer() -> None:
    async with serving(starts=1) as client:
        await client.get("/?shard=0")
        granted_at = trio.current_time()
        assert (await client.get("/?shard=1")).at - granted_at >= 86_400
