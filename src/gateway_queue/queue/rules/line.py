"""The order of seats in one bucket: who is here, who is away, whose turn it is.

Pure: takes ``now`` in seconds; no clock, no task, no I/O. A *seat* is a shard's place
in line. Seats are numbered across all lines and served by number. A seat outlives the
connection that took it: whoever leaves and asks again for the shard within the time to
live has the old place. Of several requests for one shard the newest holds the best
seat, for the older may be a ghost of the newer.
"""

import math
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, Protocol, TypeVar

# Seats forgotten in one go: a crowd that left together must not delay a grant.
FORGET_AT_ONCE = 1_000


class Request(Hashable, Protocol):
    @property
    def shard(self) -> int | None: ...


R = TypeVar("R", bound=Request)


@dataclass(slots=True, eq=False)
class Place(Generic[R]):
    """The seats and requests of one shard.

    The requests that are here sit in the best seats, the newest in the best of all;
    the seats beyond them are absent: their clients left, the last one at ``left_at``.
    """

    key: Hashable  # the shard, or the request itself where it names none
    seats: list[int] = field(default_factory=list)  # the best, which is the lowest, first
    requests: list[R] = field(default_factory=list)  # the newest last
    left_at: float = -math.inf

    @property
    def taken(self) -> list[int]:
        """The seats whose client is here."""
        return self.seats[: len(self.requests)]

    @property
    def has_absent(self) -> bool:
        return len(self.seats) > len(self.requests)


class Line(Generic[R]):
    """The seats of one bucket.

    ``numbers`` is shared by all lines of a server; ``seat_ttl`` is in seconds.
    """

    def __init__(self, numbers: Iterator[int], seat_ttl: float) -> None:
        self._numbers = numbers
        self._seat_ttl = seat_ttl
        self._places: dict[Hashable, Place[R]] = {}
        self._present: dict[Hashable, Place[R]] = {}  # places with somebody here
        # Places with absent seats, longest gone first.
        self._absent: OrderedDict[Hashable, Place[R]] = OrderedDict()
        self._here: list[int] = []  # taken seats, in order
        self._by_seat: dict[int, Place[R]] = {}  # of the taken seats
        self._seats = 0  # taken and absent

    @property
    def waiting(self) -> int:
        """How many requests are here."""
        return len(self._here)

    @property
    def away(self) -> int:
        """How many seats are kept for clients who left."""
        return self._seats - len(self._here)

    def __iter__(self) -> Iterator[R]:
        """The requests that are here, the next first."""
        for seat in self._here:
            place = self._by_seat[seat]
            yield place.requests[-1 - bisect_left(place.seats, seat)]

    def arrive(self, request: R) -> bool:
        """Give the request its shard's old seat, or the next number; True if it is the old one."""
        key = _key(request)
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = Place(key)
        returns = place.has_absent
        if not returns:
            place.seats.append(next(self._numbers))
            self._seats += 1
        self._take(place.seats[len(place.requests)], place)
        place.requests.append(request)
        self._present[key] = place
        if not place.has_absent:
            self._absent.pop(key, None)
        return returns

    def leave(self, request: R, now: float) -> None:
        """Keep the seat of a client who left; one that named no shard is forgotten."""
        place = self._places[_key(request)]
        self._vacate(place.taken[-1])
        self._withdraw(request, place)
        if request.shard is None:
            del self._places[place.key]
            self._seats -= 1
        else:
            place.left_at = now
            self._absent.pop(place.key, None)
            self._absent[place.key] = place

    def next(self, may_go: Callable[[int | None], bool] = lambda _: True) -> R | None:
        """The request in the best seat whose client is here and whose shard may go."""
        refused = set()
        for seat in self._here:
            place = self._by_seat[seat]
            if place.key in refused:
                continue
            request = place.requests[-1]
            if may_go(request.shard):
                return request
            refused.add(place.key)
        return None

    def grant(self, request: R) -> None:
        """Take out the request that `next` named, and the best seat of its shard."""
        place = self._places[_key(request)]
        self._vacate(place.seats.pop(0))
        self._seats -= 1
        self._withdraw(request, place)
        if not place.seats:
            del self._places[place.key]

    def forget(self, now: float) -> None:
        """Drop the seats of clients who left a time to live ago or longer."""
        if self.forgets_at > now:
            return
        for place in list(islice(self._absent.values(), FORGET_AT_ONCE)):
            if place.left_at + self._seat_ttl > now:
                break
            del self._absent[place.key]
            self._seats -= len(place.seats) - len(place.requests)
            place.seats = place.taken
            if not place.seats:
                del self._places[place.key]

    @property
    def forgets_at(self) -> float:
        """When the next absent seat is due to be forgotten; inf if there is none."""
        for place in self._absent.values():
            return place.left_at + self._seat_ttl
        return math.inf

    def position(self, request: R) -> int:
        """1 for the request that is next of those here."""
        place = self._places[_key(request)]
        newer = len(place.requests) - 1 - place.requests.index(request)
        return bisect_left(self._here, place.seats[newer]) + 1

    def seats_before(self, request: R, shard: int) -> int:
        """How many of a shard's requests are ahead of this one."""
        place = self._places.get(shard)
        seat = self._here[self.position(request) - 1]
        return bisect_left(place.taken, seat) if place else 0

    def newest(self, shard: int) -> R | None:
        """The newest request for a shard that is here."""
        place = self._present.get(shard)
        return place.requests[-1] if place else None

    @property
    def shards(self) -> Iterable[int | None]:
        """The shards that somebody waits for."""
        return (place.requests[0].shard for place in self._present.values())

    def _withdraw(self, request: R, place: Place[R]) -> None:
        place.requests.remove(request)
        if not place.requests:
            del self._present[place.key]

    def _take(self, seat: int, place: Place[R]) -> None:
        insort(self._here, seat)
        self._by_seat[seat] = place

    def _vacate(self, seat: int) -> None:
        del self._here[bisect_left(self._here, seat)]
        del self._by_seat[seat]

    def disband(self) -> list[Place[R]]:
        places = list(self._places.values())
        for index in (self._places, self._present, self._absent, self._here, self._by_seat):
            index.clear()
        self._seats = 0
        return places

    def admit(self, place: Place[R]) -> None:
        self._places[place.key] = place
        if place.requests:
            self._present[place.key] = place
        self._seats += len(place.seats)
        for seat in place.taken:
            self._take(seat, place)
        if place.has_absent:
            self._absent[place.key] = place


def respread(
    old: Sequence[Line[R]], new: Sequence[Line[R]], bucket_of: Callable[[int | None], int]
) -> None:
    """Move every seat to the new line of its shard, with its number; the old lines are empty."""
    places = [place for line in old for place in line.disband()]
    for place in sorted(places, key=lambda place: place.left_at):
        shard = place.key if isinstance(place.key, int) else None
        new[bucket_of(shard)].admit(place)


def _key(request: Request) -> Hashable:
    return request if request.shard is None else request.shard
