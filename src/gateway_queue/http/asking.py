"""What a request asks for, and what may be wrong with it. Pure."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import cast, get_args
from urllib.parse import parse_qsl, unquote, urlsplit

from gateway_queue.http.answers import Headers
from gateway_queue.operate.plan import LONGEST_INTERVAL, MOST_SHARDS, Launch, shortest_interval
from gateway_queue.queue.rules.allowance import MOST_BUCKETS
from gateway_queue.queue.rules.pace import Outcome
from gateway_queue.settings import DEFAULT

# These paths never grant, with or without a shard, and neither do those below BELOW.
RESERVED = frozenset(
    {
        "/confirm",
        "/dashboard",
        "/gateway/bot",
        "/healthz",
        "/metrics",
        "/openapi.json",
        "/operator",
        "/plan",
        "/probe",
        "/readyz",
        "/status",
    }
)

BELOW = ("/dashboard/", "/operator/", "/status/")

OUTCOMES: tuple[str, ...] = get_args(Outcome)

LARGEST_SHARD = 2**32 - 1
LONGEST_WAIT = 86_400
LONGEST_PROBE = 900


class Problem(Exception):  # noqa: N818 - what RFC 9457 calls it
    """An error for the client, with a detail that a person can act on."""

    def __init__(self, status: int, detail: str, *, headers: Headers = ()) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = headers
        title = HTTPStatus(status).phrase
        self.body = json.dumps({"title": title, "status": status, "detail": detail}).encode()


@dataclass(frozen=True, slots=True)
class Ask:
    """A request for a turn. ``wait``: seconds after which the client wants to ask again."""

    shard: int | None
    wait: float | None = None
    confirm: bool = False
    bot: str = DEFAULT


@dataclass(frozen=True, slots=True)
class Confirmation:
    """A client's report about its shard's grant; ``grant``: the grant's number, if given."""

    shard: int
    grant: int | None
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class ProbeAsk:
    """A probe to hold for ``hold`` seconds; None asks for the state of the probe ``name``."""

    hold: float | None
    name: str | None


def split(target: bytes) -> tuple[str, bytes]:
    """The path and the query of a request target, just as Hypercorn passes them to the app."""
    path, _, query = target.partition(b"?")
    return unquote(path.decode("ascii")), query


def path_of(target: str) -> str:
    """The path of a request target, which is a path, or a full URL from clients of a proxy.

    Raises Problem if it is neither.
    """
    if target.startswith("/"):
        return target
    try:
        url = urlsplit(target)
    except ValueError:
        raise Problem(400, "the request target is not a valid URL") from None
    if target and url.scheme not in {"http", "https"}:
        raise Problem(400, "the request target must be a path, for example /?shard=42")
    return url.path or "/"


def bot_of(path: str) -> tuple[str | None, str]:
    """The bot that a path names (None if it names none), and the rest of the path.

    A missing name counts as the empty name, which no bot has.
    """
    _, first, name, below, *_ = (*path.split("/", 3), "", "", "")
    if first != "bots":
        return None, path
    return name, f"/{below}" if name or below else path


def is_page(path: str) -> bool:
    """Whether a path never takes a turn.

    A path that merely ends in /confirm confirms nothing, but takes no turn either: a proxy may
    have left its prefix in the path.
    """
    return path.rstrip("/") in RESERVED or path.startswith(BELOW) or path.endswith("/confirm")


def is_action(path: str) -> bool:
    """Whether a path is one of the operator's."""
    return path == "/operator" or path.startswith("/operator/")


def has_body(target: bytes) -> bool:
    """Whether the body of a request for this target may be used."""
    return target.isascii() and is_action(bot_of(split(target)[0])[1])


def ask_of(path: str, query: bytes, bot: str | None = None) -> Ask | None:
    """The turn that is requested from this bot; None if the path takes no turn.

    Raises Problem for a malformed request.
    """
    if is_page(path):
        return None
    given = _parameters(query, {"shard", "wait", "confirm"})
    shard = shard_of(given["shard"]) if "shard" in given else None
    if shard is None and path != "/":
        return None
    if shard is None and len(given) > 0:
        raise Problem(400, "wait and confirm need a shard, for example /?shard=42&wait=20")
    return Ask(
        shard,
        wait=_length("wait", given["wait"], LONGEST_WAIT) if "wait" in given else None,
        confirm=_choice("confirm", given.get("confirm", "false"), ("true", "false")) == "true",
        bot=DEFAULT if bot is None else bot,
    )


def is_visit(method: str, path: str, query: bytes, headers: Mapping[bytes, bytes]) -> bool:
    """Whether a person opened ``/`` in a browser, without a shard: to look, not to take a turn.

    https://developer.mozilla.org/en-US/docs/Web/HTTP/Reference/Headers/Sec-Fetch-Dest
    """
    is_opened = method == "GET" and headers.get(b"sec-fetch-dest") == b"document"
    return is_opened and path == "/" and "shard" not in dict(_fields(query))


