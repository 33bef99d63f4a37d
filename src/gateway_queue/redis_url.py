"""Reads the URL of Redis or Valkey. No connection, no file is opened."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

PORT = 6379
SENTINELS_PORT = 26379

SCHEMES = {"redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel"}


@dataclass(frozen=True, slots=True)
class RedisURL:
    """Where a Redis is, and how to log in.

    ``hosts`` are host and port of the server, or, where they know the server by the name
    ``primary``, of the Sentinels.
    """

    hosts: tuple[tuple[str, int], ...] = ()
    socket: str | None = None  # the path of a Unix socket, where that is the way
    primary: str | None = None
    is_tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    db: int = 0
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, url: str) -> Self:
        """Raises ValueError; its message has nothing that is in the URL."""
        if re.search(r"\s", url):
            raise ValueError("white space")
        try:
            parts = urlsplit(url)
        except ValueError:  # whose words may have the password
            raise ValueError("not a URL") from None
        if parts.scheme not in SCHEMES:
            raise ValueError("a URL of none of these kinds")
        user, _, hosts = parts.netloc.rpartition("@")
        username, _, password = (unquote(part) or None for part in user.partition(":"))
        has_sentinels = parts.scheme.endswith("+sentinel")
        where = _where(parts.scheme, hosts, unquote(parts.path))
        options = dict(
            _option(name, value, has_sentinels=has_sentinels)
            for name, value in parse_qsl(parts.query, keep_blank_values=True)
        )
        is_tls = parts.scheme.startswith("rediss")
        return cls(username=username, password=password, is_tls=is_tls, **where | options)


def _where(scheme: str, hosts: str, path: str) -> dict[str, Any]:
    match scheme:
        case "unix" if path:
            return {"socket": path}
        case "unix":
            raise ValueError("it does not say where the server is")
        case "redis" | "rediss" if re.fullmatch("/?|/[0-9]{1,5}", path):
            return {"hosts": (_host(hosts, PORT),), "db": int(path.strip("/") or 0)}
        case "redis" | "rediss":
            raise ValueError("its path is not the number of a database")
    primary = path.removeprefix("/")
    if not re.fullmatch("[A-Za-z0-9_.-]+", primary):
        raise ValueError("its path is not the name that the Sentinels have for the server")
    sentinels = tuple(_host(host, SENTINELS_PORT) for host in hosts.split(","))
    return {"hosts": sentinels, "primary": primary}


def _host(text: str, port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        found = parts.port
    except ValueError:
        raise ValueError("not a URL, or no port has such a number") from None
    if not parts.hostname or found == 0:
        raise ValueError("it does not say where the server is")
    return parts.hostname, found or port


def _option(name: str, value: str, *, has_sentinels: bool) -> tuple[str, Any]:
    match name:
        case "db" if re.fullmatch("[0-9]{1,5}", value):
            return "db", int(value)
        case "ssl_ca_certs":
            return "ca", Path(value)
        case "ssl_certfile":
            return "certificate", Path(value)
        case "ssl_keyfile":
            return "key", Path(value)
        case "sentinel_username" | "sentinel_password" if has_sentinels:
            return name, value
    raise ValueError("an option that is not db=NUMBER or a file of TLS")
