"""Removes the entries of ``NO_PROXY`` that httpx cannot read.

Fault of httpx 0.28.1, the newest release: an IPv6 network such as ``::1/128`` raises InvalidURL
when a client is created (https://github.com/encode/httpx/issues/3574; pull request 3741 is
open). Drop this module once a release has the fix.
"""

import os
from ipaddress import IPv6Address

import httpx


def leave_out_unreadable() -> list[str]:
    """Remove the entries that httpx cannot read from the environment, and return them.

    OrbStack, Docker Desktop and OpenShift set such entries in every container.
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
    """The URL pattern that httpx makes of an entry."""
    if "://" in entry:
        return entry
    try:
        IPv6Address(entry.partition("/")[0])
    except ValueError:
        return f"all://*{entry}"
    return f"all://[{entry}]"
