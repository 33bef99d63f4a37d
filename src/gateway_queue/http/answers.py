"""The answers to requests for a turn, by whichever path they came. Pure."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from gateway_queue.queue.standing import Standing

JSON = "application/json"

Headers = tuple[tuple[bytes, bytes], ...]

# Exactly the answer of twilight's gateway-queue.
GRANTED = b'{"message": "You\'re free to connect now! :)"}'

# The seat is kept, so it is best to ask again at once, whatever the position. Some clients
# treat a header of 0 as if it were missing.
ASK_AGAIN: Headers = ((b"retry-after", b"0"), (b"x-retry-after-ms", b"1"))


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer; ``headers`` are in lower case, as HTTP/2 requires."""

    status: int
    headers: Headers
    body: bytes

    @classmethod
    def of(cls, status: int, body: bytes, content_type: str, more: Headers = ()) -> "Answer":
        """An answer with the headers that describe its body, plus ``more``."""
        described = (
            (b"content-type", content_type.encode()),
            (b"content-length", str(len(body)).encode()),
        )
        return cls(status, described + more, body)

    def in_http1(self, more: Iterable[tuple[bytes, bytes]], *, has_body: bool) -> bytes:
        """The answer as HTTP/1.1 bytes, with extra headers; the answer to a HEAD has no body."""
        lines = [b"HTTP/1.1 %d %s" % (self.status, HTTPStatus(self.status).phrase.encode())]
        lines += [b"%s: %s" % header for header in self.headers]
        lines += [b"%s: %s" % header for header in more]
        return b"\r\n".join([*lines, b"", self.body if has_body else b""])


def granted(number: int) -> Answer:
    """The permission to identify, with the number of its grant."""
    return Answer.of(200, GRANTED, JSON, ((b"x-gateway-queue-grant", str(number).encode()),))


def put_off(standing: Standing) -> Answer:
    """Not yet: ask again."""
    body: dict[str, Any] = {
        "message": "Not yet: ask again, your place is kept.",
        "position": standing.position,
        "expected_in": standing.expected_in,
        "reason": standing.reason,
    }
    if standing.reset_in is not None:
        body["reset_in"] = standing.reset_in
    return Answer.of(202, json.dumps(body).encode(), JSON, ASK_AGAIN)
