"""What stands between a bot and its turn, in words, each with advice on what to change.

Pure: turns requests and their answers into findings; no clock, no terminal, no I/O.
"""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal

from gateway_queue.cli import bots_report
from gateway_queue.cli.common import refusal
from gateway_queue.cli.report import (
    Limits,
    SlowedDown,
    Status,
    Version,
    parse,
    validated,
)
from gateway_queue.cli.words import length, many, measured, number, printable

# How serious a finding is. A note is no problem.
Mark = Literal["ok", "note", "bad"]

JSON = "application/json"
PROBLEM = "application/problem+json"

# How much of a foreign message is shown, in characters.
LONGEST_QUOTE = 300

# Files that the server needs beside its clients' connections; the limit of `few_open_files`.
SPARE_FILES = 64
FEW_OPEN_FILES = 4096

# How many shards in a crash loop are named.
MOST_SLOWED_SHOWN = 5

# An answer later than this, in seconds, was held back on its way.
LATE = 1.0

# A `wait` in seconds that is no load for a server, and shorter than most proxies' time-outs.
GOOD_WAIT = 20

# The longest `wait` that gateway_queue.client uses, in seconds.
CLIENT_HOLD = 14.0

# The answer of the original server, the same at every path.
ORIGINAL = b'{"message": "You\'re free to connect now! :)"}'

PAGE = "docs/proxies.md"

# What to set in a proxy, by a word in its `Server` header or its error page.
PROXIES = {
    "nginx": "set `proxy_read_timeout 1d;` in nginx",
    "openresty": "set `proxy_read_timeout 1d;` in OpenResty",
    "envoy": "set the route's `timeout: 0s` and `stream_idle_timeout: 0s` in Envoy",
    "caddy": "take `read_timeout` and `response_header_timeout` out of Caddy's `transport`",
    "didn't respond in time": "set `timeout server 1d` and `mode tcp` in HAProxy",
    "awselb": "raise the load balancer's `idle_timeout.timeout_seconds`",
    "cloudfront": "let the bots go another way than through CloudFront",
    "cloudflare": "let the bots go another way than through Cloudflare",
}
ANY_PROXY = "raise the time-out of whatever is in between"


@dataclass(frozen=True, slots=True)
class Finding:
    mark: Mark
    text: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """The outcome of a request, and how many seconds ``after`` its start it came.

    ``status`` is None if there was no answer. Then ``failure`` says how it failed, and ``body``
    has the error message.
    """

    after: float
    status: int | None
    body: bytes = b""
    kind: str = ""  # the content type
    server: str = ""
    location: str = ""
    failure: Literal["", "unreachable", "silent", "closed"] = ""

    @property
    def said(self) -> str:
        return printable(self.body.decode(errors="replace")[:LONGEST_QUOTE])

    @property
    def outcome(self) -> str:
        """The status in words, and which server sent it, if that is known."""
        assert self.status is not None  # noqa: S101 - there is an answer
        known = self.status in set(HTTPStatus)
        reason = f" {HTTPStatus(self.status).phrase}" if known else ""
        who = printable(self.server[:LONGEST_QUOTE])
        return f"{self.status}{reason}" + (f" (Server: {who})" if who else "")

    @property
    def problem(self) -> str | None:
        """The error message of a Gateway Queue; None if there is none."""
        if self.kind != PROBLEM:
            return None
        try:
            return printable(validated(_Problem, self.body).detail[:LONGEST_QUOTE])
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class _Problem:
    detail: str


@dataclass(frozen=True, slots=True)
class _Any:
    """What every version of ``/status`` contains."""

    version: Version


@dataclass(frozen=True, slots=True)
class Seen:
    """What the server saw of a probe."""

    state: Literal["held", "answered", "left"]
    held: float


def seen_of(reply: Reply) -> Seen | None:
    """The content of a reply to ``/probe?id=ID``; None if it has none."""
    try:
        return validated(Seen, reply.body) if reply.status == 200 else None
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class Leaving:
    """The outcome of disconnecting while the server held a probe.

    ``seen`` is what the server finally saw of it, ``after`` this many seconds.
    """

    seen: Seen | None
    after: float


@dataclass(frozen=True, slots=True)
class Holding:
    """The outcome of being held for ``seconds``.

    ``reply`` is None if the probe was stopped, ``after`` this many seconds. ``seen`` is what
    the server saw of it; None if the server does not answer or does not know.
    """

    seconds: float
    after: float
    reply: Reply | None
    seen: Seen | None = None
    server_answers: bool = True


