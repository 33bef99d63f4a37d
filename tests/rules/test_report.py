"""What the terminal shows of a /status."""

import json
from io import BytesIO, StringIO, TextIOWrapper
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from verdicts import NOW, PAUSE

from gateway_queue.cli.report import MOST_BUCKETS_SHOWN, parse, report, shares

Json = dict[str, Any]

LIMITS = {
    "known": True,
    "source": "discord",
    "total": 1000,
    "remaining": 788,
    "reserve": 50,
    "reset_in": 50_580.0,
    "failure": None,
    "max_concurrency": 1,
}
UNKNOWN_LIMITS = LIMITS | {
    "known": False,
    "total": 0,
    "remaining": 0,
    "reserve": 0,
    "reset_in": None,
}


def document(*buckets: Json, limits: Json | None = None, **changes: Any) -> Json:
    """The /status of a server with these buckets, an empty one unless said otherwise."""
    waiting = sum(bucket["waiting"] for bucket in buckets)
    return {
        "version": "1.2.3",
        "uptime": 11_520.5,
        "ready": True,
        "obstacle": None,
        "limits": LIMITS | (limits or {}),
        "waiting": waiting,
        "waiting_slowed": 0,
        "away": sum(bucket["away"] for bucket in buckets),
        "covered": waiting,
        "all_in_in": 0.0,
        "others_in_in": 0.0,
        "back_in": 50_580.0,
        "recommended_shards": None,
        "last_24_hours": {"granted": 212, "shards": 64},
        "buckets": list(buckets) or [bucket(0)],
        "slowed_down": {"shards": 0, "longest": []},
    } | changes


def bucket(
    index: int, waiting: int = 0, away: int = 0, opens_in: float = 0.0, *seats: Json
) -> Json:
    return {
        "bucket": index,
        "waiting": waiting,
        "away": away,
        "opens_in": opens_in,
        "all_in_in": None if any(seat["expected_in"] is None for seat in seats) else 60.0,
        "next": list(seats),
    }


def seat(shard: int | None, expected_in: float | None, reason: str = "interval") -> Json:
    return {"shard": shard, "expected_in": expected_in, "reason": reason}


def slowed(shard: int | None, level: int, eligible_in: float, starts: int = 7) -> Json:
    return {"shard": shard, "level": level, "eligible_in": eligible_in, "starts": starts}


def printed(document: Json, width: int = 80) -> str:
    """What a terminal that knows no colours shows, one space for any white space in a line."""
    console = Console(file=StringIO(), width=width, color_system=None, highlight=False)
    with console.capture() as capture:
        console.print(report(parse(json.dumps(document).encode()), "http://queue:8000", NOW))
    lines = capture.get().splitlines()
    assert all(len(line) <= width for line in lines)
    return "\n".join(" ".join(line.split()) for line in lines)


def sentence(words: str) -> str:
    """The words without line breaks."""
    return " ".join(words.split())


# The server and its session starts


def test_nobody_waiting() -> None:
    words = printed(document(bucket(0), bucket(1)))

    assert words.startswith("Gateway Queue 1.2.3 at http://queue:8000, up 3 h 12 min\n")
    assert "\nEveryone is in\n64 shards asked and were let in.\n" in words
    assert "Last 24 hours 212 grants to 64 shards" in words
    assert "Crash loops none" in words
    assert "Away" not in words
    assert "2 buckets, all empty" in words


def test_the_session_starts_are_shown_in_their_parts() -> None:
    words = printed(document())

    assert "█ 212 used ░ 738 may be granted ▓ 50 in reserve" in words
    assert "of 1,000, as Discord said; back at 22:48, in 14 h 3 min" in words
    bar = next(line for line in words.splitlines() if "██" in line).removeprefix("Session starts ")
    assert (bar.count("█"), bar.count("░"), bar.count("▓")) == (13, 44, 3)


def test_starts_that_are_counted_come_back_one_by_one() -> None:
    words = printed(document(limits={"source": "counted", "reset_in": 60.0}))

    assert "of 1,000 in 24 hours, counted here; the first is back at 08:46," in sentence(words)


