"""``NO_PROXY`` as far as httpx can read it; with an entry that it cannot, it makes no client."""

import os
from ipaddress import IPv6Address

import httpx


def leave_out_unreadable() -> list[str]:
    """Take the entries that httpx cannot read out of the environment, and return them.

    OrbStack, Docker Desktop and OpenShift give every container IPv6 networks such as
    ``::1/128``.
    """
    left_out: list[str] = []
    for name, value in list(os.environ.items()):
        if name.lower() != "no_proxy":
            continue
        entries = [entry.strip() for entry in value.split(",")]
        unreadable = [entry for entry in entries if not _is_readable(entry)]
        if unreadable:
            os.environ[name] = ",".join(entry for entry in entries if entry not in unreadable)
            left_out += (entry for entry in unreadable if entry not in left_out)
    return left_out


def _is_readable(entry: str) -> bool:
    try:
        httpx.URL(_pattern(entry))
    except httpx.InvalidURL:
        return False
    return True


def _pattern(entry: str) -> str:
    """The URL that httpx makes of an entry."""
    if "://" in entry:
        return entry
    try:
        IPv6Address(entry.partition("/")[0])
    except ValueError:
        return f"all://*{entry}"
    return f"all://[{entry}]"
