"""What ``/metrics`` says of the limits."""

import re

import trio
from asgi import Client
from serving import GATEWAY, limit, serving
from test_docs import METRICS, name, rows

from gateway_queue.queue.rules.allowance import ReadAllowance
from gateway_queue.watch import scrape


async def age(client: Client) -> float | None:
    page = (await client.get("/metrics")).body.decode()
    ages = [line for line in page.splitlines() if line.startswith("gateway_queue_limits_age")]
    return float(ages[0].split()[1]) if ages else None


async def test_the_age_of_the_limits_counts_from_when_discord_was_asked() -> None:
    async with serving(token=True) as client:
        assert await age(client) is None
        asked_at = trio.current_time()
        await trio.sleep(2)
        client.queue.read(limit(), GATEWAY, asked_at)
        await trio.sleep(40)
        assert await age(client) == 42

        allowance = client.queue.starts.allowance
        assert isinstance(allowance, ReadAllowance)
        allowance.withdraw()
        assert await age(client) is None


async def test_limits_that_are_counted_here_are_always_fresh() -> None:
    async with serving() as client:
        await trio.sleep(40)
        assert await age(client) == 0


class OneReplica:
    replicas = 1
    leads = True
    engine_is_up = True
    waiting = 0
    eras = 1


async def test_each_metric_is_documented() -> None:
    documented = [name(row[0]) for row in rows(METRICS) if row[0].startswith("`gateway_queue_")]
    async with serving() as client:
        bots = client.app.bots
        everybody = list(bots.by_name.values())
        page = await scrape.page(everybody, bots.metrics, bots.lobby.guests, OneReplica())

    assert sorted(documented) == sorted(re.findall(r"^# TYPE (\w+)", page.decode(), re.MULTILINE))