# Who is there


def who_answers(reply: Reply, address: str, key: str | None) -> Finding | None:
    """The problem with a reply to ``/status``; None if it is a page of a Gateway Queue."""
    if reply.status is None:
        return _no_answer(reply, address)
    if reply.status == 401:
        return _bad(
            f"The server at {address} {refusal(key)}",
            "The bots need the same key as this command; with several bots each has its own",
        )
    if reply.problem:
        hint = "Its own /status has the names of its bots" if "/bots/" in address else ""
        return _bad(f"The server at {address} says: {reply.problem}", hint)
    if reply.status == 200 and reply.kind == JSON and reply.body != ORIGINAL:
        return None
    return _somebody_else(reply, address)


def _no_answer(reply: Reply, address: str) -> Finding:
    match reply.failure:
        case "unreachable":
            return _bad(
                f"No connection to {address}: {reply.said}",
                "Is the server running? HOST and PORT, or --url, say where it is; it listens on"
                " 127.0.0.1 only, unless its HOST says otherwise",
            )
        case "silent":
            return _bad(
                f"{address} takes the connection, but did not answer within {reply.after:.0f} s",
                "Is that the right port? Ask the server on its own machine, without what is in"
                " between",
            )
        case _:
            return _bad(
                f"{address} closed the connection without an answer: {reply.said}",
                "Is that the right port, and is it http:// or https://? A proxy may do so when it"
                " does not reach the server",
            )


def _somebody_else(reply: Reply, address: str) -> Finding:
    if reply.body == ORIGINAL:
        return _bad(
            f"What answers at {address} is the original gateway-queue, or one like it",
            "It has no /status, and took this question for a shard's: it has granted a turn",
        )
    if reply.status in {502, 503, 504}:
        return _bad(
            f"A proxy at {address} does not reach the server: {reply.outcome}",
            "Is the server running, and where the proxy looks for it?",
        )
    to = f", which leads to {printable(reply.location)}" if reply.location else ""
    outcome = reply.outcome if reply.status != 200 else "it does not send JSON"
    return _foreign(address, f"{outcome}{to}")


def _foreign(address: str, why: str) -> Finding:
    return _bad(
        f"What answers at {address} is not a Gateway Queue: {why}",
        "HOST and PORT, or --url, say where the server is. A proxy has to pass all paths on",
    )


# What it says of itself


def of_status(
    body: bytes, address: str, version: str, why_not_ready: str | None
) -> tuple[list[Finding], bool]:
    """The findings from a server's ``/status``, and whether it is a Gateway Queue's.

    ``version`` is our own. ``why_not_ready`` is the reason that ``/readyz`` gives, if any.
    """
    try:
        theirs = validated(_Any, body).version
    except ValueError as error:
        return [_foreign(address, str(error))], False
    found = [_version(theirs, version, address)]
    try:
        if bots_report.is_of_several(body):
            found += _of_several(bots_report.parse(body))
        else:
            found += _of_one(parse(body), why_not_ready)
    except ValueError as error:
        found.append(
            _bad(f"This command cannot read its /status: {error}", "Update the older of the two")
        )
    return found, True


def _version(theirs: str, ours: str, address: str) -> Finding:
    if theirs == ours:
        return Finding("ok", f"Gateway Queue {theirs} answers at {address}")
    return Finding(
        "note",
        f"Gateway Queue {theirs} answers at {address}, and this command is of {ours}",
        "Update the older of the two",
    )


def _of_one(status: Status, why_not_ready: str | None) -> list[Finding]:
    return [
        *_obstacle(status.obstacle, status.limits, why_not_ready),
        _limits(status.limits),
        *_starts(status),
        *_slowed_down(status.slowed_down.shards, status.slowed_down.longest),
        *_open_files(status),
    ]


