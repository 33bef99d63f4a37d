"""Which request heads are plain, so that a held request needs no more of HTTP than this. Pure.

A plain head is one that httptools and h11 understand alike and that nothing follows: HTTP/1.0
or 1.1, whole, no body, nothing to negotiate. All others are Hypercorn's.
"""

from dataclasses import dataclass

import httptools

# The largest head that Hypercorn takes (its ``h11_max_incomplete_size``).
LONGEST = 2**14

# With one of these there is a body, another protocol, a browser or an old proxy to think of.
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
    """What httptools finds."""

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
    """The head that these bytes are; None unless they are a plain head and nothing else."""
    if len(data) > LONGEST or data.find(b"\r\n\r\n") != len(data) - 4:
        return None
    reading = _Reading()
    parser = reading.parser
    try:
        parser.feed_data(data)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return None
    method, version = parser.get_method(), parser.get_http_version()
    # httptools skips an empty line before this one, and spaces in it. h11 refuses both.
    first_line = b"%s %s HTTP/%s\r\n" % (method, reading.target, version.encode())
    is_clear = data.startswith(first_line) and len(reading.authorizations) < 2
    if not (reading.is_complete and reading.is_plain and is_clear):
        return None
    if version == "1.1":
        keep_alive = reading.keep_alive
    elif version == "1.0":
        keep_alive = False  # h11 does not keep these connections, whatever they ask for
    else:
        return None
    if reading.hosts != 1 and (version == "1.1" or reading.hosts):
        return None
    authorization = reading.authorizations[0] if reading.authorizations else None
    return Head(method, reading.target, authorization, keep_alive)
