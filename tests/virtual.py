"""Runs a test on a clock that jumps to the next deadline: an hour of waiting takes no time."""

from collections.abc import Awaitable, Callable

import trio
from trio.testing import MockClock


def run_virtually(test: Callable[[], Awaitable[None]], **_: object) -> None:
    trio.run(test, clock=MockClock(autojump_threshold=0))