def _of_several(overview: bots_report.Overview) -> list[Finding]:
    found = []
    for bot in overview.bots:
        not_ready = None if bot.ready else "its /readyz says why"
        troubles = [
            *_obstacle(bot.obstacle, bot.limits, not_ready),
            *([_limits(bot.limits)] if bot.limits.failure else []),
            *_slowed_down(bot.slowed_down, []),
        ]
        found += [
            Finding(trouble.mark, f"Bot {bot.name}: {trouble.text}", trouble.advice)
            for trouble in troubles
        ]
    for fault in overview.faults:
        what = f"{printable(fault.file)} is wrong: {printable(fault.error)}"
        found.append(_bad(what, "Its bot is not served, or goes on as before. Mend the file"))
    if overview.unknown_bot_waiting:
        found.append(
            _bad(
                f"{many(overview.unknown_bot_waiting, 'request')} for bots that it does not have",
                "Is a name wrong in a bot's address, or a file missing? Its log has the names",
            )
        )
    if not any(finding.mark == "bad" for finding in found):
        found.append(
            Finding("ok", f"{many(len(overview.bots), 'bot')}; --bot NAME examines one of them")
        )
    return found


def _obstacle(obstacle: str | None, limits: Limits, why_not_ready: str | None) -> list[Finding]:
    """What blocks all of a bot's shards."""
    match obstacle:
        case "limits_unknown":
            return []  # `_limits` reports it
        case None if why_not_ready is None:
            return []
        case None:
            text, advice = f"It is not ready: {why_not_ready}", "Its log says more"
        case "reserve":
            left = f"only the reserve is left ({limits.kept})" if limits.kept else "none is left"
            back = f"come back in {length(limits.reset_in)}" if limits.reset_in else "come back"
            text = f"All session starts that may be granted are used: {left}"
            advice = f"Find out what starts so often; wait until they {back}"
        case "journal":
            text = f"The journal cannot be written: {why_not_ready or 'its log says why'}"
            advice = "Look at its disk and its folder"
        case "paused":
            text = "An operator has paused it"
            advice = (
                "`gateway-queue status` says since when and why; `gateway-queue resume` ends it"
            )
        case "ending":
            text, advice = "It is ending", "Clients ask again by themselves, and the next answers"
        case _:
            words = f"It grants nothing, for a reason that this command does not know: {obstacle}"
            text, advice = printable(words), "Update this command"
    return [_bad(text, advice)]


def _limits(limits: Limits) -> Finding:
    failure = limits.failure
    if limits.source != "discord":
        return Finding(
            "note",
            "It has no token, and counts session starts by itself",
            "With DISCORD_TOKEN it reads from Discord how many are left, and max_concurrency",
        )
    if failure is None:
        if limits.known:
            return Finding("ok", f"It has read the limits from Discord: {limits.left} to grant")
        return _bad(
            "It has not yet read the limits from Discord",
            "Try again in a moment; if that lasts, its log says why",
        )
    error = f"{printable(failure.error)}, {length(failure.age)} ago"
    advice = (
        "Can the machine of the server reach Discord, or the REST proxy that"
        " GATEWAY_QUEUE_DISCORD_API names? Is the token right?"
    )
    if limits.known:
        return Finding("note", f"It could not read the limits from Discord again: {error}", advice)
    return _bad(f"It cannot read the limits from Discord: {error}", advice)


def _starts(status: Status) -> list[Finding]:
    limits = status.limits
    if not limits.known or status.obstacle == "reserve" or status.covered >= status.waiting:
        return []
    back = f" They come back in {length(limits.reset_in)}" if limits.reset_in else ""
    return [
        _bad(
            f"Session starts suffice for {status.covered} of the {status.waiting} that wait",
            f"Find out what starts so often.{back}",
        )
    ]


def _slowed_down(shards: int, longest: list[SlowedDown]) -> list[Finding]:
    if not shards:
        return []
    named = ", ".join(
        f"{'those without a number' if one.shard is None else one.shard}"
        f" for {length(one.eligible_in)}"
        for one in longest[:MOST_SLOWED_SHOWN]
    )
    text = f"{many(shards, 'shard')} in a crash loop"
    return [_bad(f"{text}: {named}" if named else text, "Look in the bot's log why they end")]


def _open_files(status: Status) -> list[Finding]:
    limit = status.open_files_limit
    if limit is None:
        return []
    shards = max(status.recommended_shards or 0, status.waiting)
    may = f"It may open {number(limit)} files"
    advice = (
        f"Each waiting shard needs one: allow {FEW_OPEN_FILES} or more (ulimit -n, LimitNOFILE=)"
    )
    if shards + SPARE_FILES > limit:
        return [_bad(f"{may}, and has {many(shards, 'shard')} to hold", advice)]
    if limit < FEW_OPEN_FILES:
        return [Finding("note", may, advice)]
    return [Finding("ok", f"{may}; each waiting shard needs one")]


