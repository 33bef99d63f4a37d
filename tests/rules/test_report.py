"""What the terminal shows of a /status."""

import json
from io import BytesIO, StringIO, TextIOWrapper
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from gateway_queue.cli.report import MOST_BUCKETS_SHOWN, length, parse, report, shares

Json = dict[str, Any]

LIMITS = {
    "known": True,
    "source": "discord",
    "total": 1000,
    "remaining": 788,
    "reserve": 50,
    "reset_after": 50_580.0,
    "max_concurrency": 1,
}
UNKNOWN_LIMITS = LIMITS | {
    "known": False,
    "total": 0,
    "remaining": 0,
    "reserve": 0,
    "reset_after": None,
}


def document(*buckets: Json, limits: Json | None = None, **changes: Any) -> Json:
    """The /status of a server with these buckets, an empty one unless said otherwise."""
    return {
        "version": "1.2.3",
        "uptime": 11_520.5,
        "ready": True,
        "obstacle": None,
        "limits": LIMITS | (limits or {}),
        "last_24_hours": {"granted": 212, "shards": 64},
        "buckets": list(buckets) or [bucket(0)],
        "slowed_down": [],
        "seats": [],
    } | changes


def bucket(index: int, waiting: int = 0, away: int = 0, opens_in: float = 0.0) -> Json:
    return {"bucket": index, "waiting": waiting, "away": away, "opens_in": opens_in}


def seat(
    shard: int | None,
    position: int,
    expected_in: float | None,
    *,
    bucket: int = 0,
    reason: str = "interval",
) -> Json:
    return {
        "shard": shard,
        "bucket": bucket,
        "position": position,
        "expected_in": expected_in,
        "reason": reason,
        "waited": 1.5,
    }


def printed(document: Json, width: int = 80) -> str:
    """What a terminal that knows no colours shows, one space for any white space in a line."""
    console = Console(file=StringIO(), width=width, color_system=None, highlight=False)
    with console.capture() as capture:
        console.print(report(parse(json.dumps(document).encode()), "http://queue:8000"))
    lines = capture.get().splitlines()
    assert all(len(line) <= width for line in lines)
    return "\n".join(" ".join(line.split()) for line in lines)


def sentence(words: str) -> str:
    """The words without line breaks."""
    return " ".join(words.split())


# The server and its session starts


def test_nobody_waiting() -> None:
    words = printed(document(bucket(0), bucket(1)))

    assert words.startswith("Gateway Queue 1.2.3 at http://queue:8000, up 3h 12m\n")
    assert "State ready" in words
    assert "In line 0 waiting, 0 away" in words
    assert "Everyone in nobody waits" in words
    assert "Last 24 hours 212 grants to 64 shards" in words
    assert "Slowed down none" in words
    assert "2 buckets, all empty" in words


def test_the_session_starts_are_shown_in_their_parts() -> None:
    words = printed(document())

    assert "█ 212 used ░ 738 left ▓ 50 reserve" in words
    assert "of 1000 by Discord's count; reset in 14h 3m" in words
    bar = next(line for line in words.splitlines() if "██" in line).removeprefix("Session starts ")
    assert (bar.count("█"), bar.count("░"), bar.count("▓")) == (13, 44, 3)


def test_starts_that_are_counted_come_back_one_by_one() -> None:
    words = printed(document(limits={"source": "counted", "reset_after": 60.0}))

    assert "of 1000 in any 24 hours; the next comes back in 1m 0s" in words


def test_where_nothing_is_used_nothing_comes_back() -> None:
    words = printed(document(limits={"remaining": 1000}))

    assert "0 used" in words
    assert "reset" not in words


def test_limits_that_are_not_known() -> None:
    words = printed(
        document(
            bucket(0, waiting=1),
            limits=UNKNOWN_LIMITS,
            ready=False,
            obstacle="limits_unknown",
            seats=[seat(3, 1, None, reason="limits_unknown")],
        )
    )

    assert "State grants nothing: Discord has not yet told" in words
    assert "Session starts unknown" in words
    assert "Everyone in unknown\n" in words
    assert "3 in ?" in words
    assert "reserve" not in words


def test_the_reserve_is_reached() -> None:
    words = printed(
        document(
            bucket(0, waiting=1),
            limits={"remaining": 50},
            obstacle="reserve",
            seats=[seat(3, 1, None, reason="reserve")],
        )
    )

    assert "State grants nothing: only the reserve is left (50)" in words
    assert "950 used ░ 0 left ▓ 50 reserve" in words
    assert "Everyone in unknown: more are waiting than session starts are left" in sentence(words)


