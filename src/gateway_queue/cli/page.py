"""Fetches a page of a running server, and says what is wrong where there is none."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

import click
import httpx

from gateway_queue import no_proxy
from gateway_queue.cli.common import WHERE, fail, refusal
from gateway_queue.cli.report import printable, validated

# A server that grants on time answers within milliseconds.
ANSWER_SECONDS = 5.0

# A few hundred bytes for each of ten thousand buckets, and to spare.
LONGEST_ANSWER = 10**7

# How much of what a server says against a request is shown.
LONGEST_DETAIL = 300

Shown = TypeVar("Shown")


class NoServerError(Exception):
    """Nobody listens at the address; the message says so."""


def of_bot(name: str | None, address: str) -> str:
    """Where the pages of one of several bots are; None: those of the server."""
    return address if name is None else f"{address}/bots/{quote(name, safe='')}"


def fetch(
    address: str,
    target: str,
    show: Callable[[bytes, str], Shown],
    key: str | None,
    *,
    trust_env: bool,
) -> tuple[bytes, Shown]:
    """The JSON of a page: as it came, and as it is shown.

    ``show`` takes that and the address, and raises ValueError if it is no such page.

    Raises NoServerError, and ends the command where anything else is wrong.
    """
    asking = _client(key, trust_env=trust_env)
    try:
        with asking as client, client.stream("GET", f"{address}{target}") as response:
            _check(response, address, key)
            body = _read(response)
        return body, show(body, address)
    except httpx.InvalidURL as error:
        fail(f"{address} is no address: {error}", 2, WHERE)
    except httpx.TimeoutException:
        fail(f"no answer from {address} within {ANSWER_SECONDS:g} s", 1, WHERE)
    except httpx.ConnectError as error:
        raise NoServerError(f"no server answers at {address}: {without_number(error)}") from None
    except (httpx.RequestError, ValueError) as error:
        fail(f"{_foreign(address)}: {error}", 1, WHERE)


def send(
    address: str, method: str, target: str, key: str, body: object, *, trust_env: bool
) -> dict[str, Any]:
    """Send an operator's order: the JSON that the server answers, empty where it needs no word.

    Raises NoServerError, and ends the command where anything else is wrong.
    """
    try:
        asking = _client(key, trust_env=trust_env)
        with asking as client, client.stream(method, f"{address}{target}", json=body) as response:
            if response.status_code in {202, 204}:
                return {}
            if response.status_code != 200:
                detail = _detail(response) or _outcome(response)
                fail(f"the server at {address} says: {detail}", 1)
            return validated(dict[str, Any], _read(response))
    except httpx.TimeoutException:
        fail(f"no answer from {address} within {ANSWER_SECONDS:g} s", 1, WHERE)
    except httpx.ConnectError as error:
        raise NoServerError(f"no server answers at {address}: {without_number(error)}") from None
    except (httpx.RequestError, httpx.InvalidURL, ValueError) as error:
        fail(f"{_foreign(address)}: {error}", 1, WHERE)


def _check(response: httpx.Response, address: str, key: str | None) -> None:
    """Fail unless it may be what was asked for."""
    if response.status_code == 401:
        fail(f"the server at {address} {refusal(key)}", 1)
    if response.status_code == 404 and "/bots/" in address:
        fail(f"the server has no such bot, or not several: nothing is found at {address}", 1)
    if detail := _detail(response):
        fail(f"the server at {address} says: {detail}", 2 if response.status_code == 400 else 1)
    if response.status_code != 200:
        outcome = _outcome(response)
        fail(f"{_foreign(address)}, or a proxy before it answers: {outcome}", 1, WHERE)
    if not response.headers.get("Content-Type", "").startswith("application/json"):
        fail(f"{_foreign(address)}: it sends no JSON", 1, WHERE)


def _foreign(address: str) -> str:
    return f"what answers at {address} is not a Gateway Queue"


def _client(key: str | None, *, trust_env: bool) -> httpx.Client:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    if trust_env and (unreadable := no_proxy.leave_out_unreadable()):
        ignored = ", ".join(unreadable)
        click.echo(f"gateway-queue: ignoring what cannot be read in NO_PROXY: {ignored}", err=True)
    try:
        return httpx.Client(headers=headers, timeout=ANSWER_SECONDS, trust_env=trust_env)
    except (ImportError, OSError, ValueError, httpx.InvalidURL) as error:
        fail(f"cannot use the proxy or the certificates that the environment names: {error}", 1)


def _read(response: httpx.Response) -> bytes:
    """All of the answer; httpx itself limits only each pause in it."""
    deadline = time.monotonic() + ANSWER_SECONDS
    body = b""
    for piece in response.iter_bytes():
        body += piece
        if time.monotonic() > deadline or len(body) > LONGEST_ANSWER:
            raise httpx.ReadTimeout("the answer does not end")
    return body


@dataclass(frozen=True, slots=True)
class Problem:
    detail: str


def _detail(response: httpx.Response) -> str | None:
    """What a server says against the request; None if it says nothing."""
    if response.headers.get("Content-Type") != "application/problem+json":
        return None
    return printable(validated(Problem, _read(response)).detail[:LONGEST_DETAIL])


def _outcome(response: httpx.Response) -> str:
    code = response.status_code
    outcome = f"{code} {httpx.codes.get_reason_phrase(code)}".rstrip()
    to = response.headers.get("Location")
    return f"{outcome}, to {to!r}" if to else outcome


def without_number(error: BaseException) -> str:
    """What the system says, without its ``[Errno 111]``."""
    return re.sub(r"^\[[^]]*\] ", "", str(error))
