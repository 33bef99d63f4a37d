"""Runs a test on clocks that jump to the next deadline: an hour of waiting takes no time."""

import time
from collections.abc import Awaitable, Callable
from unittest.mock import patch

import trio
from trio.testing import MockClock


def run_virtually(test: Callable[[], Awaitable[None]], **_: object) -> None:
    """The wall clock goes with trio's, as it does in a real process."""
    clock = MockClock(autojump_threshold=0)
    started_at = time.time()
    with patch("time.time", lambda: started_at + clock.current_time()):
        trio.run(test, clock=clock)
