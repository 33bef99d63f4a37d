"""What ``gateway-queue status --watch`` shows of the feed."""

import json
from typing import Any

import pytest

from gateway_queue.cli.watch_report import Watched, data_of

PAUSE = {"reason": None, "began_ago": 1.0, "ends_in": None}


def message(shards: str | None, waiting: int, **changes: Any) -> bytes:
    summary: dict[str, Any] = {
        "obstacle": None,
        "waiting": waiting,
        "covered": waiting,
        "beside": 0,
        "all_in_in": 60.0,
        "others_in_in": 33.0,
        "paused": None,
    }
    data = {"summary": summary | changes, "changed": {}}
    return json.dumps(data | ({"shards": shards} if shards is not None else {})).encode()


@pytest.mark.parametrize(
    ("shards", "waiting", "changes", "line"),
    [
        ("iijw", 1, {}, "1 shard waits; 3 of 4 are in"),
        ("ijcwn", 3, {}, "2 shards wait; 2 of 5 are in"),
        ("iic", 1, {}, "Everyone else is in, 1 shard in a crash loop; 2 of 3 are in"),
        ("ii", 0, {}, "Everyone is in; 2 of 2 are in"),
        ("i.", 0, {}, "Nobody waits; 1 of 2 are in"),
        ("", 0, {}, "Nobody waits; 0 of 0 are in"),
        ("", 2, {"beside": 2}, "2 requests wait; 0 of 0 are in"),
        ("iwww", 3, {"covered": 1}, "1 of 3 shards can get in; 1 of 4 are in"),
        ("iw", 1, {"obstacle": "journal"}, "1 shard waits, nobody is let in; 1 of 2 are in"),
        ("i", 0, {"obstacle": "reserve"}, "Nobody can be let in; 1 of 1 are in"),
        ("iw", 1, {"obstacle": "paused", "paused": PAUSE}, "Paused, 1 shard waits; 1 of 2 are in"),
        ("i", 0, {"paused": PAUSE}, "Paused, nobody waits; 1 of 1 are in"),
    ],
)
def test_how_it_stands(shards: str, waiting: int, changes: dict[str, Any], line: str) -> None:
    watched = Watched()
    watched.take(message(shards, waiting, **changes))
    assert watched.line == line


def test_a_change() -> None:
    watched = Watched()
    watched.take(message("ww", 2))
    assert watched.within == 33
    change = json.loads(message(None, 1)) | {"changed": {"j": [1]}}
    watched.take(json.dumps(change).encode())
    assert watched.line == "1 shard waits; 1 of 2 are in"


def test_what_is_no_message() -> None:
    with pytest.raises(ValueError, match="summary"):
        Watched().take(b"{}")
    assert data_of(["event: whole", 'data: {"a": 1}']) == b'{"a": 1}'
