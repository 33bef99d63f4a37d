"""What was granted before a start is unknown, but for what the journal can prove."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from asgi import Client
from journals import journal_at, journal_in_memory
from serving import FIRST, INTERVAL, serving

from gateway_queue.queue.rules.allowance import DAY
from gateway_queue.queue.rules.pace import CONFIRM_HOLD

HOUR = 3600.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


@asynccontextmanager
async def started(path: Path | None) -> AsyncIterator[Client]:
    journal = journal_at(path) if path else journal_in_memory()
    async with serving(buckets=2, journal=journal) as client:
        yield client


async def first_grant(path: Path | None) -> float:
    """Seconds from a start to its first grant, in either of two buckets."""
    began_at = trio.current_time()
    async with started(path) as client:
        calls = [client.ask("/?shard=0"), client.ask("/?shard=1")]
        first, second = [(await call.answered()).at for call in calls]
    assert first == second
    return first - began_at


async def test_after_plain_grants_it_takes_one_interval(path: Path) -> None:
    async with started(path) as client:
        await client.get("/?shard=0")
    for _ in range(2):
        assert await first_grant(path) == pytest.approx(INTERVAL)


async def test_the_past_is_unknown_in_memory_and_with_a_new_file(path: Path) -> None:
    for place in (None, None, path):
        assert await first_grant(place) == pytest.approx(FIRST)


async def test_a_journal_without_a_grant_proves_nothing(path: Path) -> None:
    async with started(path):
        pass
    assert await first_grant(path) == pytest.approx(FIRST)


@pytest.mark.parametrize(
    "happens", ["nothing", "memory", "loss", "clock an hour on", "clock two days on"]
)
async def test_a_turn_to_be_confirmed_has_its_ten_seconds_whatever_happens(
    happens: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = None if happens == "memory" else path
    async with started(path) as client:
        await client.get("/?shard=1")
    async with started(place) as client:
        granted_at = (await client.get("/?shard=0&confirm=true")).at
        if happens == "clock an hour on":
            set_clock(HOUR, monkeypatch)
        if happens == "clock two days on":
            set_clock(2 * DAY, monkeypatch)
            await client.get("/?shard=1")  # rows of more than a day ago are removed now and then
    if happens == "loss":
        for file in path.parent.iterdir():
            file.unlink()
    async with started(place) as client:
        assert (await client.get("/?shard=0")).at - granted_at >= CONFIRM_HOLD


def set_clock(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + seconds)
