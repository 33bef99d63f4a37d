"""What the engine does, step by step, as a replica asks for it."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from engines import INSTALLED, Server, servers

from gateway_queue.replicas.engine import Engine, EraOverError

pytestmark = pytest.mark.skipif(not INSTALLED, reason="neither Redis nor Valkey is installed")

OFFER = {"offer": "1 bot 1", "bot": "bot"}


@pytest.fixture(params=INSTALLED)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    with servers(tmp_path) as make:
        yield make(request.param)


@pytest.fixture
async def engine(server: Server) -> AsyncIterator[Engine]:
    await server.start()
    async with Engine.at(server.url, "gq") as engine:
        yield engine


async def test_a_grant_of_which_a_part_is_lost_was_not_refused(
    server: Server, engine: Engine
) -> None:
    """Where keys are evicted, the one that says that it was taken may be the only one."""
    era = (await engine.join("one")).era
    led = await engine.lead(era, "one", (await engine.join("one")).term, "{}")
    leads = {"term": led.term, "offer": OFFER["offer"]}
    await engine.step("offer", era, **leads, to="one", entry="{}")
    await engine.step("take", era, **OFFER, number=1, row="[]", event="{}")
    async with server.client() as client:
        keys = await client.keys("gq:*")
        for key in keys - {"gq:state", "gq:events"}:
            await client.delete([key])
    with pytest.raises(EraOverError):
        await engine.step("withdraw", era, **leads)


async def test_an_offer_that_was_withdrawn_cannot_come_back(server: Server, engine: Engine) -> None:
    """Its withdrawal is lost, and then it is made, late."""
    joined = await engine.join("one")
    led = await engine.lead(joined.era, "one", joined.term, "{}")
    leads = {"term": led.term, "offer": OFFER["offer"]}
    await engine.step("withdraw", joined.era, **leads)
    async with server.client() as client:
        await client.delete([key for key in await client.keys("gq:*") if key != "gq:state"])
    with pytest.raises(EraOverError):
        await engine.step("offer", joined.era, **leads, to="one", entry="{}")
    again = await engine.join("one")
    assert again.era != joined.era
    assert (await engine.join("two")).era == again.era
