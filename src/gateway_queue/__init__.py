"""The identify queue for Discord bots.

General layout, which is also the way of one request:

``asking.py``     pure: what the request asks for
``web.py``        holds it, and answers it
``queue.py``      leads it to its bucket as a ``turn.py``
``buckets.py``    one task per identify bucket: sleeps until it may grant, then picks
``line.py``       pure: the order of seats
``pace.py``       pure: when a bucket may grant, and which shards share one
``starts.py``     spends a session start
``allowance.py``  pure: how many are left
``crash_loop.py`` pure: which shards are slowed down
``journal.py``    the durable record of grants

Beside it: ``discord.py`` keeps the session start limit fresh; ``server.py`` owns the one
nursery; ``connection.py`` repairs the HTTP stack; ``standing.py``, ``status.py``,
``metrics.py`` and ``scrape.py`` say what is going on; ``settings.py`` and ``log.py`` are what
they say; ``asgi.py`` is the app for the ``hypercorn`` command. ``cli/`` is the command, and
``client/`` is for bots: it needs nothing of all this. ``openapi.json`` says what the server
looks like from outside.
"""

__version__ = "0.1.0"
