"""The ``gateway-queue`` command.

``main.py``    serves, and has the others
``doctor.py``  tells what stands between a bot and its turn: ``examination.py`` asks,
              ``diagnosis.py`` and ``way_diagnosis.py`` word it
``plan.py``    tells how long a launch takes, as ``plan_report.py`` words it
``status.py``  shows what a server is doing, as ``report.py`` words it, and ``watch_report.py``
              with ``--watch``
``steer.py``   pauses and steers a server
``wait.py``    waits for a shard's turn
``page.py``    fetches what a server says
``common.py``  what they share
"""

STEERING = ("pause", "resume", "slow", "first", "drop", "forgive")

# The module of each.
COMMANDS = {name: name for name in ("doctor", "plan", "status", "wait")} | dict.fromkeys(
    STEERING, "steer"
)
