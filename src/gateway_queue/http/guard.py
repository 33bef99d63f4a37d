"""Checks keys, in constant time."""

from collections import deque
from collections.abc import Iterable
from hmac import compare_digest

from gateway_queue.http.answers import Headers
from gateway_queue.http.asking import Problem

# Wrong keys allowed per second and address; after that, no key is checked.
MOST_GUESSES = 5
SECOND = 1.0

# How many wrong keys are remembered, from whatever addresses.
REMEMBERED = 1_000

BEARER: Headers = ((b"www-authenticate", b"Bearer"),)


def opens(keys: Iterable[str], authorization: bytes | None) -> bool:
    """Whether a request's ``Authorization`` header carries one of these keys."""
    scheme, _, given = (authorization or b"").partition(b" ")
    are_right = [compare_digest(given.strip(), key.encode()) for key in keys]
    return scheme.lower() == b"bearer" and any(are_right)


def key_in(authorization: bytes | None) -> bytes | None:
    """The key that a request's ``Authorization`` has, right or wrong."""
    return None if authorization is None else authorization.partition(b" ")[2].strip()


class Guard:
    """Lets in requests with an operator key, and slows down guessing."""

    def __init__(self) -> None:
        self._wrong: deque[tuple[float, str]] = deque(maxlen=REMEMBERED)  # (when, address)

    def check(
        self, keys: Iterable[str], authorization: bytes | None, address: str, now: float
    ) -> None:
        """Raise Problem unless one of these keys is given; if there are none, always."""
        keys = list(keys)
        if not keys:
            raise Problem(
                403, "this requires GATEWAY_QUEUE_OPERATOR_KEY, which the server does not have"
            )
        if authorization is None:
            raise Problem(
                401, "this requires the operator key: Authorization: Bearer <key>", headers=BEARER
            )
        lately = sum(at > now - SECOND and host == address for at, host in self._wrong)
        if lately >= MOST_GUESSES:
            raise Problem(
                429,
                f"{MOST_GUESSES} wrong operator keys came from this address within a second",
                headers=((b"retry-after", b"1"),),
            )
        if not opens(keys, authorization):
            self._wrong.append((now, address))
            raise Problem(
                401, "the operator key is not the one this server expects", headers=BEARER
            )
