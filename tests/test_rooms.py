"""Every room of the server imports only from rooms nearer to the heart.

Read from the source with ``ast``, so that it also holds for imports inside functions and
under ``TYPE_CHECKING``.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "gateway_queue"

# From the heart to the street. Rooms on one floor do not know each other.
FLOORS = [
    {"queue/rules"},
    {"queue"},
    {"log.py", "redis_url.py"},
    {"keeper", "operate", "watch", "discord.py", "settings.py", "no_proxy.py"},
    {"bot.py", "lobby.py", "replicas", "roster.py"},
    {"bots.py"},
    {"http"},
    {"server.py"},
    {"asgi.py", "cli"},
    {"__main__.py"},
]

# What a bot installs stands beside the house: it knows nothing of the server, and only the
# command knows it.
CLIENT = "client"

# The libraries of these rooms; all others may use what they like.
LIBRARIES = {"queue/rules": set(), "queue": {"trio"}, CLIENT: {"anyio", "httpx"}}

# Input and output that neither the heart nor its rules have.
OUTSIDE = {"asyncio", "logging", "os", "pathlib", "select", "socket", "sqlite3", "ssl", "time"}

MODULES = sorted(SOURCE.rglob("*.py"))


def room_of(module: Path) -> str:
    """The folder of a module; its own name where it is in none."""
    inside = module.relative_to(SOURCE)
    return inside.name if inside.parent == Path() else inside.parent.as_posix()


def imports(module: Path) -> Iterator[str]:
    """The full names of the modules that this one imports."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_entered(module: Path) -> set[str]:
    entered = set()
    for name in imports(module):
        first, *inner = name.split(".")
        file = SOURCE.joinpath(*inner).with_suffix(".py")
        if first == "gateway_queue" and inner and file.is_file():
            entered.add(room_of(file))
    return entered


def floor_of(room: str) -> int:
    return next(floor for floor, rooms in enumerate(FLOORS) if room in rooms)


def test_every_module_is_in_a_room() -> None:
    known = set().union(*FLOORS, {CLIENT, "__init__.py"})

    assert {room_of(module) for module in MODULES} == known


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_room_imports_only_from_rooms_nearer_to_the_heart(module: Path) -> None:
    room = room_of(module)
    others = rooms_entered(module) - {room}

    if room in {CLIENT, "__init__.py"}:
        assert others == set()
    elif room == "cli":
        others.discard(CLIENT)
    assert [other for other in others if floor_of(other) >= floor_of(room)] == []


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_the_heart_and_the_client_need_few_libraries(module: Path) -> None:
    room = room_of(module)
    if room not in LIBRARIES:
        return
    used = {name.partition(".")[0] for name in imports(module)} - {"gateway_queue"}

    assert used - sys.stdlib_module_names <= LIBRARIES[room]
    if room != CLIENT:
        assert used & OUTSIDE == set()
