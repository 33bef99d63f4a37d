"""The ``gateway-queue`` command.

``main.py``    serves, and has the others
``status.py``  shows what a server is doing, as ``report.py`` words it
``wait.py``    waits for a shard's turn
``common.py``  what they share
"""

COMMANDS = frozenset({"status", "wait"})  # each in its module