def confirmation_of(query: bytes) -> Confirmation:
    """Parse a confirmation. Raises Problem if it is malformed."""
    given = _parameters(query, {"shard", "grant", "outcome"})
    if "shard" not in given:
        raise Problem(400, "shard is missing; confirm with POST /confirm?shard=42")
    return Confirmation(
        shard_of(given["shard"]),
        _grant(given["grant"]) if "grant" in given else None,
        cast("Outcome", _choice("outcome", given.get("outcome", "identified"), OUTCOMES)),
    )


def refuse_other_sites(headers: Mapping[bytes, bytes]) -> None:
    """Raise Problem for a request that another site's web page makes in a person's browser.

    Browsers say where a request comes from; bots do not.
    https://developer.mozilla.org/en-US/docs/Web/HTTP/Reference/Headers/Sec-Fetch-Site
    """
    site = headers.get(b"sec-fetch-site")
    origin = headers.get(b"origin")
    if site is not None:
        is_ours = site in {b"same-origin", b"none"}
    else:
        is_ours = origin is None or origin.partition(b"://")[2] == headers.get(b"host")
    if not is_ours:
        raise Problem(
            403,
            "web pages of other sites may not take turns, confirm them, watch, probe or steer",
        )


def probe_of(query: bytes) -> ProbeAsk:
    """Parse a request for a probe. Raises Problem if it is malformed."""
    given = _parameters(query, {"hold", "id"})
    if not given:
        raise Problem(400, "hold is missing; ask with /probe?hold=60 to be held for 60 seconds")
    return ProbeAsk(
        _length("hold", given["hold"], LONGEST_PROBE) if "hold" in given else None,
        _probe_name(given["id"]) if "id" in given else None,
    )


def wants_seats(query: bytes) -> bool:
    """Whether ``/status`` should list all seats. Raises Problem if the query is malformed."""
    given = _parameters(query, {"seats"})
    return _choice("seats", given.get("seats", "false"), ("true", "false")) == "true"


def launch_of(query: bytes, configured: float) -> Launch:
    """Parse the launch to plan for a server with this interval. Raises Problem if malformed."""
    given = _parameters(query, {"shards", "interval", "max_concurrency"})
    if "shards" not in given:
        raise Problem(400, "shards is missing; ask with /plan?shards=2000")
    shortest = shortest_interval(configured)
    name = "max_concurrency"
    return Launch(
        _whole("shards", given["shards"], MOST_SHARDS),
        _interval(given["interval"], shortest) if "interval" in given else None,
        _whole(name, given[name], MOST_BUCKETS) if name in given else None,
    )


def _parameters(query: bytes, names: set[str]) -> Mapping[str, str]:
    given: dict[str, str] = {}
    for name, value in _fields(query):
        if name not in names:
            continue
        if name in given:
            raise Problem(400, f"{name} is given more than once; give it once per request")
        given[name] = value
    return given


def _fields(query: bytes) -> list[tuple[str, str]]:
    return parse_qsl(query.decode("latin-1"), keep_blank_values=True)


def shard_of(text: str) -> int:
    if re.fullmatch("[0-9]{1,10}", text) and int(text) <= LARGEST_SHARD:
        return int(text)
    raise Problem(
        400,
        f"shard is {text[:40]!r}; it must be a whole number from 0 to {LARGEST_SHARD},"
        " for example /?shard=42",
    )


def _grant(text: str) -> int:
    if re.fullmatch("[0-9]{1,18}", text):
        return int(text)
    raise Problem(
        400,
        f"grant is {text[:40]!r}; it must be the number in the answer's X-Gateway-Queue-Grant",
    )


def _probe_name(text: str) -> str:
    if re.fullmatch("[0-9A-Za-z]{8,32}", text):
        return text
    raise Problem(400, f"id is {text[:40]!r}; it must be 8 to 32 letters or digits")


def _length(name: str, text: str, longest: float) -> float:
    if 0 < (seconds := _seconds(text)) <= longest:
        return seconds
    raise Problem(
        400,
        f"{name} is {text[:40]!r}; it must be a number of seconds above 0, at most {longest},"
        f" for example {name}=20",
    )


def _interval(text: str, shortest: float) -> float:
    if shortest <= (seconds := _seconds(text)) <= LONGEST_INTERVAL:
        return seconds
    raise Problem(
        400,
        f"interval is {text[:40]!r}; it must be a number of seconds from {shortest:g} to"
        f" {LONGEST_INTERVAL:g}, for example interval=6",
    )


def _whole(name: str, text: str, most: int) -> int:
    if re.fullmatch("[0-9]{1,10}", text) and 1 <= int(text) <= most:
        return int(text)
    raise Problem(400, f"{name} is {text[:40]!r}; it must be a whole number from 1 to {most}")


def _seconds(text: str) -> float:
    """A number as in JSON, such as 19.999731540679932 or 1e-05; nan if it is not one."""
    number = r"[0-9]{1,10}(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?"
    return float(text) if re.fullmatch(number, text) else math.nan


def _choice(name: str, text: str, choices: tuple[str, ...]) -> str:
    if text not in choices:
        raise Problem(400, f"{name} is {text[:40]!r}; it must be {' or '.join(choices)}")
    return text
