"""Numbers, durations and times for people. Pure.

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
    """A duration that can be read at a glance, such as 5 s, 3 min 20 s or 2 h 10 min."""
    minutes, seconds = divmod(max(0, math.floor(seconds + 0.5)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def measured(seconds: float) -> str:
    """A measured duration, with tenths of a second if it is short."""
    return f"{max(0.0, seconds):.1f} s" if seconds < 9.95 else length(seconds)


def clock(seconds: float, now: datetime) -> str:
    """The time of day this many seconds from now, with the day if it is not today."""
    at = now + timedelta(seconds=seconds)
    return f"{at:%H:%M}" if at.date() == now.date() else f"{at:%a %H:%M}"


def printable(text: str) -> str:
    """The text without characters that control a terminal or reverse the text around them."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)
