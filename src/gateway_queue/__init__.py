"""The identify queue for Discord bots.

General layout, from the street to the heart, which is also the way of a request:

``http/``         connections, what a request asks for, how it is held and answered
``queue/``        which bucket a turn waits in, when the bucket may grant, and to whom
``queue/rules/``  pure arithmetic: the order of seats, pace, allowance, crash loops
``keeper/``       where grants are recorded

``bot.py`` puts one bot's queue together, and ``discord.py`` keeps its session start limit
fresh. ``watch/`` makes log lines, metrics and pages of what the queue reports. ``server.py``
is the process, and ``asgi.py`` the same for the ``hypercorn`` command. ``settings.py``,
``log.py`` and ``cli/`` are what they say; ``client/`` is for bots and needs none of this.

A room imports only from rooms nearer to the heart (``tests/test_rooms.py``).
"""

__version__ = "0.1.0"
