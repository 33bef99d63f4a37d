"""Questions that cannot be meant: told so, at nobody's cost."""

import httpx
import pytest
from harness import running_server
from shards import GRANT, shards
from ways import on_one_server

pytestmark = pytest.mark.usefixtures("way")

WRONG = [
    "shard",
    "shard=",
    "shard=abc",
    "shard=-1",
    "shard=+1",
    "shard=%2B1",
    "shard=%201",
    "shard=1%20",
    "shard=1%0A",
    "shard=%00",
    "shard=1%00",
    "shard=1.0",
    "shard=1e3",
    "shard=0x10",
    "shard=1_000",
    "shard=4294967296",
    "shard=99999999999999999999",
    "shard=" + "1" * 5000,
    "shard=%D9%A4%D9%A2",  # 42 in Arabic-Indic digits, which Python's int() would take
    "shard=%C2%B2",  # superscript two, a digit for str.isdigit()
    "shard=%EF%BC%91",  # fullwidth one
    "shard=%FF",  # no UTF-8
    "shard=1&shard=2",
    "shard=1&shard=1",
    "shard=1&%73hard=1",
    "shard[]=1&shard=",
    "shard=1;2",
    "shard=null",
    "shard=%3Cscript%3E",
]

MEANT = {
    "/?shard=0": 0,
    "/?shard=4294967295": 4294967295,
    "/?shard=%34%32": 42,
    "/?%73hard=43": 43,
    "/?shard=0044": 44,
    "/?a=1&&shard=45&b": 45,
    "/any/prefix/?shard=46": 46,
    "/?Shard=1": None,
    "/?shard%5B%5D=1": None,
}
NOT_A_TURN = {
    "/favicon.ico": 404,
    "/robots.txt?shards=1": 404,
    "/healthz?shard=1": 200,
    "/readyz?shard=1": 200,
    "/readyz?shard=abc": 200,
    "/dashboard?shard=1": 200,
    "/openapi.json?shard=1": 200,
    "/plan?shard=1": 400,
    "/plan?shards=2&shard=1": 200,
}


async def test_malformed_requests_are_refused_and_cost_nothing() -> None:
    async with (
        running_server(
            GATEWAY_QUEUE_INTERVAL=0.5,
            GATEWAY_QUEUE_DAILY_STARTS=3,
            GATEWAY_QUEUE_RESERVE=0,
        ) as server,
        shards(server.url) as bot,
    ):
        for position, shard in enumerate([7, 8, 9], start=1):
            bot.ask(shard)
            await server.logged("identify_queued", shard=shard, position=position)
        for query in WRONG:
            await refuses(bot.client, query)
        grants = await bot.granted(3)
        for query in WRONG:
            await refuses(bot.client, query)
        reached = await server.logged("session_starts_reserve_reached")
        assert await server.stop() == 0

    assert [grant.shard for grant in grants] == [7, 8, 9]
    assert len(server.logged_so_far("identify_queued")) == 3
    assert len(server.logged_so_far("session_starts_reserve_reached")) == 1
    assert reached["remaining"] == 0


async def refuses(client: httpx.AsyncClient, query: str) -> None:
    answer = await client.get(f"/?{query}")
    problem = answer.json()
    assert (query, answer.status_code) == (query, 400)
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["status"] == 400
    assert "shard" in problem["detail"]
    assert len(problem["detail"]) < 500


async def test_what_is_unusual_but_meant_is_granted() -> None:
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=0.05) as server,
        httpx.AsyncClient(base_url=server.url) as client,
    ):
        for target in MEANT:
            answer = await client.get(target)
            assert (target, answer.status_code, answer.json()) == (target, 200, GRANT)
        granted = await server.logged_times(len(MEANT), "identify_granted")

    assert [line["shard"] for line in granted] == list(MEANT.values())


# A replica has these pages as any server.
@on_one_server
async def test_probes_and_other_pages_cost_nothing() -> None:
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=0.05) as server,
        httpx.AsyncClient(base_url=server.url) as client,
    ):
        for target, status in NOT_A_TURN.items():
            answer = await client.get(target)
            assert (target, answer.status_code) == (target, status)
        assert await server.stop() == 0

    assert not server.logged_so_far("identify_queued")


async def test_requests_without_a_number_are_warned_of_once_where_that_is_not_exact() -> None:
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=0.05, GATEWAY_QUEUE_MAX_CONCURRENCY=4) as server,
        shards(server.url) as bot,
    ):
        bot.ask(None, None, None)
        granted = await server.logged_times(3, "identify_granted")

    assert len(server.logged_so_far("shard_missing", level="warning")) == 1
    assert {line["bucket"] for line in granted} == {0}
