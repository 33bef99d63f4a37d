"""What the terminal shows of a /plan, and what can be planned there."""

import json
from io import StringIO
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from verdicts import NOW, PLAN

from gateway_queue.cli.main import main
from gateway_queue.cli.plan_report import parse, report


def words(**changes: Any) -> list[str]:
    """The lines that a terminal shows."""
    console = Console(file=StringIO(), width=90, color_system=None, highlight=False)
    with console.capture() as capture:
        plan = parse(json.dumps(PLAN | changes | {"of_a_newer_version": True}).encode())
        console.print(report(plan, "at http://queue:8000", NOW))
    return [line.rstrip() for line in capture.get().splitlines()]


def test_a_launch_that_the_starts_cover() -> None:
    assert words() == [
        "Plan for 2,000 shards at http://queue:8000",
        "",
        "16 buckets, one shard every 5.5 s in each.",
        "3,050 of 4,000 session starts may be granted, 200 are in reserve.",
        "",
        "2,000 shards in 16 buckets take 11 min 22 s. 557 wait before them. If they ask now, all",
        "are in by 09:00, in 14 min 35 s. There are enough session starts, with 493 to spare.",
    ]


def test_one_shard_and_one_bucket() -> None:
    shown = words(shards=1, buckets=1, takes=0.0, waiting=0)

    assert shown[0].startswith("Plan for 1 shard at")
    assert "1 bucket, one shard every 5.5 s in each." in shown


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
