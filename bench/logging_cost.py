"""What a log line costs the thread that logs it, and the process.

    python bench/logging_cost.py [--runs 5]

Each run is a separate process, which logs the line of a grant over and over to a pipe that is
being read: one line at a time, as for a single grant, or a hundred. In between it sleeps, so that
the writing thread catches up, as in a server that mostly waits.

caller    microseconds of CPU per line of the thread that logs, which is the one that grants
process   microseconds of CPU per line of all threads

The minimum of all runs is printed. It measures the version installed for the interpreter that
runs it: for another version, use that one's interpreter, or PYTHONPATH.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

STYLES = "console", "json"
PORTIONS = {1: 300, 100: 50}  # lines at a time, and how often
PAUSE = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        style, lines = options.run
        print(json.dumps(log_lines(style, int(lines))))
        return

    print("style    lines at a time   caller  process")
    for style in STYLES:
        for lines in PORTIONS:
            runs = [run(style, lines) for _ in range(options.runs)]
            caller, process = map(min, zip(*runs, strict=True))
            print(f"{style:7}  {lines:15}  {caller:7.1f}  {process:7.1f}", flush=True)


def run(style: str, lines: int) -> list[float]:
    command = [sys.executable, __file__, "--run", style, str(lines)]
    outcome = subprocess.run(command, capture_output=True, check=True)
    figures: list[float] = json.loads(outcome.stdout)
    return figures


def log_lines(style: str, lines: int) -> list[float]:
    """Microseconds per line, of this thread and of the process."""
    import structlog  # noqa: PLC0415 - only where it is measured

    from gateway_queue import log  # noqa: PLC0415

    log.configure("info", style)
    logger = structlog.get_logger()
    logger.info("listening")
    caller = process = 0
    for _ in range(PORTIONS[lines]):
        time.sleep(PAUSE)
        before, all_before = time.thread_time_ns(), time.process_time_ns()
        for shard in range(lines):
            logger.info("identify_granted", shard=shard, bucket=3, waited=12.345, late=0.000612)
        caller += time.thread_time_ns() - before
        time.sleep(PAUSE)
        process += time.process_time_ns() - all_before
    return [microseconds / 1000 / lines / PORTIONS[lines] for microseconds in (caller, process)]


if __name__ == "__main__":
    main()
