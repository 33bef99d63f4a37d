"""What all the figures come to, in a terminal. The page says the same: see ``test_browser.py``."""

import json
from collections import Counter
from typing import Any

import pytest
from verdicts import LENGTHS, NOW, OVERVIEWS, PLANS, VERDICTS

from gateway_queue.cli import plan_report
from gateway_queue.cli.report import validated
from gateway_queue.cli.verdict import counts_of, verdict, verdict_of_all
from gateway_queue.cli.watch_report import Summary
from gateway_queue.cli.words import length, measured


@pytest.mark.parametrize("case", VERDICTS)
def test_the_words_for_how_a_queue_stands(case: str) -> None:
    figures, shards, state, headline, detail, banner = VERDICTS[case]
    noun = "request" if figures["beside"] else "shard"

    its = verdict(summary(figures), Counter(shards), NOW, noun=noun)

    assert (its.state, its.headline, its.detail) == (state, headline, detail)
    assert (its.banner and f"{its.banner.title} {its.banner.text}") == banner


def summary(figures: dict[str, Any]) -> Summary:
    return validated(Summary, json.dumps(figures).encode())


@pytest.mark.parametrize("case", OVERVIEWS)
def test_the_words_for_how_several_bots_stand(case: str) -> None:
    bots, strangers, state, headline, detail = OVERVIEWS[case]
    verdicts = []
    for bot in bots:
        totals = ("waiting", "waiting_slowed", "away", "shards", "recommended_shards")
        counts = counts_of(*(bot[total] for total in totals))
        its = verdict(summary(bot), counts, NOW, ready=bot["ready"])
        verdicts.append((bot["name"], bot["waiting"], its))

    its = verdict_of_all(verdicts, sum(bot["waiting"] for bot in bots), strangers, NOW)

    assert (its.state, its.headline, its.detail) == (state, headline, detail)


@pytest.mark.parametrize("case", PLANS)
def test_the_words_for_a_plan(case: str) -> None:
    plan, words = PLANS[case]

    parsed = plan_report.parse(json.dumps(plan).encode())

    assert " ".join(plan_report.sentences(parsed, NOW)) == words


def test_the_words_for_a_length_of_time() -> None:
    assert {seconds: length(seconds) for seconds in LENGTHS} == LENGTHS


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-1.0, "0.0 s"), (0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (61.0, "1 min 1 s")],
)
def test_what_was_measured_has_tenths_where_it_is_short(seconds: float, words: str) -> None:
    assert measured(seconds) == words


def test_what_a_terminal_would_obey_is_not_said() -> None:
    pause = {"reason": "\x1b[2J", "began_ago": 1.0, "ends_in": None, "survives_restart": True}
    figures = VERDICTS["paused"][0] | {"paused": pause}

    its = verdict(summary(figures), {}, NOW)

    assert its.banner is not None
    assert ": ?[2J. " in its.banner.text