def test_where_nothing_is_used_nothing_comes_back() -> None:
    words = printed(document(limits={"remaining": 1000}))

    assert "0 used" in words
    assert "back" not in words


def test_limits_that_are_not_known() -> None:
    words = printed(
        document(
            bucket(0, 1, 0, 0.0, seat(3, None, "limits_unknown")),
            limits=UNKNOWN_LIMITS,
            ready=False,
            obstacle="limits_unknown",
            covered=0,
            all_in_in=None,
        )
    )

    assert "\n1 shard waits, nobody is let in\nDiscord has not said how many" in words
    assert "Session starts unknown" in words
    assert "\n0 1 0 held not known 3" in words
    assert "reserve" not in words


def test_why_the_limits_could_not_be_read() -> None:
    failure = {"error": "it answered 503\x1b[2J", "age": 42.0}
    words = printed(document(limits={"failure": failure}))

    assert "Last failure 42 s ago the limits could not be read: it answered 503?[2J" in words


def test_the_reserve_is_reached() -> None:
    words = printed(
        document(
            bucket(0, 1, 0, 0.0, seat(3, None, "reserve")),
            limits={"remaining": 50},
            obstacle="reserve",
            covered=0,
            all_in_in=None,
        )
    )

    assert "The reserve is reached. Nothing is granted until" in sentence(words)
    assert "950 used ░ 0 may be granted ▓ 50 in reserve" in words


def test_a_bot_without_any_session_starts() -> None:
    limits = {"total": 0, "remaining": 0, "reserve": 0, "reset_in": 0.0}
    words = printed(document(limits=limits, obstacle="reserve"))

    assert "0 used ░ 0 may be granted ▓ 0 in reserve" in words


def test_what_is_not_ready_lets_nobody_in() -> None:
    assert "\nNobody can be let in\n" in printed(document(ready=False))


def test_a_pause_of_an_operator() -> None:
    words = printed(document(obstacle="paused", paused=PAUSE | {"reason": "a launch\x1b"}))

    assert "\nPaused, nobody waits\n" in words
    assert "An operator paused the queue at 08:44: a launch?. It lasts until" in sentence(words)


# The lines


def test_the_replicas() -> None:
    one = {"name": "queue-0", "waiting": 1, "silent_for": 0.2, "leads": True}
    two = {"name": "queue-1", "waiting": 0, "silent_for": 12.4, "leads": False}
    shown = printed(document(replicas=[one, two]))

    assert "queue-0, which leads: 1 waits" in shown
    assert "queue-1: silent for 12 s" in shown
    assert "Replicas" not in printed(document())


def test_the_head_of_a_line_in_its_order() -> None:
    words = printed(
        document(
            bucket(0),
            bucket(1, 4, 2, 3.21, seat(5, 3.21), seat(1, 8.71), seat(None, 14.21)),
            others_in_in=307.4,
        )
    )

    assert "\nEveryone is in by 08:50\nIn 5 min 7 s. 4 shards wait," in words
    assert "Away 2, their places are kept" in words
    assert "Bucket Wait Away Next turn All in Next are" in words
    assert "\n1 4 2 in 3 s 08:46 5, 1, without a number\n" in words
    assert "and 1 empty bucket" in words


def test_a_line_in_which_all_are_away() -> None:
    words = printed(document(bucket(0, away=2)))

    assert "2 away" in words
    assert "\n0 0 2\n" in words + "\n"


def test_a_seat_that_may_go_now_and_one_that_nobody_can_tell() -> None:
    words = printed(
        document(
            bucket(0, 2, 0, 0.0, seat(0, 0.0), seat(1, None)),
            limits={"remaining": 51},
            covered=1,
            all_in_in=None,
        )
    )

    assert "\n1 of 2 shards can get in\n" in words
    assert "\n0 2 0 now not known 0, 1" in words


