"""How the tests run: those in ``server`` on a mock clock, those with real sockets in real time."""

from collections.abc import Iterator
from inspect import iscoroutinefunction
from pathlib import Path

import pytest
import trio
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


@pytest.fixture(scope="session")
def any_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Redis or Valkey, for all tests to which it is of no interest which one."""
    from engines import INSTALLED, servers  # noqa: PLC0415 - beside the end-to-end tests

    if not INSTALLED:
        pytest.skip("neither Redis nor Valkey is installed")
    with servers(tmp_path_factory.mktemp("engine")) as make:
        server = make(INSTALLED[-1])
        trio.run(server.start)
        yield server.url


@pytest.fixture(params=["short way", "through Hypercorn", "at a replica"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run an end-to-end test three times: for each way on which requests are held.

    Its servers have the short way open at first, and then closed. At last each of them is one
    of two replicas, and the other one leads.
    """
    way: str = request.param
    if way == "through Hypercorn":
        monkeypatch.setattr("harness.changed_everywhere", ("short_way_is_closed",))
    if way == "at a replica":
        monkeypatch.setattr("harness.engine", request.getfixturevalue("any_engine"))
    return way
