"""How the tests run: those in ``server`` on a mock clock, those with real sockets in real time."""

from inspect import iscoroutinefunction
from pathlib import Path

import pytest
from hypothesis import settings
from virtual import run_virtually

VIRTUAL = Path(__file__).parent / "server"

# On a shared machine an example may take its time.
settings.register_profile("gateway-queue", deadline=None)
settings.register_profile("soak", deadline=None, max_examples=20_000)
settings.load_profile("gateway-queue")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(VIRTUAL) and iscoroutinefunction(getattr(item, "obj", None)):
            item.add_marker(pytest.mark.trio(run=run_virtually), append=False)


@pytest.fixture(params=["short way", "through Hypercorn"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run an end-to-end test twice, once for each way on which requests are held.

    Its servers have the short way open at first, and then closed.
    """
    way: str = request.param
    if way == "through Hypercorn":
        monkeypatch.setattr("harness.changed_everywhere", ("short_way_is_closed",))
    return way
