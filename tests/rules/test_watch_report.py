"""What ``gateway-queue status --watch`` shows of the feed."""

import json
from io import StringIO
from typing import Any

import pytest
from rich.console import Console
from verdicts import NOW, PAUSE

from gateway_queue.cli.watch_report import Watched, data_of


def message(shards: str | None, waiting: int, **changes: Any) -> bytes:
    summary: dict[str, Any] = {
        "obstacle": None,
        "waiting": waiting,
        "covered": waiting,
        "beside": 0,
        "all_in_in": 60.0,
        "others_in_in": 33.0,
        "back_in": None,
        "limits": {"failure": None},
        "paused": None,
    }
    data = {"summary": summary | changes, "changed": {}}
    return json.dumps(data | ({"shards": shards} if shards is not None else {})).encode()


def test_the_words_are_those_of_the_figures_and_the_shards() -> None:
    watched = Watched()
    watched.take(message("ijcwn", 3))
    its = watched.verdict(NOW)

    assert its.headline == "Everyone is in by 08:46"
    assert its.detail == "In 33 s. 2 shards wait, 2 of 5 are in; 1 in a crash loop comes later."


def test_requests_without_a_number() -> None:
    watched = Watched()
    watched.take(message("", 2, beside=2))

    assert "2 requests wait" in watched.verdict(NOW).detail


def test_a_change_is_news_and_the_time_is_not() -> None:
    watched = Watched()
    watched.take(message("ww", 2))
    before = watched.news
    watched.take(message(None, 2, others_in_in=32.0))
    assert watched.news == before

    change = json.loads(message(None, 1)) | {"changed": {"j": [1]}}
    watched.take(json.dumps(change).encode())
    assert watched.news != before
    assert "1 shard waits, 1 of 2 is in" in watched.verdict(NOW).detail


def test_a_pause_is_news() -> None:
    watched = Watched()
    watched.take(message("w", 1))
    before = watched.news
    watched.take(message(None, 1, obstacle="paused", paused=PAUSE))
    assert watched.news != before


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_any_width_will_do(width: int) -> None:
    watched = Watched()
    watched.take(message("i" * 1000 + "w" * 999, 999, obstacle="paused", paused=PAUSE))
    console = Console(file=StringIO(), width=width)

    with console.capture() as capture:
        console.print(watched.shown(NOW))

    lines = capture.get().splitlines()
    assert all(len(line) <= width for line in lines)
    assert lines[1].startswith("Paused, 999 shards")


def test_what_is_no_message() -> None:
    with pytest.raises(ValueError, match="summary"):
        Watched().take(b"{}")
    assert data_of(["event: whole", 'data: {"a": 1}']) == b'{"a": 1}'
