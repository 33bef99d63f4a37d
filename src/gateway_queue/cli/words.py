"""Numbers, lengths and times as people read them. Pure.

The same as on the operator's page (``watch/page/words.js``).
"""

import math
from datetime import datetime, timedelta


def number(value: float) -> str:
    return f"{math.floor(value + 0.5):,}"


def many(value: float, noun: str) -> str:
    return f"{number(value)} {noun}" if value == 1 else f"{number(value)} {noun}s"


def agree(value: float, verb: str) -> str:
    """A verb that agrees: 1 shard waits, 2 shards wait."""
    return f"{verb}s" if value == 1 else verb


def length(seconds: float) -> str:
    """A length of time, as short as it can be read at a glance."""
    minutes, seconds = divmod(max(0, math.floor(seconds + 0.5)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def measured(seconds: float) -> str:
    """A length of time that was measured: with tenths, where it is short."""
    return f"{max(0.0, seconds):.1f} s" if seconds < 9.95 else length(seconds)


def clock(seconds: float, now: datetime) -> str:
    """The time of day so many seconds from now, with the day where it is not today."""
    at = now + timedelta(seconds=seconds)
    return f"{at:%H:%M}" if at.date() == now.date() else f"{at:%a %H:%M}"


def printable(text: str) -> str:
    """Without what a terminal would obey."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)