def test_not_even_a_reserve_is_left() -> None:
    words = printed(document(limits={"remaining": 0, "reserve": 0}, obstacle="reserve"))

    assert "State grants nothing: no session starts are left" in words
    assert "1000 used ░ 0 left ▓ 0 reserve" in words


def test_a_bot_without_any_session_starts() -> None:
    limits = {"total": 0, "remaining": 0, "reserve": 0, "reset_after": 0.0}

    assert "0 used ░ 0 left ▓ 0 reserve" in printed(document(limits=limits, obstacle="reserve"))


@pytest.mark.parametrize("obstacle", ["journal", None])
def test_a_journal_that_cannot_be_written(obstacle: str | None) -> None:
    words = printed(document(ready=False, obstacle=obstacle))

    assert "State grants nothing: the journal cannot be written" in words


def test_a_server_that_is_ending() -> None:
    assert "State ending" in printed(document(obstacle="ending"))


def test_a_newer_server_may_have_obstacles_of_its_own() -> None:
    words = printed(document(obstacle="paused", paused_by="somebody"))

    assert "State grants nothing, for a reason that this version does not know" in words


# The lines


def test_the_head_of_a_line_in_its_order() -> None:
    words = printed(
        document(
            bucket(0),
            bucket(1, waiting=4, away=2, opens_in=3.21),
            seats=[
                seat(5, 1, 3.21, bucket=1),
                seat(1, 2, 8.71, bucket=1),
                seat(None, 3, 14.21, bucket=1),
                seat(9, 4, 307.4, bucket=1),
            ],
        )
    )

    assert "State granting" in words
    assert "In line 4 waiting, 2 away" in words
    assert "Bucket Waiting Away Opens in 1st 2nd 3rd" in words
    assert "\n1 4 2 3.2s 5 in 3.2s 1 in 8.7s unnamed in 14s\n" in words
    assert "and 1 empty bucket" in words
    assert "Everyone in 5m 7s" in words


def test_a_line_in_which_all_are_away() -> None:
    words = printed(document(bucket(0, away=2)))

    assert "State ready" in words
    assert "\n0 0 2 open\n" in words + "\n"


def test_not_all_will_get_in_today() -> None:
    words = printed(
        document(
            bucket(0, waiting=2),
            limits={"remaining": 51},
            seats=[seat(0, 1, 0.0), seat(1, 2, None)],
        )
    )

    assert "State granting" in words
    assert "0 in 0.0s 1 in ?" in words
    assert "Everyone in unknown: more are waiting than session starts are left" in sentence(words)


def test_the_longest_of_many_lines_are_shown_and_the_others_summed_up() -> None:
    crowds = {index: index % 5 + 1 for index in range(0, 128, 2)}  # every other bucket is empty
    words = printed(
        document(
            *(bucket(index, crowds.get(index, 0), away=index % 2) for index in range(127)),
            bucket(127),
            seats=[
                seat(index + 128 * ahead, ahead + 1, 5.5 * ahead, bucket=index)
                for index, crowd in crowds.items()
                for ahead in range(crowd)
            ],
        )
    )

    lines = words.splitlines()
    table = lines[lines.index("Bucket Waiting Away Opens in 1st 2nd 3rd") + 1 :]
    assert len(table) == MOST_BUCKETS_SHOWN + 2
    rows = [[int(cell) for cell in line.split()[:2]] for line in table[:MOST_BUCKETS_SHOWN]]
    assert [index for index, _ in rows] == sorted(index for index, _ in rows)
    assert sorted(waiting for _, waiting in rows) == sorted(crowds.values())[-MOST_BUCKETS_SHOWN:]
    rest = sum(crowds.values()) - sum(waiting for _, waiting in rows)
    assert table[-2] == f"{127 - MOST_BUCKETS_SHOWN} more {rest} 63"
    assert table[-1] == "and 1 empty bucket"
    assert f"In line {sum(crowds.values())} waiting, 63 away" in words
    assert "Everyone in 22s" in words


# Crash loops


