"""The identify queue for Discord bots.

General layout, from the network to the core, in the order in which a request passes:

``http/``         connections, what a request asks for, how it is held and answered
``queue/``        which bucket a turn waits in, when the bucket may grant, and to whom
``queue/rules/``  pure arithmetic: the order of seats, pace, allowance, crash loops
``keeper/``       the durable record of grants

``bot.py`` assembles one bot's queue, and ``discord.py`` keeps its session start limit fresh.
``watch/`` turns the queue's events into log lines, metrics and pages. ``server.py`` runs the
process, and ``asgi.py`` does the same under the ``hypercorn`` command. ``settings.py``,
``log.py`` and ``cli/`` do what their names say; ``client/`` is for bots and needs none of this.

A folder imports only from folders nearer to the core (``tests/test_rooms.py``).
"""

__version__ = "0.1.0"
