"""What an operator orders over HTTP: what it does, and what it does not."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
from asgi import Answer, Call, Client
from journals import journal_at
from serving import FIRST, GATEWAY, INTERVAL, MOMENT, limit, serving
from structlog.testing import capture_logs

from gateway_queue.queue.rules.pace import CONFIRM_HOLD

KEY = "correct-horse-battery-staple"
HEADERS = {"Authorization": f"Bearer {KEY}"}


async def order(client: Client, method: str, path: str, body: object = None) -> Answer:
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    return await client.ask(f"/operator{path}", method, HEADERS, body=data).answered()


async def ordered(client: Client, method: str, path: str, body: object = None) -> None:
    answer = await order(client, method, path, body)
    assert answer.status in {200, 202, 204}, answer.body


async def state(client: Client, path: str = "/operator") -> dict[str, Any]:
    found = json.loads((await client.ask(path, headers=HEADERS).answered()).body)
    assert isinstance(found, dict)
    return found


async def asked(client: Client, *shards: int) -> dict[int, Call]:
    """Requests for these shards, in this order."""
    calls = {}
    for shard in shards:
        calls[shard] = client.ask(f"/?shard={shard}")
        await trio.sleep(MOMENT)
    return calls


def detail(answer: Answer) -> str:
    assert answer.headers["content-type"] == "application/problem+json"
    return str(json.loads(answer.body)["detail"])


class TestPause:
    async def test_nobody_is_granted_until_it_is_over(self) -> None:
        async with serving(operator_key=KEY) as client:
            await trio.sleep(FIRST)
            await ordered(client, "PUT", "/pause", {"reason": "the <b>database</b> is down"})
            held = client.ask("/?shard=1")
            told = json.loads((await client.get("/?shard=2&wait=600")).body)
            assert (told["reason"], told["expected_in"]) == ("paused", None)
            assert (await client.get("/readyz")).status == 200
            page = await state(client, "/status")
            assert page["obstacle"] == "paused"
            assert page["paused"] == {
                "reason": "the <b>database</b> is down",
                "began_ago": 600,
                "ends_in": None,
                "survives_restart": False,
            }
            assert not held.ended.is_set()
            resumed_at = trio.current_time()
            await ordered(client, "DELETE", "/pause")
            assert (await held.answered()).at == resumed_at
            assert (await state(client))["paused"] is None

    async def test_it_goes_on_at_the_bucket_s_own_opening(self) -> None:
        async with serving(operator_key=KEY) as client:
            first = await client.get("/?shard=1")
            await ordered(client, "PUT", "/pause")
            held = client.ask("/?shard=2")
            await trio.sleep(1)
            await ordered(client, "DELETE", "/pause")
            assert (await held.answered()).at - first.at == pytest.approx(INTERVAL, abs=0.01)

    async def test_it_ends_by_itself(self) -> None:
        with capture_logs() as logs:
            async with serving(operator_key=KEY) as client:
                await trio.sleep(FIRST)
                paused_at = trio.current_time()
                await ordered(client, "PUT", "/pause", {"for": 1800})
                assert (await state(client))["paused"]["ends_in"] == 1800
                assert (await client.get("/?shard=1")).at == paused_at + 1800
                await trio.sleep(MOMENT)
                assert (await state(client))["paused"] is None
        assert [line["by_itself"] for line in logs if line["event"] == "resumed"] == [True]

    async def test_another_one_replaces_it(self) -> None:
        async with serving(operator_key=KEY) as client:
            await trio.sleep(FIRST)
            began_at = trio.current_time()
            await ordered(client, "PUT", "/pause", {"for": 10, "reason": "one"})
            await ordered(client, "PUT", "/pause", {"for": 60, "reason": "two"})
            assert (await client.get("/?shard=1")).at == began_at + 60

    async def test_confirmations_departures_resizes_and_readings_continue(self) -> None:
        async with serving(token=True, operator_key=KEY) as client:
            client.queue.read(limit(max_concurrency=1), GATEWAY, trio.current_time())
            first = await client.get("/?shard=1&confirm=true")
            await ordered(client, "PUT", "/pause")
            await trio.sleep(1)
            assert (await client.get("/confirm?shard=1", "POST")).status == 204
            calls = [client.ask(f"/?shard={shard}") for shard in (2, 3, 4)]
            await trio.sleep(MOMENT)
            calls[0].leave()
            client.queue.read(limit(max_concurrency=2), GATEWAY, trio.current_time())
            await trio.sleep(MOMENT)
            assert [bucket.line.waiting for bucket in client.queue.buckets] == [1, 1]
            assert client.queue.buckets[0].line.away == 1
            await ordered(client, "DELETE", "/pause")
            answers = [await call.answered() for call in calls[1:]]
            assert [a.at - first.at for a in answers] == [pytest.approx(6.3, abs=0.01)] * 2


class TestRestart:
    """The journal keeps what was ordered."""

    async def test_pause_pace_and_forgiveness_survive(self, tmp_path: Path) -> None:
        path = tmp_path / "journal.sqlite"
        rule = "1/600"
        async with serving(operator_key=KEY, journal=journal_at(path), crash_loop=rule) as client:
            for _ in range(2):
                await client.get("/?shard=1")
            assert (await state(client, "/status/shards/1"))["level"] == 1
            await ordered(client, "DELETE", "/shards/1/crash-loop")
            await ordered(client, "PUT", "/pause", {"reason": "upgrade", "for": 3600})
            await ordered(client, "PUT", "/interval", {"seconds": 20})
            found = await state(client)
            assert found["paused"]["survives_restart"]
            assert found["interval"]["survives_restart"]
            await trio.sleep(600)
        with capture_logs() as logs:
            async with serving(
                operator_key=KEY, journal=journal_at(path), crash_loop=rule
            ) as client:
                began_at = trio.current_time()
                await trio.sleep(MOMENT)
                found = await state(client)
                assert found["paused"]["reason"] == "upgrade"
                assert found["paused"]["ends_in"] == pytest.approx(3000, abs=0.1)
                assert found["interval"]["current"] == 20
                shard = await state(client, "/status/shards/1")
                assert (shard["level"], shard["starts"]) == (0, 2)
                assert (await client.get("/?shard=1")).at == pytest.approx(began_at + 3000, abs=0.1)
        assert {"paused", "interval_changed", "resumed"} <= {line["event"] for line in logs}

    async def test_an_order_that_cannot_be_written_applies_and_cannot_be_ended(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "journal.sqlite"
        async with serving(operator_key=KEY, journal=journal_at(path)) as client:
            await ordered(client, "PUT", "/interval", {"seconds": 20})
            path.unlink()
            answer = await order(client, "DELETE", "/interval")
            assert answer.status == 503
            assert "nothing has changed" in detail(answer)
            await ordered(client, "PUT", "/pause", {"reason": "the disk"})
            found = await state(client)
            assert found["interval"]["current"] == 20
            assert found["paused"]["reason"] == "the disk"
            assert not found["paused"]["survives_restart"]

    async def test_what_is_over_does_not_come_back(self, tmp_path: Path) -> None:
        path = tmp_path / "journal.sqlite"
        async with serving(operator_key=KEY, journal=journal_at(path)) as client:
            await ordered(client, "PUT", "/pause", {"for": 60})
            await ordered(client, "PUT", "/interval", {"seconds": 60})
            await ordered(client, "DELETE", "/interval")
        await trio.sleep(60)
        async with serving(operator_key=KEY, journal=journal_at(path)) as client:
            found = await state(client)
            assert (found["paused"], found["interval"]["current"]) == (None, INTERVAL)


class TestInterval:
    async def test_it_counts_from_the_next_grant_on(self) -> None:
        async with serving(operator_key=KEY) as client:
            calls = list((await asked(client, *range(4))).values())
            await calls[0].answered()
            await ordered(client, "PUT", "/interval", {"seconds": 20})
            await calls[2].answered()
            await ordered(client, "DELETE", "/interval")
            at = [(await call.answered()).at for call in calls]
            gaps = [later - earlier for earlier, later in pairwise(at)]
            assert gaps == [pytest.approx(seconds, abs=0.1) for seconds in (INTERVAL, 20, 20)]

    async def test_a_confirmation_opens_the_bucket_no_sooner(self) -> None:
        async with serving(operator_key=KEY) as client:
            await ordered(client, "PUT", "/interval", {"seconds": 20})
            await client.get("/?shard=0&confirm=true")
            await ordered(client, "DELETE", "/interval")
            await trio.sleep(1)
            confirmed_at = trio.current_time()
            for outcome in ("identified", "ready"):
                said = await client.get(f"/confirm?shard=0&outcome={outcome}", "POST")
                assert said.status == 204
            second = await client.get("/?shard=1&confirm=true")
            assert second.at - confirmed_at == pytest.approx(20, abs=0.1)
            third = await client.get("/?shard=2")
            assert third.at - second.at == pytest.approx(CONFIRM_HOLD, abs=0.1)

    async def test_it_ends_by_itself_and_plans_know_of_it(self) -> None:
        async with serving(operator_key=KEY) as client:
            await ordered(client, "PUT", "/interval", {"seconds": 20, "for": 60})
            assert (await state(client, "/plan?shards=4"))["interval"] == 20
            found = (await state(client))["interval"]
            assert found == {
                "configured": INTERVAL,
                "current": 20,
                "ends_in": 60,
                "survives_restart": False,
            }
            await trio.sleep(60 + MOMENT)
            assert (await state(client, "/plan?shards=4"))["interval"] == INTERVAL


class TestShards:
    async def test_first_is_before_all_others_of_its_bucket(self) -> None:
        async with serving(buckets=2, operator_key=KEY) as client:
            calls = await asked(client, 0, 2, 4, 6, 1)
            await ordered(client, "PUT", "/shards/4/first")
            await ordered(client, "PUT", "/shards/6/first")
            await ordered(client, "PUT", "/shards/2/first")
            assert (await state(client))["first"] == [2, 6, 4]
            await ordered(client, "DELETE", "/shards/2/first")
            at = {shard: (await call.answered()).at for shard, call in calls.items()}
            assert sorted(at, key=lambda shard: (at[shard], shard)) == [1, 6, 4, 0, 2]
            assert (await state(client))["first"] == []

    async def test_it_overrides_no_crash_loop_and_survives_a_resize(self) -> None:
        async with serving(token=True, crash_loop="1/600", operator_key=KEY) as client:
            client.queue.read(limit(), GATEWAY, trio.current_time())
            for _ in range(2):
                last = await client.get("/?shard=4")
            calls = await asked(client, 2, 4, 6)
            await ordered(client, "PUT", "/shards/4/first")
            await ordered(client, "PUT", "/shards/6/first")
            client.queue.read(limit(max_concurrency=2), GATEWAY, trio.current_time())
            at = {shard: (await call.answered()).at - last.at for shard, call in calls.items()}
            assert at == {
                6: pytest.approx(INTERVAL, abs=0.1),
                2: pytest.approx(2 * INTERVAL, abs=0.1),
                4: pytest.approx(60, abs=0.1),
            }

    async def test_a_place_that_is_kept_may_be_first(self) -> None:
        async with serving(operator_key=KEY) as client:
            other, away = (await asked(client, 1, 2)).values()
            away.leave()
            await trio.sleep(MOMENT)
            await ordered(client, "PUT", "/shards/2/first")
            back = client.ask("/?shard=2")
            assert (await back.answered()).at < (await other.answered()).at

    async def test_dropped_requests_are_closed_unanswered(self) -> None:
        async with serving(operator_key=KEY) as client:
            calls = [client.ask("/?shard=1"), client.ask("/?shard=1&wait=60")]
            away = client.ask("/?shard=2")
            other = client.ask("/?shard=3")
            await trio.sleep(MOMENT)
            away.leave()
            await trio.sleep(MOMENT)
            for shard in (1, 2):
                await ordered(client, "DELETE", f"/shards/{shard}/seat")
                assert (await order(client, "DELETE", f"/shards/{shard}/seat")).status == 404
            for call in calls:
                await call.ended.wait()
                assert (call.answer, call.connection.was_cut) == (None, True)
            line = client.queue.buckets[0].line
            assert (line.waiting, line.away) == (1, 0)
            assert (await other.answered()).status == 200

    async def test_a_forgiven_shard_is_granted_as_if_it_had_never_been(self) -> None:
        async with serving(crash_loop="1/600", operator_key=KEY) as client:
            for _ in range(2):
                last = await client.get("/?shard=1")
            waits = client.ask("/?shard=1")
            await trio.sleep(MOMENT)
            await ordered(client, "DELETE", "/shards/1/crash-loop")
            assert (await order(client, "DELETE", "/shards/1/crash-loop")).status == 404
            assert (await waits.answered()).at - last.at == pytest.approx(INTERVAL, abs=0.1)

    @pytest.mark.parametrize(
        ("method", "action"),
        [("PUT", "first"), ("DELETE", "first"), ("DELETE", "seat"), ("DELETE", "crash-loop")],
    )
    async def test_nobody_s_shard_is_404(self, method: str, action: str) -> None:
        async with serving(operator_key=KEY) as client:
            answer = await order(client, method, f"/shards/7/{action}")
            assert (answer.status, "shard 7" in detail(answer)) == (404, True)
            assert (await order(client, method, f"/shards/x/{action}")).status == 400


class TestBodies:
    @pytest.mark.parametrize(
        ("body", "why"),
        [
            (b"{", "not a JSON object"),
            (b"[]", "not a JSON object"),
            (b"\xff", "not a JSON object"),
            ({"for": 0}, "for is 0; it must be a number of seconds above 0"),
            ({"for": -1}, "for is -1"),
            ({"for": 1e9}, "at most 2592000"),
            ({"for": "soon"}, 'for is "soon"'),
            ({"for": True}, "for is true"),
            (b'{"for": NaN}', "for is NaN"),
            (b'{"for": 1e999}', "for is Infinity"),
            ({"reason": "a\nb"}, "control character"),
            ({"reason": "\x1b[31m"}, "control character"),
            ({"reason": "x" * 301}, "at most 300 characters"),
            ({"reason": 5}, "reason is 5"),
            ({"resaon": "typo"}, "'resaon' is unknown; known are reason and for"),
        ],
    )
    async def test_a_pause_that_cannot_be_meant(self, body: object, why: str) -> None:
        async with serving(operator_key=KEY) as client:
            answer = await order(client, "PUT", "/pause", body)
            assert answer.status == 400
            assert why in detail(answer)
            assert (await state(client))["paused"] is None

    @pytest.mark.parametrize(
        ("body", "why"),
        [
            (None, "not a JSON object"),
            ({}, "seconds is missing"),
            ({"seconds": 5}, "more than the configured interval, which is 5.5"),
            ({"seconds": 5.5}, "more than the configured interval"),
            ({"seconds": 3601}, "at most 3600"),
            ({"seconds": False}, "seconds is false"),
            ({"seconds": 10, "for": 0}, "for is 0"),
        ],
    )
    async def test_a_pace_that_cannot_be_meant(self, body: object, why: str) -> None:
        async with serving(operator_key=KEY) as client:
            answer = await order(client, "PUT", "/interval", body)
            assert answer.status == 400
            assert why in detail(answer)

    async def test_a_body_may_not_be_long(self) -> None:
        async with serving(operator_key=KEY) as client:
            assert (await order(client, "PUT", "/pause", {"reason": "x" * 10_000})).status == 400
            assert (await order(client, "PUT", "/pause", {"reason": "x" * 20_000})).status == 413

    @pytest.mark.parametrize("reason", ["<script>alert(1)</script>", "\u202erevo", "ünïcode 🚀"])
    async def test_a_reason_is_text(self, reason: str) -> None:
        async with serving(operator_key=KEY) as client:
            await ordered(client, "PUT", "/pause", {"reason": reason})
            assert (await state(client))["paused"]["reason"] == reason


class TestKeys:
    async def test_without_one_every_action_is_forbidden(self) -> None:
        async with serving(api_key="other") as client:
            for method, path in [("GET", ""), ("PUT", "/pause"), ("POST", "/nothing")]:
                answer = await order(client, method, path)
                assert answer.status == 403
                assert "GATEWAY_QUEUE_OPERATOR_KEY" in detail(answer)

    async def test_it_is_all_that_is_needed(self) -> None:
        async with serving(operator_key=KEY, api_key="other") as client:
            assert (await order(client, "GET", "")).status == 200
            assert (await client.ask("/status", headers=HEADERS).answered()).status == 401
            other = {"Authorization": "Bearer other"}
            assert (await client.ask("/operator", headers=other).answered()).status == 401
            missing = await client.get("/operator")
            assert (missing.status, missing.headers["www-authenticate"]) == (401, "Bearer")

    async def test_guessing_is_limited_to_five_keys_a_second(self) -> None:
        async with serving(operator_key=KEY) as client:
            wrong = {"Authorization": "Bearer wrong"}
            tries = [await client.ask("/operator", headers=wrong).answered() for _ in range(7)]
            assert [answer.status for answer in tries] == [401] * 5 + [429] * 2
            assert tries[-1].headers["retry-after"] == "1"
            assert (await order(client, "GET", "")).status == 429
            await trio.sleep(1)
            assert (await order(client, "GET", "")).status == 200

    @pytest.mark.parametrize("site", ["cross-site", "same-site"])
    async def test_a_page_of_another_site_is_forbidden(self, site: str) -> None:
        async with serving(operator_key=KEY) as client:
            headers = HEADERS | {"Sec-Fetch-Site": site}
            answer = await client.ask("/operator/pause", "PUT", headers).answered()
            assert answer.status == 403
            headers["Sec-Fetch-Site"] = "same-origin"
            assert (await client.ask("/operator", "GET", headers).answered()).status == 200

    async def test_no_path_below_it_is_a_turn(self) -> None:
        async with serving(operator_key=KEY) as client:
            for path in ("/pause", "/shards/3/first", "/", "/anything", ""):
                answer = await client.ask(f"/operator{path}?shard=3", "PATCH", HEADERS).answered()
                assert answer.status in {404, 405}, path
            await trio.sleep(MOMENT)
            assert client.queue.buckets[0].line.waiting == 0


async def test_limits_that_are_counted_cannot_be_read() -> None:
    async with serving(operator_key=KEY) as client:
        assert (await order(client, "POST", "/limits/read")).status == 409


async def test_the_limits_are_read_on_demand_every_15_seconds_at_most() -> None:
    async with serving(token=True, operator_key=KEY) as client:
        assert (await order(client, "POST", "/limits/read")).status == 202
        await trio.sleep(5)
        again = await order(client, "POST", "/limits/read")
        assert (again.status, again.headers["retry-after"]) == (429, "10")
        await trio.sleep(10)
        assert (await order(client, "POST", "/limits/read")).status == 202
