"""Fetches pages from a running server; explains what is wrong if that fails."""

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
from gateway_queue.cli.report import validated
from gateway_queue.cli.words import printable

# Generous: a healthy server answers within milliseconds.
ANSWER_SECONDS = 5.0

# Ample: a few hundred bytes for each of ten thousand buckets.
LONGEST_ANSWER = 10**7

# How much of a server's error message is shown, in characters.
LONGEST_DETAIL = 300

Shown = TypeVar("Shown")


class NoServerError(Exception):
    """No server listens at the address; the message says so."""


def of_bot(name: str | None, address: str) -> str:
    """The base address of a bot's pages; None: of the server's."""
    return address if name is None else f"{address}/bots/{quote(name, safe='')}"


def fetch(
    address: str,
    target: str,
    show: Callable[[bytes, str], Shown],
    key: str | None,
    *,
    trust_env: bool,
) -> tuple[bytes, Shown]:
    """Fetch a page: its JSON as received, and as shown to people.

    ``show`` is called with the JSON and the address; it raises ValueError if it is not such a
    page. Raises NoServerError; ends the command if anything else goes wrong.
    """
    asking = _client(key, trust_env=trust_env)
    try:
        with asking as client, client.stream("GET", f"{address}{target}") as response:
            _check(response, address, key)
            body = _read(response)
        return body, show(body, address)
    except httpx.InvalidURL as error:
        fail(f"{address} is not an address: {error}", 2, WHERE)
    except httpx.TimeoutException:
        fail(f"no answer from {address} within {ANSWER_SECONDS:g} s", 1, WHERE)
    except httpx.ConnectError as error:
        raise NoServerError(f"no server answers at {address}: {without_number(error)}") from None
    except (httpx.RequestError, ValueError) as error:
        fail(f"{_foreign(address)}: {error}", 1, WHERE)


def send(
    address: str, method: str, target: str, key: str, body: object, *, trust_env: bool
) -> dict[str, Any]:
    """Send an operator's order; returns the JSON of the answer, which may be empty.

    Raises NoServerError; ends the command if anything else goes wrong.
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
    """End the command unless this may be the requested page."""
    if response.status_code == 401:
        fail(f"the server at {address} {refusal(key)}", 1)
    if response.status_code == 404 and "/bots/" in address:
        fail(f"there is nothing at {address}: the server has no such bot, or only one bot", 1)
    if detail := _detail(response):
        fail(f"the server at {address} says: {detail}", 2 if response.status_code == 400 else 1)
    if response.status_code != 200:
        outcome = _outcome(response)
        fail(f"{_foreign(address)}, or a proxy in front of it answered: {outcome}", 1, WHERE)
    if not response.headers.get("Content-Type", "").startswith("application/json"):
        fail(f"{_foreign(address)}: it does not send JSON", 1, WHERE)


def _foreign(address: str) -> str:
    return f"what answers at {address} is not a Gateway Queue"


def _client(key: str | None, *, trust_env: bool) -> httpx.Client:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    if trust_env and (unreadable := no_proxy.leave_out_unreadable()):
        ignored = ", ".join(unreadable)
        click.echo(f"gateway-queue: ignoring unreadable entries of NO_PROXY: {ignored}", err=True)
    try:
        return httpx.Client(headers=headers, timeout=ANSWER_SECONDS, trust_env=trust_env)
    except (ImportError, OSError, ValueError, httpx.InvalidURL) as error:
        fail(f"cannot use the proxy or the certificates given in the environment: {error}", 1)


def _read(response: httpx.Response) -> bytes:
    """Read the whole answer within the time-out, which httpx applies to each read only."""
    deadline = time.monotonic() + ANSWER_SECONDS
    body = b""
    for piece in response.iter_bytes():
        body += piece
        if time.monotonic() > deadline or len(body) > LONGEST_ANSWER:
            raise httpx.ReadTimeout("the answer is endless")
    return body


@dataclass(frozen=True, slots=True)
class Problem:
    detail: str


def _detail(response: httpx.Response) -> str | None:
    """The server's error message; None if there is none."""
    if response.headers.get("Content-Type") != "application/problem+json":
        return None
    return printable(validated(Problem, _read(response)).detail[:LONGEST_DETAIL])


def _outcome(response: httpx.Response) -> str:
    code = response.status_code
    outcome = f"{code} {httpx.codes.get_reason_phrase(code)}".rstrip()
    to = response.headers.get("Location")
    return f"{outcome}, to {to!r}" if to else outcome


def without_number(error: BaseException) -> str:
    """The error message without its ``[Errno 111]``."""
    return re.sub(r"^\[[^]]*\] ", "", str(error))
