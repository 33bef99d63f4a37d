"""What a request asks for, whatever bytes it is made of."""

from collections.abc import Callable
from typing import TypeVar, get_args
from urllib.parse import quote_from_bytes, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_queue.http.asking import (
    LARGEST_SHARD,
    LONGEST_PROBE,
    LONGEST_WAIT,
    RESERVED,
    Ask,
    Confirmation,
    Problem,
    ask_of,
    confirmation_of,
    has_body,
    launch_of,
    path_of,
    probe_of,
)
from gateway_queue.operate.plan import LONGEST_INTERVAL, MOST_SHARDS, Launch
from gateway_queue.queue.rules.allowance import MOST_BUCKETS
from gateway_queue.queue.rules.pace import Outcome

T = TypeVar("T")

SHARDS = st.integers(0, LARGEST_SHARD)
WAITS = st.floats(0, LONGEST_WAIT, exclude_min=True)
NAMES = st.sampled_from(
    [b"shard", b"wait", b"confirm", b"outcome", b"shards", b"Shard", b"token", b""]
)
PIECES = st.tuples(NAMES, st.sampled_from([b"=", b"", b"%3D", b"=="]), st.binary(max_size=20))
QUERIES = st.binary(max_size=200) | st.builds(
    b"&".join, st.lists(PIECES.map(b"".join) | st.just(b"shard=1"), max_size=5)
)
PATHS = st.sampled_from(["/", "/queue/", *RESERVED]) | st.text(max_size=20).map("/{}".format)


def understood(parse: Callable[..., T], *about: object) -> T | Problem:
    try:
        return parse(*about)
    except Problem as problem:
        return problem


@given(target=st.binary(max_size=50) | st.just(b"/bots/x/operator/pause"))
def test_only_an_operator_has_something_to_say(target: bytes) -> None:
    assert not has_body(target) or b"operator" in target


@given(path=PATHS, query=QUERIES)
def test_any_bytes_are_a_turn_a_page_or_a_problem(path: str, query: bytes) -> None:
    ask = understood(ask_of, path, query)

    if path.rstrip("/") in RESERVED:
        assert ask is None
    elif isinstance(ask, Problem):
        assert ask.status == 400
    elif ask is not None:
        assert ask.shard is None or 0 <= ask.shard <= LARGEST_SHARD
        assert ask.wait is None or 0 < ask.wait <= LONGEST_WAIT
        assert ask.shard is not None or path == "/"


@given(query=QUERIES)
def test_any_bytes_confirm_a_shard_or_are_a_problem(query: bytes) -> None:
    confirmation = understood(confirmation_of, query)

    if isinstance(confirmation, Problem):
        assert confirmation.status == 400
    else:
        assert 0 <= confirmation.shard <= LARGEST_SHARD


@given(query=QUERIES | st.binary(max_size=20).map(b"hold=%b&id=abcdefgh".__mod__))
def test_any_bytes_are_a_probe_or_a_problem(query: bytes) -> None:
    probe = understood(probe_of, query)

    if isinstance(probe, Problem):
        assert probe.status == 400
    else:
        assert probe.hold is None or 0 < probe.hold <= LONGEST_PROBE
        assert probe.name is None or 8 <= len(probe.name) <= 32
        assert probe.hold is not None or probe.name is not None


@given(query=QUERIES, configured=st.floats(0.1, LONGEST_INTERVAL))
def test_any_bytes_are_a_launch_or_a_problem(query: bytes, configured: float) -> None:
    launch = understood(launch_of, query, configured)

    if isinstance(launch, Problem):
        assert launch.status == 400
    else:
        assert 1 <= launch.shards <= MOST_SHARDS


@given(
    shards=st.integers(1, MOST_SHARDS),
    interval=st.none() | st.floats(5, LONGEST_INTERVAL),
    max_concurrency=st.none() | st.integers(1, MOST_BUCKETS),
)
def test_a_launch_is_understood(
    shards: int, interval: float | None, max_concurrency: int | None
) -> None:
    given = {"shards": shards, "interval": interval, "max_concurrency": max_concurrency}
    query = urlencode({name: value for name, value in given.items() if value is not None})

    assert launch_of(query.encode(), 5.5) == Launch(shards, interval, max_concurrency)


@given(target=st.text() | st.text().map("http://{}".format))
def test_any_target_has_a_path_or_is_a_problem(target: str) -> None:
    path = understood(path_of, target)

    if isinstance(path, Problem):
        assert path.status == 400
    else:
        assert path


@given(shard=SHARDS, wait=WAITS | st.none(), confirm=st.booleans(), others=st.binary(max_size=9))
def test_what_was_meant_is_understood(
    shard: int, wait: float | None, *, confirm: bool, others: bytes
) -> None:
    given = {"x": quote_from_bytes(others), "shard": shard}
    if wait is not None:
        given["wait"] = repr(wait)
    if confirm:
        given["confirm"] = "true"

    assert ask_of("/any", urlencode(given).encode()) == Ask(shard, wait, confirm)


def test_a_confirmation_that_kept_its_prefix_takes_no_turn() -> None:
    assert ask_of("/queue/confirm", b"shard=0") is None


@given(
    shard=SHARDS,
    grant=st.none() | st.integers(0, 2**53),
    outcome=st.none() | st.sampled_from(get_args(Outcome)),
)
def test_a_confirmation_is_understood(
    shard: int, grant: int | None, outcome: Outcome | None
) -> None:
    given = {"shard": shard, "grant": grant, "outcome": outcome}
    query = urlencode({name: value for name, value in given.items() if value is not None})

    said = Confirmation(shard, grant, outcome or "identified")
    assert confirmation_of(query.encode()) == said


@pytest.mark.parametrize("wait", ["19.999731540679932", "1e-05", "5E-3", "86400", "8.64e4"])
def test_a_wait_may_be_what_is_left_of_a_deadline(wait: str) -> None:
    assert ask_of("/", f"shard=0&wait={wait}".encode()) == Ask(0, float(wait))


@pytest.mark.parametrize(
    "wait", ["0", "0.0", "1e-400", "-1", "+1", "nan", "1e9", ".5", "5.", "1_0"]
)
def test_a_wait_is_no_such_number(wait: str) -> None:
    with pytest.raises(Problem, match="wait is"):
        ask_of("/", urlencode({"shard": 0, "wait": wait}).encode())
