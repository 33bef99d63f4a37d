"""Recognises plain request heads, the only part of HTTP that a held request needs. Pure.

A plain head is HTTP/1.0 or 1.1, complete, without a body, with nothing to negotiate and
nothing behind it, and understood alike by httptools and h11. Hypercorn handles all others.
"""

from dataclasses import dataclass

import httptools

# The largest head that Hypercorn accepts (its ``h11_max_incomplete_size``).
LONGEST = 2**14

# These headers mean a body, another protocol, a browser or an old proxy.
NOT_PLAIN = frozenset(
    {
        b"content-length",
        b"expect",
        b"http2-settings",
        b"origin",
        b"proxy-connection",
        b"sec-fetch-dest",
        b"sec-fetch-site",
        b"transfer-encoding",
        b"upgrade",
    }
)


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a request without a body."""

    method: bytes
    target: bytes
    authorization: bytes | None
    keep_alive: bool


class _Reading:
    """Collects what httptools parses."""

    def __init__(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.target = b""
        self.hosts = 0
        self.authorizations: list[bytes] = []
        self.is_plain = True
        self.is_complete = False
        self.keep_alive = False

    def on_url(self, part: bytes) -> None:
        self.target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in NOT_PLAIN:
            self.is_plain = False
        elif name == b"host":
            self.hosts += 1
        elif name == b"authorization":
            self.authorizations.append(value)

    def on_headers_complete(self) -> None:
        self.keep_alive = self.parser.should_keep_alive()

    def on_message_complete(self) -> None:
        self.is_complete = True


def plain_head(data: bytes) -> Head | None:
    """Parse these bytes; None unless they are one plain head and nothing else."""
    if len(data) > LONGEST or data.find(b"\r\n\r\n") != len(data) - 4:
        return None
    reading = _Reading()
    parser = reading.parser
    try:
        parser.feed_data(data)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return None
    method, version = parser.get_method(), parser.get_http_version()
    # httptools skips an empty line before the first line, and spaces in it. h11 refuses both.
    first_line = b"%s %s HTTP/%s\r\n" % (method, reading.target, version.encode())
    is_clear = data.startswith(first_line) and len(reading.authorizations) < 2
    if not (reading.is_complete and reading.is_plain and is_clear):
        return None
    if version == "1.1":
        keep_alive = reading.keep_alive
    elif version == "1.0":
        keep_alive = False  # h11 closes these connections, whatever the client asks for
    else:
        return None
    if reading.hosts != 1 and (version == "1.1" or reading.hosts):
        return None
    authorization = reading.authorizations[0] if reading.authorizations else None
    return Head(method, reading.target, authorization, keep_alive)
