"""What the terminal shows of the /status of several bots."""

import json
from io import StringIO
from typing import Any

import pytest
from rich.console import Console
from verdicts import NOW

from gateway_queue.cli.bots_report import is_of_several, parse, report

LIMITS = {
    "known": True,
    "source": "discord",
    "total": 1000,
    "remaining": 788,
    "reserve": 50,
    "reset_in": 50_580.0,
    "failure": None,
}


def bot(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "ready": True,
        "obstacle": None,
        "paused": None,
        "waiting": 0,
        "waiting_slowed": 0,
        "away": 0,
        "covered": changes.get("waiting", 0),
        "all_in_in": 60.0,
        "others_in_in": 60.0,
        "back_in": None,
        "slowed_down": 0,
        "granted": 14,
        "shards": 12,
        "recommended_shards": None,
        "limits": LIMITS,
    } | changes


def overview(*bots: dict[str, Any], **changes: Any) -> bytes:
    return json.dumps(
        {
            "version": "1.2.3",
            "ready": True,
            "waiting": 0,
            "unknown_bot_waiting": 0,
            "bots": bots,
            "faults": [],
        }
        | changes
    ).encode()


def shown(body: bytes) -> list[str]:
    text = StringIO()
    console = Console(file=text, width=100, highlight=False)
    console.print(report(parse(body), "http://queue.test", NOW))
    return [line.rstrip() for line in text.getvalue().splitlines()]


def test_each_bot_has_a_line_and_those_in_trouble_come_first() -> None:
    refused = bot("b", ready=False, obstacle="limits_unknown", limits=LIMITS | {"known": False})

    lines = shown(overview(bot("a", waiting=3), refused, bot("c"), waiting=3))

    assert lines[0] == "Gateway Queue 1.2.3 at http://queue.test"
    assert lines[2:4] == [
        "1 of 3 bots lets nobody in",
        "3 shards wait at 1 bot. Stopped: b.",
    ]
    assert [" ".join(line.split()) for line in lines[6:]] == [
        "b Nobody can be let in 0 0 0 ? 12",
        "Discord has not said how many session starts",
        "are left.",
        "a Everyone is in by 08:46 3 0 0 738 12",
        "c Everyone is in 0 0 0 738 12",
    ]


def test_errors_are_shown_without_control_characters() -> None:
    fault = {"file": "x\x1b[31m.toml", "error": "it is \a not TOML"}

    assert shown(overview(faults=[fault]))[-1] == "x?[31m.toml: it is ? not TOML"


@pytest.mark.parametrize("body", [overview(bot("\x1b[31m")), overview(bots=5), b'{"bots": []}'])
def test_what_is_no_overview_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"bots|version"):
        parse(body)


def test_the_status_of_one_bot_is_another() -> None:
    assert is_of_several(overview())
    assert not is_of_several(b'{"buckets": []}')
    with pytest.raises(ValueError, match="JSON"):
        is_of_several(b"{")
