"""What a process says about its shards in line."""

import pytest

from gateway_queue.client import Standing
from gateway_queue.client.news import about, ordinal, wording


@pytest.mark.parametrize(
    ("standing", "number", "next_in", "says"),
    [
        (Standing(2, 8.2, "interval"), 1, 8.2, "shard 20: 2nd in line, about 8 s"),
        (Standing(1, 0.0, "interval"), 1, 0.0, "shard 20: 1st in line, about 1 s"),
        (Standing(3, None, "reserve"), 1, None, "shard 20: 3rd in line (reserve)"),
        (
            Standing(1, 3500.0, "crash_loop"),
            1,
            3500.0,
            "shard 20: 1st in line, about 58 min (crash loop)",
        ),
        (Standing(9, 47.0, "interval"), 37, 3.4, "37 shards wait; the next in about 3 s"),
        (Standing(9, None, "limits_unknown"), 37, None, "37 shards wait (limits unknown)"),
    ],
)
def test_the_line(standing: Standing, number: int, next_in: float | None, says: str) -> None:
    assert wording(20, standing, number, next_in) == says


@pytest.mark.parametrize(
    ("seconds", "says"),
    [
        (0.0, "about 1 s"),
        (119.4, "about 119 s"),
        (120.0, "about 2 min"),
        (7199.0, "about 120 min"),
        (7200.0, "about 2 h"),
    ],
)
def test_lengths(seconds: float, says: str) -> None:
    assert about(seconds) == says


def test_ordinals() -> None:
    numbers = [1, 2, 3, 4, 10, 11, 12, 13, 21, 22, 101, 111, 113, 1002]
    says = "1st 2nd 3rd 4th 10th 11th 12th 13th 21st 22nd 101st 111th 113th 1002nd"
    assert " ".join(map(ordinal, numbers)) == says