# The way to it


def of_leaving(leaving: Leaving) -> Finding:
    match leaving.seen:
        case Seen("left"):
            return Finding("ok", "The server notices when a client leaves")
        case Seen("held"):
            return _bad(
                "The server does not notice when a client leaves: it is still held"
                f" {leaving.after:.0f} s later",
                "Turns would be granted to nobody. Use `mode tcp` where HAProxy is in between;"
                f" {PAGE} has others",
            )
    return Finding(
        "note",
        "Whether the server notices when a client leaves could not be seen",
        "Another server may have answered, or an older one; give --url the server's own address",
    )


def of_holding(holding: Holding) -> Finding:
    reply, seen = holding.reply, holding.seen
    if reply is None:
        return Finding(
            "note", f"A request was held for {measured(holding.after)}, and then stopped"
        )
    if reply.status == 204:
        return _of_the_answer(holding, reply)
    if reply.problem:
        return _bad(
            f"The server did not hold a request for longer than {measured(reply.after)}, and says:"
            f" {reply.problem}",
            "Try again; if it ends often, its log says why",
        )
    if seen is None:
        why = reply.said if reply.status is None else reply.outcome
        return _bad(
            f"The server ended after it held a request for {measured(reply.after)}: {why}",
            "Its log says why; look at what restarts it. Clients ask again by themselves",
        )
    unseen = "; the server has not noticed" if seen.state == "held" else ""
    return _cut(holding, reply, unseen)


def _of_the_answer(holding: Holding, reply: Reply) -> Finding:
    early = holding.seconds - reply.after
    if early > LATE:
        return _bad(
            f"A request was answered {measured(early)} too early, by something else:"
            f" {reply.outcome}",
            f"{ANY_PROXY.capitalize()}, or take it away; see {PAGE}",
        )
    late = reply.after - (holding.seen.held if holding.seen else holding.seconds)
    if late > LATE:
        return _bad(
            f"An answer came {measured(late)} late: something in between holds it back",
            f"Switch its buffering of answers off; see {PAGE}",
        )
    return Finding(
        "ok",
        f"A request was held for {measured(holding.seconds)}, and answered at once; longer was not"
        " tried",
    )


def _cut(holding: Holding, reply: Reply, unseen: str) -> Finding:
    if reply.status is not None:
        return _bad(
            f"A request was cut after {measured(reply.after)}, by {reply.outcome}{unseen}",
            f"{_what_to_set(reply)}{_or_wait(reply.after)}. Clients of the original server take"
            " this answer for permission",
        )
    if reply.failure == "silent":
        return _bad(
            f"A request for {measured(holding.seconds)} was not answered within"
            f" {measured(reply.after)}: something in between has forgotten the connection",
            "A firewall or NAT forgets connections without traffic: have it wait longer, or send"
            f" TCP keep-alive more often{_or_wait(holding.seconds)}",
        )
    return _bad(
        f"A request was cut after {measured(reply.after)}: something in between closed the"
        f" connection without an answer{unseen}",
        f"{_what_to_set(reply)}{_or_wait(reply.after)}",
    )


def _what_to_set(reply: Reply) -> str:
    told = f"{reply.server} {reply.said}".lower()
    setting = next((setting for name, setting in PROXIES.items() if name in told), ANY_PROXY)
    return f"{setting[0].upper()}{setting[1:]}; see {PAGE}"


def _or_wait(patience: float) -> str:
    """What clients can do without any change to the proxy."""
    if patience > CLIENT_HOLD:
        seconds = min(GOOD_WAIT, int(patience / 2) or 1)
        return f". Or ask with `wait={seconds}`; gateway_queue.client asks often enough by itself"
    return f". Or ask with `wait={max(1, int(patience / 2))}`"


def conclusion(found: list[Finding]) -> Finding:
    """A summary of all findings."""
    bad = sum(finding.mark == "bad" for finding in found)
    if not bad:
        return Finding("ok", "Nothing stands between a bot and its turn")
    stands = "thing stands" if bad == 1 else "things stand"
    return Finding("bad", f"{bad} {stands} between a bot and its turn")


def _bad(text: str, advice: str) -> Finding:
    return Finding("bad", text, advice)