def test_the_longest_of_many_lines_are_shown_and_the_others_summed_up() -> None:
    crowds = {index: index % 5 + 1 for index in range(0, 128, 2)}  # every other bucket is empty
    words = printed(
        document(
            *(bucket(index, crowds.get(index, 0), away=index % 2) for index in range(127)),
            bucket(127),
        )
    )

    lines = words.splitlines()
    table = lines[lines.index("Bucket Wait Away Next turn All in Next are") + 1 :]
    assert len(table) == MOST_BUCKETS_SHOWN + 2
    rows = [[int(cell) for cell in line.split()[:2]] for line in table[:MOST_BUCKETS_SHOWN]]
    assert [index for index, _ in rows] == sorted(index for index, _ in rows)
    assert sorted(waiting for _, waiting in rows) == sorted(crowds.values())[-MOST_BUCKETS_SHOWN:]
    rest = sum(crowds.values()) - sum(waiting for _, waiting in rows)
    assert table[-2] == f"{127 - MOST_BUCKETS_SHOWN} more {rest} 63"
    assert table[-1] == "and 1 empty bucket"
    assert f"{sum(crowds.values())} shards wait, " in words


# Crash loops


def test_a_crash_loop() -> None:
    words = printed(
        document(
            bucket(0, 1, 0, 0.0, seat(7, 52.4, "crash_loop")),
            slowed_down={
                "shards": 3,
                "longest": [
                    slowed(3, 7, 3599.9, 14),
                    slowed(7, 1, 52.4),
                    slowed(None, 1, 52.3),
                ],
            },
        )
    )

    assert "Crash loops shard 3: 14 starts, next in 1 h 0 min\n" in words
    assert "\nshard 7: 7 starts, next in 52 s\n" in words
    assert "\nwithout a number: 7 starts, next in 52 s\n" in words


def test_many_crash_loops_are_summed_up() -> None:
    longest = [slowed(shard, 1, shard / 2) for shard in range(29, 19, -1)]
    words = printed(document(slowed_down={"shards": 30, "longest": longest}))

    assert words.count("next in") == 8
    assert "Crash loops shard 29: 7 starts" in words
    assert "\nand 22 more\n" in words


# Terminals


CROWDED = document(
    *(
        bucket(index, 9_999, 999, 86_399.0, *[seat(4_294_967_295, 86_399.0)] * 3)
        for index in range(20)
    ),
    slowed_down={"shards": 1, "longest": [slowed(4_294_967_295, 12, 3599.0)]},
    recommended_shards=100_000,
)


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 200])
def test_any_width_will_do(width: int) -> None:
    for shown in (document(), CROWDED):
        printed(shown, width)  # which looks at the lines' widths


def test_likely_output_fits_into_80_columns() -> None:
    words = printed(
        document(
            *(
                bucket(index, 1234, 123, 599.0, *[seat(1024 + index, 599.0)] * 3)
                for index in range(16)
            )
        )
    )

    assert all(
        f"\n{index} 1,234 123 in 9 min 59 s 08:46 {', '.join([str(1024 + index)] * 3)}" in words
        for index in range(16)
    )


def test_a_terminal_gets_colours() -> None:
    file = StringIO()
    console = Console(file=file, force_terminal=True, color_system="standard", width=80)
    console.print(report(parse(json.dumps(document()).encode()), "http://queue:8000", NOW))

    assert "\x1b[1;32mEveryone is in" in file.getvalue()


def test_the_bar_has_an_ascii_form() -> None:
    file = TextIOWrapper(BytesIO(), encoding="ascii")
    Console(file=file, width=80).print(
        report(parse(json.dumps(document()).encode()), "http://q", NOW)
    )
    file.seek(0)

    words = file.read()
    assert "#############......" in words
    assert "# 212 used   . 738 may be granted   = 50 in reserve" in words


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


@given(amounts=st.lists(st.integers(0, 10**9), min_size=3, max_size=3), width=st.integers(9, 60))
def test_a_bar_is_shared_out_fully_and_shows_whatever_is_there(
    amounts: list[int], width: int
) -> None:
    cells = shares(amounts, width)

    assert sum(cells) == (width if any(amounts) else 0)
    for amount, share in zip(amounts, cells, strict=True):
        assert (share > 0) == (amount > 0)
        assert abs(share - amount * width / (sum(amounts) or 1)) < 3
