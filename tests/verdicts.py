"""How queues stand, and the words for it: the same on the operator's page and in a terminal.

Each case is held to by ``rules/test_verdict.py``, and in a browser by ``test_browser.py``.
"""

from datetime import UTC, datetime
from typing import Any

NOW = datetime(2026, 11, 30, 8, 45, 48, tzinfo=UTC)

Json = dict[str, Any]

FIGURES: Json = {
    "obstacle": None,
    "paused": None,
    "waiting": 0,
    "beside": 0,
    "covered": 0,
    "all_in_in": 0.0,
    "others_in_in": 0.0,
    "back_in": 28_861.0,
    "limits": {"failure": None},
}
PAUSE: Json = {"reason": None, "began_ago": 65.2, "ends_in": None, "survives_restart": True}


def wait(number: int, others_in_in: float | None = 192.3, **changes: Any) -> Json:
    """The figures where so many wait, for whom there are session starts enough."""
    figures = {"waiting": number, "covered": number, "others_in_in": others_in_in}
    return FIGURES | figures | {"all_in_in": others_in_in} | changes


# The figures and the letters of the shards; the state, the headline, the detail and the banner.
VERDICTS: dict[str, tuple[Json, str, str, str, str, str | None]] = {
    "nobody ever": (
        *(FIGURES, "", "ready", "Nobody waits", "No shard has asked in the last 24 hours."),
        None,
    ),
    "all are in": (
        *(FIGURES, "iij", "ready", "Everyone is in", "3 shards asked and were let in."),
        None,
    ),
    "the only one is in": (
        *(FIGURES, "j", "ready", "Everyone is in", "1 shard asked and was let in."),
        None,
    ),
    "some have not asked": (
        *(FIGURES, "i..ax", "ready", "Nobody waits"),
        "1 of 5 is in; 2 not asked yet, 1 away, 1 refused by Discord (op 9).",
        None,
    ),
    "a launch": (
        *(wait(557), "i" * 1436 + "w" * 557 + "." * 7, "busy", "Everyone is in by 08:49"),
        "In 3 min 12 s. 557 shards wait, 1,436 of 2,000 are in.",
        None,
    ),
    "a launch until tomorrow": (
        *(wait(1, 86_399.6), "w", "busy", "Everyone is in by Tue 08:45"),
        "In 1 d 0 h. 1 shard waits, 0 of 1 are in.",
        None,
    ),
    "a crash loop among others": (
        *(wait(3, 9.96, all_in_in=3600.0), "ijcwn", "busy", "Everyone is in by 08:45"),
        "In 10 s. 2 shards wait, 2 of 5 are in; 1 in a crash loop comes later.",
        None,
    ),
    "nothing but crash loops": (
        *(wait(2, 0.0, all_in_in=3599.6), "icc", "busy", "Everyone else is in"),
        "2 shards in a crash loop wait, the last until 09:45, for 1 h 0 min.",
        None,
    ),
    "a crash loop without an end": (
        *(wait(1, 0.0, all_in_in=None), "c", "busy", "Everyone else is in"),
        "1 shard in a crash loop waits.",
        None,
    ),
    "no shard has a number": (
        *(wait(2, 5.4, beside=2), "", "busy", "Everyone is in by 08:45"),
        "In 5 s. 2 requests wait, 0 of 0 are in.",
        None,
    ),
    "nobody knows when": (
        *(wait(1, None), "iw", "busy", "1 shard waits"),
        "How long it takes is unknown. 1 of 2 is in.",
        None,
    ),
    "too few starts": (
        *(wait(1200, None, covered=1100), "w" * 1200, "busy", "1,100 of 1,200 shards can get in"),
        "Then the session starts are used up, and 100 wait until 16:46, for 8 h 1 min.",
        None,
    ),
    "paused": (
        wait(548, None, obstacle="paused", paused=PAUSE),
        *("w" * 548, "paused", "Paused, 548 shards wait"),
        "Nobody is let in. Waiting shards keep their places.",
        (
            "Granting is paused. An operator paused the queue at 08:44. It lasts until somebody"
            " resumes."
        ),
    ),
    "paused, and more": (
        FIGURES
        | {
            "obstacle": "journal",
            "paused": PAUSE
            | {"reason": "<b>\u202e 🚀\x1b", "ends_in": 1790.4, "survives_restart": False},
        },
        *("i", "paused", "Paused, nobody waits"),
        "Nobody is let in. Waiting shards keep their places.",
        (
            "Granting is paused. An operator paused the queue at 08:44: <b>? 🚀?. Until 09:15, for"
            " 29 min 50 s. A restart of the server would end it. Also: The journal cannot be"
            " written."
        ),
    ),
    "the limits are being read": (
        FIGURES | {"obstacle": "limits_unknown", "back_in": None},
        *("", "stopped", "Nobody can be let in"),
        "Discord has not said how many session starts are left.",
        "Discord's limits are unknown. They are being read; nothing is granted until then.",
    ),
    "the limits cannot be read": (
        wait(1, None, obstacle="limits_unknown", limits={"failure": {"error": "503", "age": 3.4}}),
        *("w", "stopped", "1 shard waits, nobody is let in"),
        "Discord has not said how many session starts are left.",
        "Discord's limits are unknown. The last reading failed 3 s ago: 503",
    ),
    "the reserve": (
        wait(890, None, obstacle="reserve", covered=0),
        *("w" * 890, "stopped", "890 shards wait, nobody is let in"),
        "All session starts except the reserve are used.",
        (
            "The reserve is reached. Nothing is granted until session starts come back at 16:46, in"
            " 8 h 1 min. Connected shards stay connected. Find what restarts before you lower the"
            " reserve."
        ),
    ),
    "the journal": (
        wait(2, None, obstacle="journal"),
        *("ww", "stopped", "2 shards wait, nobody is let in"),
        "Grants cannot be recorded.",
        (
            "The journal cannot be written. Nothing is granted until it can. See the"
            " server's log, and check its disk."
        ),
    ),
    "Redis": (
        wait(2, None, obstacle="engine"),
        *("ww", "stopped", "2 shards wait, nobody is let in"),
        "Grants cannot be recorded.",
        (
            "Redis cannot be used. Nothing is granted until it can. See the server's log, and"
            " check that Redis is up."
        ),
    ),
    "a bot that failed": (
        FIGURES | {"obstacle": "not_ready"},
        *("i", "stopped", "Nobody can be let in"),
        "It crashed, and restarts by itself.",
        "The bot is not ready. The server's log says why.",
    ),
    "the end": (
        FIGURES | {"obstacle": "ending"},
        *("i", "stopped", "Nobody can be let in"),
        "Clients ask again by themselves, and the next server answers.",
        "The server is ending. Waiting shards are granted for the rest of the grace period.",
    ),
    "what a newer server may say": (
        FIGURES | {"obstacle": "moon"},
        *("i", "stopped", "Nobody can be let in"),
        "The reason is unknown here.",
        "Nothing is granted. moon",
    ),
}

