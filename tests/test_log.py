"""The log: its order, and what becomes of it when nobody reads.

In a process of its own, whose standard error is a pipe.
"""

import json
import subprocess
import sys
from typing import Any

from patience import PATIENCE

from gateway_queue.log import MOST_LINES

HEAD = """
import logging, sys, structlog
from gateway_queue import log as our_log
our_log.FLUSH_SECONDS = 60.0  # as a busy machine may need
our_log.configure("info", "json")
log = structlog.get_logger()

def next_step():
    print(flush=True)
    sys.stdin.readline()
"""


def program(steps: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HEAD + steps],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def rest_of(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """What it logs if it goes on."""
    _, words = process.communicate("\n", timeout=PATIENCE)
    return [json.loads(line) for line in words.splitlines()]


FLOOD = f"""
for number in range(2 * {MOST_LINES}):
    log.info("line", number=number)
print(our_log.writer.dropped, end="")
next_step()
"""


def test_lines_come_in_the_order_in_which_they_were_logged_down_to_the_last() -> None:
    with program("""
for number in range(0, 3_000, 2):
    log.info("ours", number=number)
    logging.getLogger("theirs").warning("%d", number + 1)
""") as process:
        lines = rest_of(process)

    numbers = [line.get("number", line["event"]) for line in lines]
    assert [int(number) for number in numbers] == list(range(3_000))
    assert sorted(lines, key=lambda line: str(line["timestamp"])) == lines
    assert lines[1]["logger"] == "theirs"


def test_lines_that_nobody_reads_are_dropped_and_counted() -> None:
    with program(FLOOD + "our_log.writer.flush(); log.info('after')") as process:
        assert process.stdout is not None
        dropped = int(process.stdout.readline())
        *lines, count, last = rest_of(process)

    assert dropped > MOST_LINES / 2
    assert [line["number"] for line in lines] == list(range(2 * MOST_LINES - dropped))
    assert (count["event"], count["lines"]) == ("log_lines_dropped", dropped)
    assert count["level"] == "warning"
    assert last["event"] == "after"


def test_the_end_of_the_process_reports_dropped_lines() -> None:
    with program(FLOOD) as process:
        assert process.stdout is not None
        dropped = int(process.stdout.readline())
        *_, last = rest_of(process)

    assert (last["event"], last["lines"]) == ("log_lines_dropped", dropped)


def test_a_reader_that_has_stopped_does_not_hold_up_the_end() -> None:
    short = "our_log.FLUSH_SECONDS = 1.0\n"
    with program(short + FLOOD + "our_log.writer.flush(); raise RuntimeError") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.wait(timeout=PATIENCE) == 1


def test_a_reader_that_has_left_costs_lines_and_nothing_else() -> None:
    with program("""
next_step()
for number in range(100):
    log.info("line", number=number)
our_log.writer.flush()
print(our_log.writer.dropped)
""") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stderr.close()
        process.stdin.write("\n")
        process.stdin.flush()
        assert int(process.stdout.readline()) == 100
        assert process.wait(timeout=PATIENCE) == 0


def test_a_traceback_shows_no_variables() -> None:
    with program("""
def fail(secret):
    raise RuntimeError("sabotage")
try:
    fail("never to be" + " seen")
except RuntimeError:
    log.exception("failed")
    logging.getLogger("theirs").exception("failed as well")
""") as process:
        ours, theirs = rest_of(process)

    for line in (ours, theirs):
        assert line["exception"].endswith("RuntimeError: sabotage")
        assert "never to be seen" not in line["exception"]
        assert "exc_info" not in line
