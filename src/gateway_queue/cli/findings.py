"""What the doctor asked, and what it found. Pure."""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal

from gateway_queue.cli.report import validated
from gateway_queue.cli.words import printable

# How serious a finding is. A note is no problem.
Mark = Literal["ok", "note", "bad"]

PROBLEM = "application/problem+json"

# How much of a foreign message is shown, in characters.
LONGEST_QUOTE = 300


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


def bad(text: str, advice: str) -> Finding:
    """Something that keeps a bot from its turn."""
    return Finding("bad", text, advice)


def conclusion(found: list[Finding]) -> Finding:
    """A summary of all findings."""
    bad = sum(finding.mark == "bad" for finding in found)
    if not bad:
        return Finding("ok", "Nothing stands between a bot and its turn")
    stands = "thing stands" if bad == 1 else "things stand"
    return Finding("bad", f"{bad} {stands} between a bot and its turn")