LIMITS: Json = {
    "source": "discord",
    "total": 4000,
    "remaining": 3250,
    "reserve": 200,
    "reset_in": 28_861.2,
}
PLAN: Json = {
    "shards": 2000,
    "max_concurrency": 16,
    "buckets": 16,
    "interval": 5.5,
    "takes": 682.0,
    "waiting": 557,
    "all_in_in": 874.5,
    "obstacle": None,
    "missing": 0,
    "limits": LIMITS,
}

# Plans, and the words for them.
PLANS: dict[str, tuple[Json, str]] = {
    "enough session starts": (
        PLAN,
        (
            "2,000 shards in 16 buckets take 11 min 22 s. 557 wait before them. If they ask now,"
            " all are in by 09:00, in 14 min 35 s. There are enough session starts, with 493 to"
            " spare."
        ),
    ),
    "too few session starts": (
        PLAN | {"all_in_in": None, "missing": 1114, "limits": LIMITS | {"remaining": 1643}},
        (
            "2,000 shards in 16 buckets take 11 min 22 s. 557 wait before them. There are not"
            " enough session starts: 1,114 are missing; they are back at 16:46, in 8 h 1 min."
        ),
    ),
    "counted": (
        PLAN
        | {
            "shards": 1,
            "buckets": 1,
            "takes": 0.0,
            "waiting": 1,
            "all_in_in": None,
            "missing": 1,
            "limits": LIMITS | {"source": "counted", "remaining": 201},
        },
        (
            "1 shard in 1 bucket takes 0 s. 1 waits before them. There are not enough session"
            " starts: 1 is missing; the first is back at 16:46, in 8 h 1 min."
        ),
    ),
    "paused": (
        PLAN | {"waiting": 0, "all_in_in": None, "obstacle": "paused"},
        (
            "2,000 shards in 16 buckets take 11 min 22 s. There are enough session starts, with"
            " 1,050 to spare. The time is unknown, because an operator has paused it."
        ),
    ),
    "stopped": (
        PLAN | {"waiting": 0, "all_in_in": None, "obstacle": "journal"},
        (
            "2,000 shards in 16 buckets take 11 min 22 s. There are enough session starts, with"
            " 1,050 to spare. The time is unknown, because nobody is let in now."
        ),
    ),
}


def bot(name: str, waiting: int = 0, **changes: Any) -> Json:
    """A bot in the overview of all."""
    return {
        "name": name,
        "ready": True,
        **wait(waiting),
        "waiting_slowed": 0,
        "away": 0,
        "shards": 12,
        "recommended_shards": None,
    } | changes


# Bots, and requests for strangers; the state, the headline and the detail.
OVERVIEWS: dict[str, tuple[list[Json], int, str, str, str]] = {
    "all is well": ([bot("a"), bot("b")], 0, "ready", "2 bots", "Nobody waits."),
    "launches": (
        [bot("a", 2), bot("b", 3, others_in_in=10.0), bot("c")],
        *(1, "busy", "Everyone is in by 08:49"),
        "5 shards wait at 2 bots. 1 request waits for bots that this server does not have.",
    ),
    "nobody knows when": (
        [bot("a", 2, others_in_in=None), bot("b", 3)],
        *(0, "busy", "2 bots", "5 shards wait at 2 bots."),
    ),
    "one has failed": (
        [bot("a", 1, ready=False), bot("b")],
        *(0, "stopped", "1 of 2 bots lets nobody in", "1 shard waits at 1 bot. Stopped: a."),
    ),
    "many are paused": (
        [bot(f"b{number}", obstacle="paused", paused=PAUSE) for number in range(7)],
        *(0, "stopped", "7 of 7 bots let nobody in"),
        "Nobody waits. Stopped: b0, b1, b2, b3, b4 and 2 more.",
    ),
}

# Lengths in seconds.
LENGTHS = {
    -1.0: "0 s",
    0.49: "0 s",
    0.5: "1 s",
    59.4: "59 s",
    59.5: "1 min 0 s",
    3599.4: "59 min 59 s",
    3599.6: "1 h 0 min",
    86_399.4: "23 h 59 min",
    86_399.6: "1 d 0 h",
    400 * 86_400.0: "400 d 0 h",
}
