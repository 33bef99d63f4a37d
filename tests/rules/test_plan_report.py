"""What the terminal shows of a /plan, and what can be planned there."""

import json
from io import StringIO
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from gateway_queue.cli.main import main
from gateway_queue.cli.plan_report import parse, report

LIMITS = {
    "source": "discord",
    "total": 4000,
    "remaining": 3250,
    "reserve": 200,
    "reset_in": 28_861.2,
}


def words(limits: dict[str, Any] | None = None, **changes: Any) -> list[str]:
    """The lines that a terminal shows, one space for any white space."""
    document = {
        "shards": 2000,
        "max_concurrency": 16,
        "buckets": 16,
        "interval": 5.5,
        "takes": 682.0,
        "waiting": 557,
        "all_in_in": 874.5,
        "obstacle": None,
        "missing": 0,
        "limits": LIMITS | (limits or {}),
        "of_a_newer_version": True,
    } | changes
    console = Console(file=StringIO(), width=100, color_system=None, highlight=False)
    with console.capture() as capture:
        plan = parse(json.dumps(document).encode())
        console.print(report(plan, "at http://queue:8000"))
    return [" ".join(line.split()) for line in capture.get().splitlines()]


def test_a_launch_that_the_starts_cover() -> None:
    assert words() == [
        "Plan for 2000 shards at http://queue:8000",
        "",
        "Pace 16 buckets, 5.5s between grants in each",
        "These take 11m 22s",
        "Before them 557 waiting",
        "All of these in 14m 34s",
        "Session starts enough: 2557 needed, 3050 left",
        "of 4000 by Discord's count, 200 in reserve",
    ]


def test_starts_that_are_missing_come_back_with_discords_reset() -> None:
    assert words({"remaining": 1643}, all_in_in=None, missing=1114)[-3:] == [
        "All of these in unknown: there are not enough session starts left",
        "Session starts 1114 missing: 2557 needed, 1443 left",
        "of 4000 by Discord's count, 200 in reserve; reset in 8h 1m",
    ]


def test_starts_that_are_counted_come_back_one_by_one() -> None:
    shown = words({"source": "counted", "remaining": 150}, all_in_in=None, missing=2557)

    assert "2557 needed, 0 left" in shown[-2]
    assert "of 4000 in any 24 hours, 200 in reserve; the next comes back in" in shown[-1]


def test_something_is_in_the_way() -> None:
    (line,) = (line for line in words(all_in_in=None, obstacle="journal") if "unknown" in line)

    assert line.startswith("All of these in unknown: nothing is granted at the moment;")


def test_one_shard_and_one_bucket() -> None:
    shown = words(shards=1, buckets=1, takes=0.0, waiting=0)

    assert shown[0].startswith("Plan for 1 shard at")
    assert "Pace 1 bucket, 5.5s between grants in each" in shown
    assert "Before them nobody waits" in shown


@given(body=st.binary(max_size=50) | st.just(b'{"shards": 1e999}'))
def test_what_is_no_plan_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse(body)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_a_length_is_finite(number: str) -> None:
    body = json.dumps({"takes": 0.5}).replace("0.5", number).encode()

    with pytest.raises(ValueError, match=r".+"):
        parse(body)


# What cannot be meant


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "Missing argument"),
        (["0"], "0 is not in the range"),
        (["1000001"], "is not in the range"),
        (["many"], "'many' is not a valid integer"),
        (["9", "--max-concurrency", "0"], "--max-concurrency"),
        (["9", "--starts", "0"], "--starts"),
        (["9", "--starts", "5", "--interval", "4.9"], "5<=x<=3600"),
        (["9", "--starts", "5", "--interval", "nan"], "5<=x<=3600"),
        (["9", "--starts", "5", "--url", "http://queue"], "without a server"),
        (["9", "--starts", "5", "--bot", "mine"], "without a server"),
    ],
)
def test_what_cannot_be_planned_is_told(arguments: list[str], word: str) -> None:
    outcome = CliRunner().invoke(main, ["plan", *arguments])

    assert outcome.exit_code == 2
    assert word in outcome.output
