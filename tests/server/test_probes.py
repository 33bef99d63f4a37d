"""Probes: held like a turn, and never one."""

import json
from typing import Any

import pytest
import trio
from asgi import Client
from serving import FIRST, MOMENT, serving
from structlog.testing import capture_logs

from gateway_queue.http.probes import MOST_HELD, MOST_NAMED

KEY = "correct-horse-battery-staple"
NAME = "5f0c9a1e"


async def told(client: Client, name: str = NAME) -> Any:
    """What the server says of a probe."""
    answer = await client.get(f"/probe?id={name}")
    assert answer.headers["content-type"] == "application/json"
    return json.loads(answer.body)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("target", ["/probe?hold=40", "/probe?shard=3&hold=40&wait=1"])
async def test_it_is_held_for_its_time_and_takes_no_turn(target: str, method: str) -> None:
    async with serving() as client:
        answer = await client.get(target, method)
        assert (answer.status, answer.body) == (204, b"")
        assert answer.at == pytest.approx(40, abs=0.01)
        assert client.queue.starts.last_day.granted(trio.current_time()) == 0


async def test_it_is_in_nobodys_way() -> None:
    async with serving() as client:
        probe = client.ask("/probe?hold=900")
        turn = await client.get("/?shard=0")
        assert turn.status == 200
        assert turn.at == pytest.approx(FIRST, abs=0.01)
        assert (await probe.answered()).at == pytest.approx(900, abs=0.01)


async def test_the_outcome_of_a_named_probe_can_be_queried() -> None:
    async with serving() as client:
        assert (await client.get(f"/probe?id={NAME}")).status == 404
        probe = client.ask(f"/probe?hold=5&id={NAME}")
        await trio.sleep(2)
        assert await told(client) == {"state": "held", "held": pytest.approx(2, abs=0.01)}
        await probe.answered()
        await trio.sleep(60)
        assert await told(client) == {"state": "answered", "held": pytest.approx(5, abs=0.01)}


async def test_a_client_that_leaves_is_noticed_and_logged() -> None:
    with capture_logs() as logs:
        async with serving() as client:
            probe = client.ask(f"/probe?hold=300&id={NAME}")
            await trio.sleep(7)
            probe.leave()
            await probe.ended.wait()
            await client.get("/probe?hold=1")
            assert await told(client) == {"state": "left", "held": pytest.approx(7, abs=0.01)}
    lines = [line for line in logs if line["event"] == "probe_ended"]
    assert [(round(line["held"]), line["hold"], line["left"]) for line in lines] == [
        (7, 300, True),
        (1, 1, False),
    ]
    assert {line["log_level"] for line in lines} == {"info"}


async def test_at_the_servers_end_it_ends_at_once() -> None:
    async with serving() as client:
        probe = client.ask(f"/probe?hold=300&id={NAME}")
        await trio.sleep(7)
        await probe.connection.context.terminated.set()
        answer = await probe.answered()
        assert answer.status == 503
        assert answer.at == pytest.approx(7, abs=0.01)
        assert json.loads(answer.body)["detail"] == "the server is shutting down"
        assert (await told(client))["state"] == "answered"


async def test_only_so_many_are_held_at_a_time() -> None:
    async with serving() as client:
        first, *_ = [client.ask("/probe?hold=100") for _ in range(MOST_HELD)]
        await trio.sleep(MOMENT)
        assert (await client.get("/probe?hold=100")).status == 503
        first.leave()
        await trio.sleep(MOMENT)
        assert (await client.get("/probe?hold=1")).status == 204


async def test_only_the_latest_are_remembered() -> None:
    async with serving() as client:
        for number in range(MOST_NAMED + 1):
            await client.get(f"/probe?hold=0.01&id=number{number:04}")
        assert (await client.get("/probe?id=number0000")).status == 404
        assert (await told(client, "number0001"))["state"] == "answered"


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("", "hold is missing"),
        ("shard=1", "hold is missing"),
        ("hold=", "hold is ''"),
        ("hold=0", "hold is '0'"),
        ("hold=-1", "hold is '-1'"),
        ("hold=901", "at most 900"),
        ("hold=1e9", "at most 900"),
        ("hold=nan", "hold is 'nan'"),
        ("hold=soon", "hold is 'soon'"),
        ("hold=1&hold=1", "hold is given more than once"),
        ("id=", "id is ''"),
        ("id=short", "8 to 32 letters or digits"),
        (f"id={33 * 'x'}", "8 to 32 letters or digits"),
        ("hold=1&id=%1b%5b2J%00%00%00%00", "8 to 32 letters or digits"),
    ],
)
async def test_what_cannot_be_meant_is_refused(query: str, detail: str) -> None:
    async with serving() as client:
        answer = await client.get(f"/probe?{query}")
        assert answer.status == 400
        assert detail in json.loads(answer.body)["detail"]


async def test_who_may_not_probe() -> None:
    async with serving(api_key=KEY) as client:
        authorized = {"Authorization": f"Bearer {KEY}"}
        assert (await client.get("/probe?hold=1")).status == 401
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            wrong = await client.ask("/probe?hold=1", method, authorized).answered()
            assert (wrong.status, wrong.headers["allow"]) == (405, "GET, HEAD")
        other_site = authorized | {"Sec-Fetch-Site": "cross-site"}
        assert (await client.ask("/probe?hold=1", "GET", other_site).answered()).status == 403
        assert (await client.ask("/probe?hold=1", "GET", authorized).answered()).status == 204
