"""What the engine does, step by step, as a replica asks for it."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

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


async def led(engine: Engine) -> tuple[str, dict[str, Any]]:
    """An era in which replica ``one`` leads, and what names its term."""
    joined = await engine.join("one")
    return joined.era, {"term": (await engine.lead(joined.era, "one", joined.term, "{}")).term}


async def lose(server: Server, *but: str) -> None:
    """Delete all keys but these, as evictions may."""
    async with server.client() as client:
        await client.delete([key for key in await client.keys("gq:*") if key not in but])


async def test_a_grant_of_which_a_part_is_lost_was_not_refused(
    server: Server, engine: Engine
) -> None:
    """Where keys are evicted, the one that says that it was taken may be the only one."""
    era, leads = await led(engine)
    await engine.step("offer", era, **leads, offer=OFFER["offer"], to="one", entry="{}")
    await engine.step("take", era, **OFFER, number=1, row="[]", event="{}")
    await lose(server, "gq:state", "gq:events")
    with pytest.raises(EraOverError):
        await engine.step("withdraw", era, **leads, offer=OFFER["offer"])


@pytest.mark.parametrize("lost", ["gq:grants:bot", "gq:numbers"])
@pytest.mark.parametrize("step", ["lead", "take"])
async def test_an_era_ends_where_its_grants_are_lost(
    server: Server, engine: Engine, lost: str, step: str
) -> None:
    """Among them may be one with `confirm`, for which a new leader has to wait longer."""
    era, leads = await led(engine)
    await engine.step("offer", era, **leads, offer=OFFER["offer"], to="one", entry="{}")
    await engine.step("take", era, **OFFER, number=1, row="[]", event="{}")
    await engine.step("offer", era, **leads, offer="another", to="one", entry="{}")
    async with server.client() as client:
        await client.delete([lost])
    given: dict[str, Any] = {**leads, "replica": "two", "settings": "{}"}
    if step == "take":
        given = {**OFFER, "offer": "another", "number": 2, "row": "[]", "event": "{}"}
    with pytest.raises(EraOverError):
        await engine.step(step, era, **given)
    with pytest.raises(EraOverError):
        await engine.beat(era, "one")

    again = await engine.join("one")
    assert again.era != era
    leads = {"term": (await engine.lead(again.era, "one", again.term, "{}")).term}
    await engine.step("offer", again.era, **leads, offer="third", to="one", entry="{}")
    third = {**OFFER, "offer": "third"}
    assert await engine.step("take", again.era, **third, number=2, row="[]", event="{}") == {}
    await engine.lead(again.era, "one", leads["term"], "{}")


async def test_an_offer_that_was_withdrawn_cannot_come_back(server: Server, engine: Engine) -> None:
    """Its withdrawal is lost, and then it is made, late."""
    era, leads = await led(engine)
    await engine.step("withdraw", era, **leads, offer=OFFER["offer"])
    await lose(server, "gq:state")
    with pytest.raises(EraOverError):
        await engine.step("offer", era, **leads, offer=OFFER["offer"], to="one", entry="{}")
    again = await engine.join("one")
    assert again.era != era
    assert (await engine.join("two")).era == again.era


async def test_news_go_on_where_those_before_are_lost(server: Server, engine: Engine) -> None:
    """With numbers that only grow: those of a clock could be lower than the ones before."""
    era, _ = await led(engine)
    for text in "1", "2":
        await engine.step("tell", era, event=text)
        await engine.step("say", era, to="two", entry=text)
    before = await engine.news(era, "two", 0, 0)
    await lose(server, "gq:state", "gq:offers", "gq:beats")
    await engine.step("tell", era, event="3")
    await engine.step("say", era, to="two", entry="3")
    after = await engine.news(era, "two", before.events[-1][0], before.entries[-1][0])

    assert [event for _, event in before.events[1:]] == [1, 2]  # the first is that one leads
    assert before.entries == [(1, 1), (2, 2)]
    assert after.events == [(before.events[-1][0] + 1, 3)]
    assert after.entries == [(3, 3)]


async def test_whoever_has_heard_more_than_there_is_begins_an_era(engine: Engine) -> None:
    """The same Redis has an earlier state again."""
    era, _ = await led(engine)
    joined = await engine.join("two", era, events=1)
    assert joined.era == era
    assert (await engine.join("two", "another", events=2)).era == era
    again = await engine.join("two", era, events=2)
    assert again.era != era
    assert again.term > joined.term


async def test_a_version_that_keeps_its_state_differently_has_eras_of_its_own(
    server: Server, engine: Engine
) -> None:
    """Older versions had nothing in front of the run id."""
    era, _ = await led(engine)
    async with server.client() as client:
        run = await client.hget("gq:state", "run")
        assert run is not None
        await client.hset("gq:state", {"run": run.partition("-")[2]})
    with pytest.raises(EraOverError):
        await engine.beat(era, "one")
    assert (await engine.join("one")).era != era
