"""Our server, which on SIGUSR1 collects garbage and reports how many tasks it has."""

import gc
import json
import signal
import sys

import trio

from gateway_queue.cli.main import main


def tell(*_: object) -> None:
    gc.collect()
    tasks = trio.lowlevel.current_statistics().tasks_living
    sys.stderr.write(json.dumps({"event": "tasks", "tasks": tasks}) + "\n")


signal.signal(signal.SIGUSR1, tell)
main()
