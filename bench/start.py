"""How long the server takes from its start until it listens.

    python bench/start.py [--against PYTHON ...] [--runs 10] [--cold]

starts ``python -m gateway_queue`` again and again, each time on a free port with a journal in
memory, and waits for the line that says where it listens. ``--against`` names the interpreters of
other installed versions; they take turns with this one, so that a busy machine affects all alike.

warm    everything it reads is in the page cache
cold    the page cache is dropped before each start (/proc/sys/vm/drop_caches), which needs root

Seconds; the minimum and the median of all runs:

SIGTERM    until SIGTERM has a handler (/proc/PID/status)
listening  until that line is logged
CPU        of the process until then
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

CACHES = Path("/proc/sys/vm/drop_caches")
TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--against", action="append", default=[], metavar="PYTHON")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--cold", action="store_true", help="instead of warm")
    options = parser.parse_args()
    state = "cold" if options.cold else "warm"
    runs: dict[str, list[tuple[float, ...]]] = {
        python: [] for python in (sys.executable, *options.against)
    }
    for number in range(1 + options.runs):
        for python, figures in runs.items():
            if options.cold:
                os.sync()
                CACHES.write_text("3")
            figure = start(python)
            if number:  # the first one may have to compile
                figures.append(figure)

    print("              SIGTERM        listening          CPU")
    print("            min   median    min   median    min   median")
    for python, figures in runs.items():
        columns = [
            f"{min(column):5.2f}   {median(column):5.2f}" for column in zip(*figures, strict=True)
        ]
        print(f"{state}      {'   '.join(columns)}    {python}")


def start(python: str) -> tuple[float, ...]:
    """Seconds until this interpreter's version heeds SIGTERM and until it listens, and of CPU."""
    ours = ["GATEWAY_QUEUE_", "DISCORD_TOKEN", "HOST", "PORT", "PYTHONDONTWRITE"]
    if python != sys.executable:
        ours.append("PYTHONPATH")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(tuple(ours))}
    settings = {"HOST": "127.0.0.1", "PORT": "0", "GATEWAY_QUEUE_JOURNAL": "memory"}
    began_at = time.monotonic()
    with subprocess.Popen(
        [python, "-m", "gateway_queue"], env=inherited | settings, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        proc = Path("/proc") / str(process.pid)
        while not caught(proc) >> (signal.SIGTERM - 1) & 1:
            assert process.poll() is None, "the server ended"
            time.sleep(0.001)
        heeded = time.monotonic() - began_at
        while b"listening" not in (line := process.stderr.readline()):
            assert line, "the server ended"
        listening = time.monotonic() - began_at
        ticks = (proc / "stat").read_text().rpartition(")")[2].split()[11:13]
        process.kill()
    return heeded, listening, sum(map(int, ticks)) / TICKS


def caught(proc: Path) -> int:
    """The signals for which this process has a handler, a bit for each."""
    return int((proc / "status").read_text().partition("SigCgt:")[2].split(maxsplit=1)[0], 16)


if __name__ == "__main__":
    main()