def test_a_crash_loop() -> None:
    words = printed(
        document(
            bucket(0, waiting=1),
            slowed_down=[
                {"shard": 7, "level": 1, "eligible_in": 52.4},
                {"shard": 3, "level": 7, "eligible_in": 3599.9},
            ],
            seats=[seat(7, 1, 52.4, reason="crash_loop")],
        )
    )

    assert "Slowed down shard 3 for 1h 0m (crash loop, level 7)" in words
    assert "\nshard 7 for 52s (crash loop, level 1)\n" in words
    assert "7 in 52s" in words
    assert "Everyone in 52s" in words


def test_many_crash_loops_are_summed_up() -> None:
    slowed = [{"shard": shard, "level": 1, "eligible_in": shard / 2} for shard in range(30)]
    words = printed(document(slowed_down=slowed))

    assert words.count("crash loop") == 8
    assert "Slowed down shard 29 for" in words
    assert "\nand 22 more\n" in words


# Terminals


CROWDED = document(
    *(bucket(index, waiting=9_999, away=999, opens_in=86_399.0) for index in range(20)),
    slowed_down=[{"shard": 4_294_967_295, "level": 12, "eligible_in": 3599.0}],
    seats=[
        seat(4_294_967_295, position, 86_399.0, bucket=index)
        for index in range(20)
        for position in (1, 2, 3)
    ],
)


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 200])
def test_any_width_will_do(width: int) -> None:
    for shown in (document(), CROWDED):
        printed(shown, width)  # which looks at the lines' widths


def test_what_is_likely_fits_80_columns_without_a_break() -> None:
    words = printed(
        document(
            *(bucket(index, waiting=1234, away=123, opens_in=599.0) for index in range(16)),
            seats=[
                seat(1024 + index, position, 599.0, bucket=index)
                for index in range(16)
                for position in (1, 2, 3)
            ],
        )
    )

    assert all(
        f"{index} 1234 123 9m 59s" + f" {1024 + index} in 9m 59s" * 3 in words
        for index in range(16)
    )


def test_a_terminal_gets_colours() -> None:
    file = StringIO()
    console = Console(file=file, force_terminal=True, color_system="standard", width=80)
    console.print(report(parse(json.dumps(document()).encode()), "http://queue:8000"))

    assert "\x1b[32mready" in file.getvalue()


def test_the_bar_has_an_ascii_form() -> None:
    file = TextIOWrapper(BytesIO(), encoding="ascii")
    Console(file=file, width=80).print(report(parse(json.dumps(document()).encode()), "http://q"))
    file.seek(0)

    words = file.read()
    assert "#############......" in words
    assert "# 212 used   . 738 left   = 50 reserve" in words


# What is no /status


@pytest.mark.parametrize(
    ("body", "trouble"),
    [
        (b"", "Invalid JSON"),
        (b"<html>", "Invalid JSON"),
        (b"\xff", "Invalid JSON"),
        (b"[]", "object"),
        (b"{}", "version: Field required"),
        (json.dumps(document(limits={"total": "many"})).encode(), "limits.total: "),
        (json.dumps(document(buckets=[{"bucket": 0}])).encode(), "buckets.0.waiting: "),
        (json.dumps(document(uptime=float("nan"))).encode(), "uptime: "),
        (json.dumps(document(version="\x1b[2J")).encode(), "version: "),
    ],
)
def test_what_is_no_status_is_refused(body: bytes, trouble: str) -> None:
    with pytest.raises(ValueError, match=trouble):
        parse(body)


# The small print


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1.0, "0.0s"),
        (0.0, "0.0s"),
        (0.04, "0.0s"),
        (9.94, "9.9s"),
        (9.96, "10s"),
        (59.4, "59s"),
        (59.6, "1m 0s"),
        (3599.4, "59m 59s"),
        (3599.6, "1h 0m"),
        (86_399.4, "23h 59m"),
        (86_399.6, "1d 0h"),
        (400 * 86_400.0, "400d 0h"),
    ],
)
def test_lengths_are_short(seconds: float, words: str) -> None:
    assert length(seconds) == words


@given(amounts=st.lists(st.integers(0, 10**9), min_size=3, max_size=3), width=st.integers(9, 60))
def test_a_bar_is_shared_out_fully_and_shows_whatever_is_there(
    amounts: list[int], width: int
) -> None:
    cells = shares(amounts, width)

    assert sum(cells) == (width if any(amounts) else 0)
    for amount, share in zip(amounts, cells, strict=True):
        assert (share > 0) == (amount > 0)
        assert abs(share - amount * width / (sum(amounts) or 1)) < 3
