"""What keeps a bot from its turn at the server itself, in words, with advice on what to change.

Pure: turns answers into findings; no clock, no terminal, no I/O.
"""

from dataclasses import dataclass

from gateway_queue.cli import bots_report
from gateway_queue.cli.common import refusal
from gateway_queue.cli.findings import Finding, Reply, bad
from gateway_queue.cli.report import (
    Limits,
    SlowedDown,
    Status,
    Version,
    parse,
    validated,
)
from gateway_queue.cli.words import length, many, number, printable

JSON = "application/json"

# Files that the server needs beside its clients' connections; the limit of `few_open_files`.
SPARE_FILES = 64
FEW_OPEN_FILES = 4096

# How many shards in a crash loop are named.
MOST_SLOWED_SHOWN = 5

# The answer of the original server, the same at every path.
ORIGINAL = b'{"message": "You\'re free to connect now! :)"}'


@dataclass(frozen=True, slots=True)
class _Any:
    """What every version of ``/status`` contains."""

    version: Version


# Who is there


def who_answers(reply: Reply, address: str, key: str | None) -> Finding | None:
    """The problem with a reply to ``/status``; None if it is a page of a Gateway Queue."""
    if reply.status is None:
        return _no_answer(reply, address)
    if reply.status == 401:
        return bad(
            f"The server at {address} {refusal(key)}",
            "The bots need the same key as this command; with several bots each has its own",
        )
    if reply.problem:
        hint = "Its own /status has the names of its bots" if "/bots/" in address else ""
        return bad(f"The server at {address} says: {reply.problem}", hint)
    if reply.status == 200 and reply.kind == JSON and reply.body != ORIGINAL:
        return None
    return _somebody_else(reply, address)


def _no_answer(reply: Reply, address: str) -> Finding:
    match reply.failure:
        case "unreachable":
            return bad(
                f"No connection to {address}: {reply.said}",
                "Is the server running? HOST and PORT, or --url, say where it is; it listens on"
                " 127.0.0.1 only, unless its HOST says otherwise",
            )
        case "silent":
            return bad(
                f"{address} takes the connection, but did not answer within {reply.after:.0f} s",
                "Is that the right port? Ask the server on its own machine, without what is in"
                " between",
            )
        case _:
            return bad(
                f"{address} closed the connection without an answer: {reply.said}",
                "Is that the right port, and is it http:// or https://? A proxy may do so when it"
                " does not reach the server",
            )


def _somebody_else(reply: Reply, address: str) -> Finding:
    if reply.body == ORIGINAL:
        return bad(
            f"What answers at {address} is the original gateway-queue, or one like it",
            "It has no /status, and took this question for a shard's: it has granted a turn",
        )
    if reply.status in {502, 503, 504}:
        return bad(
            f"A proxy at {address} does not reach the server: {reply.outcome}",
            "Is the server running, and where the proxy looks for it?",
        )
    to = f", which leads to {printable(reply.location)}" if reply.location else ""
    outcome = reply.outcome if reply.status != 200 else "it does not send JSON"
    return _foreign(address, f"{outcome}{to}")


def _foreign(address: str, why: str) -> Finding:
    return bad(
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
            bad(f"This command cannot read its /status: {error}", "Update the older of the two")
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
        found.append(bad(what, "Its bot is not served, or goes on as before. Correct the file"))
    if overview.unknown_bot_waiting:
        found.append(
            bad(
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
        case "engine":
            text = why_not_ready or "Redis cannot be used: its log says why"
            advice = "Check that Redis is up, and its address and password"
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
    return [bad(text, advice)]


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
        return bad(
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
    return bad(f"It cannot read the limits from Discord: {error}", advice)


def _starts(status: Status) -> list[Finding]:
    limits = status.limits
    if not limits.known or status.obstacle == "reserve" or status.covered >= status.waiting:
        return []
    back = f" They come back in {length(limits.reset_in)}" if limits.reset_in else ""
    return [
        bad(
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
    return [bad(f"{text}: {named}" if named else text, "Look in the bot's log why they end")]


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
        return [bad(f"{may}, and has {many(shards, 'shard')} to hold", advice)]
    if limit < FEW_OPEN_FILES:
        return [Finding("note", may, advice)]
    return [Finding("ok", f"{may}; each waiting shard needs one")]
