"""What moves in a terminal: it never runs into the next line, and leaves nothing behind."""

import os

import pytest
from harness import SERVER, running_server
from raw import waiting
from terminal import CTRL_C, terminal

WIDTHS = [80, 40]


def environment(url: str) -> dict[str, str]:
    outside = {name: value for name, value in os.environ.items() if "GATEWAY_QUEUE" not in name}
    for name in ("COLUMNS", "NO_COLOR", "CI"):
        outside.pop(name, None)
    return outside | {"GATEWAY_QUEUE_URL": url}


@pytest.mark.parametrize("width", WIDTHS)
async def test_watching_until_ctrl_c(width: int) -> None:
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=100) as server,
        waiting(server, 3),
        terminal(
            *(*SERVER, "status", "--watch"), width=width, environment=environment(server.url)
        ) as shown,
    ):
        await shown.until(lambda screen: screen.redrawn >= 6, "third picture")
        shown.type(CTRL_C)
        assert await shown.ended() == 0

    screen = shown.screen
    assert screen.text.splitlines()[1].startswith("Everyone is in by")  # the last picture stays
    assert screen.text.count("Everyone is in by") == 1
    assert "1 shard waits" in " ".join(screen.text.split())
    assert screen.overflowed == []
    assert screen.shows_cursor
    assert screen.column == 0


@pytest.mark.parametrize("width", WIDTHS)
async def test_the_doctor_shows_what_it_does_and_then_what_it_found(width: int) -> None:
    async with (
        running_server() as server,
        terminal(
            *(*SERVER, "doctor", "--seconds", "2"),
            width=width,
            environment=environment(server.url),
        ) as shown,
    ):
        await shown.until(lambda screen: "Being held" in screen.text, "bar")
        assert await shown.ended() == 0

    screen = shown.screen
    assert "Being held for" not in screen.text
    assert "Leaving a request" not in screen.text
    assert "Nothing stands between" in screen.text
    assert screen.overflowed == []
    assert screen.shows_cursor
    assert screen.column == 0


async def test_the_doctor_is_stopped_by_ctrl_c() -> None:
    async with (
        running_server() as server,
        terminal(*SERVER, "doctor", width=80, environment=environment(server.url)) as shown,
    ):
        await shown.until(lambda screen: "Being held" in screen.text, "bar")
        shown.type(CTRL_C)
        assert await shown.ended() == 130

    screen = shown.screen
    assert "Being held for" not in screen.text
    assert "and then stopped" in screen.text
    assert screen.shows_cursor
    assert screen.column == 0
