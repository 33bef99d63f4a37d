"""The order of seats in one bucket: who is present, who is away, whose turn it is.

Pure: takes ``now`` in seconds. No clock, no tasks, no I/O.

A *seat* is a shard's place in line. Seats are numbered across all lines and served in order
of their numbers. A seat outlives the connection that took it: a client that disconnects and
asks again for the shard within the seat's time to live gets its old place back. If there are
several requests for one shard, the newest has the best seat, because the older ones may be
ghosts, connections whose client is gone.

A shard in a crash loop stands aside until it is eligible. It keeps its seats, and delays
nobody.
"""

import math
from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, NamedTuple, Protocol, TypeVar

# Seats removed in one go: many clients that left at once must not delay a grant.
FORGET_AT_ONCE = 200


class Request(Hashable, Protocol):
    @property
    def shard(self) -> int | None: ...


R = TypeVar("R", bound=Request)


class Seat(NamedTuple):
    number: int
    since: float  # when it was first taken
    own_number: int | None = None  # its number before it was put first


@dataclass(slots=True, eq=False)
class Place(Generic[R]):
    """The seats and requests of one shard.

    The requests take the best seats, the newest one the best of all. The remaining seats are
    absent: their clients left, the last one at ``left_at``.
    """

    key: Hashable  # the shard, or the request itself if it names none
    seats: list[Seat] = field(default_factory=list)  # sorted, the best (lowest) first
    requests: list[R] = field(default_factory=list)  # the newest last
    left_at: float = -math.inf
    aside_until: float = -math.inf  # above -inf: its requests stand aside

    @property
    def shard(self) -> int | None:
        return self.key if isinstance(self.key, int) else None

    @property
    def taken(self) -> list[Seat]:
        """The seats whose client is present."""
        return self.seats[: len(self.requests)]

    @property
    def has_absent(self) -> bool:
        return len(self.seats) > len(self.requests)

    @property
    def is_first(self) -> bool:
        """Whether its best seat was put first."""
        return self.seats[0].own_number is not None

    def seat_of(self, request: R) -> Seat:
        return self.seats[len(self.requests) - 1 - self.requests.index(request)]


def _never(_: int | None) -> float:
    return -math.inf


class Line(Generic[R]):
    """The seats of one bucket.

    ``numbers`` is shared by all lines of a bot; ``seat_ttl`` is in seconds. ``eligible_at``
    returns when a shard may be granted again. Its result may only change when that shard is
    granted; after any other change, call `reconsider`.
    """

    def __init__(
        self,
        numbers: Iterator[int],
        seat_ttl: float,
        eligible_at: Callable[[int | None], float] = _never,
    ) -> None:
        self._numbers = numbers
        self._seat_ttl = seat_ttl
        self._eligible_at = eligible_at
        self._places: dict[Hashable, Place[R]] = {}
        # Places with absent seats, those gone the longest first.
        self._absent: OrderedDict[Hashable, Place[R]] = OrderedDict()
        self._here: list[int] = []  # the taken seats, sorted
        self._ready: list[int] = []  # those that do not stand aside, sorted
        self._aside: list[tuple[float, int]] = []  # the others: (until when, seat), sorted
        self._by_seat: dict[int, Place[R]] = {}  # for the taken seats
        self._seats = 0  # taken and absent

    @property
    def waiting(self) -> int:
        """How many requests are waiting."""
        return len(self._here)

    @property
    def aside(self) -> int:
        """How many of the waiting requests stand aside."""
        return len(self._aside)

    @property
    def away(self) -> int:
        """How many seats are kept for clients that left."""
        return self._seats - len(self._here)

    def __iter__(self) -> Iterator[R]:
        """The waiting requests, the best seat first."""
        return map(self._at, self._here)

    def __contains__(self, request: R) -> bool:
        place = self._places.get(key_of(request))
        return place is not None and request in place.requests

    def arrive(self, request: R, now: float) -> bool:
        """Give the request its shard's old seat (and return True), or the next number."""
        key = key_of(request)
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = Place(key)
        if not place.requests:
            place.aside_until = self._eligible_at(request.shard)
        returns = place.has_absent
        if not returns:
            place.seats.append(Seat(next(self._numbers), now))
            self._seats += 1
        self._take(place.seats[len(place.requests)].number, place)
        place.requests.append(request)
        if not place.has_absent:
            self._absent.pop(key, None)
        return returns

    def leave(self, request: R, now: float) -> None:
        """Keep the seat of a client that left; forget it if the client named no shard."""
        place = self._places[key_of(request)]
        self._vacate(place.taken[-1].number)
        place.requests.remove(request)
        if request.shard is None:
            del self._places[place.key]
            self._seats -= 1
        else:
            place.left_at = now
            self._absent.pop(place.key, None)
            self._absent[place.key] = place

    def next(self, now: float) -> R | None:
        """The request with the best seat whose shard is eligible; None if there is none."""
        self._rejoin(now)
        return self._by_seat[self._ready[0]].requests[-1] if self._ready else None

    def next_number(self, now: float) -> float:
        """The number of the best seat whose shard is eligible; inf if there is none."""
        self._rejoin(now)
        return self._ready[0] if self._ready else math.inf

    @property
    def next_at(self) -> float:
        """When the first waiting shard is eligible; -inf if one is already."""
        return -math.inf if self._ready or not self._aside else self._aside[0][0]

    @property
    def last_ready(self) -> R | None:
        """The last request that does not stand aside, if there is one."""
        return self._at(self._ready[-1]) if self._ready else None

    def grant(self, request: R) -> None:
        """Remove the request that `next` returned, and the best seat of its shard."""
        place = self._places[key_of(request)]
        self._vacate(place.seats[0].number)
        del place.seats[0]
        self._seats -= 1
        place.requests.remove(request)
        if not place.seats:
            del self._places[place.key]
        eligible_at = self._eligible_at(request.shard)
        if eligible_at > -math.inf:
            self._put_aside(request.shard, eligible_at)

    def forget(self, now: float) -> None:
        """Remove seats that have been absent for their time to live, a portion at a time."""
        if self.forgets_at > now:
            return
        for place in list(islice(self._absent.values(), FORGET_AT_ONCE)):
            if place.left_at + self._seat_ttl > now:
                break
            self._forget(place)

    def forget_absent(self, shard: int) -> None:
        """Remove a shard's absent seats."""
        if (place := self._absent.get(shard)) is not None:
            self._forget(place)

    def _forget(self, place: Place[R]) -> None:
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
        """The request's position in line, from 1."""
        return bisect_left(self._here, self._seat_of(request).number) + 1

    def since(self, request: R) -> float:
        """When the request's seat was first taken, by this or another request for the shard."""
        return self._seat_of(request).since

    def granted_at(self, request: R, first_at: float, interval: float) -> float:
        """When a request is likely to be granted, at the latest, as far as is known.

        The line moves at ``first_at`` and once per interval from then on. Of the requests that
        stand aside, only those go before it that have a better seat and are eligible by then.
        """
        place = self._places[key_of(request)]
        number = place.seat_of(request).number
        ready = bisect_left(self._ready, number)
        aside = bisect_left(self._here, number) - ready
        # The k-th of them goes before it if it is eligible once k others of them have gone.
        sooner = bisect_right(
            range(aside),
            first_at + ready * interval,
            key=lambda k: self._aside[k][0] - k * interval,
        )
        return max(first_at + (ready + sooner) * interval, place.aside_until)

    def all_granted_at(self, first_at: float, interval: float) -> float:
        """When the last waiting request is likely to be granted; there must be one."""
        last_at = first_at + (self.waiting - 1) * interval
        return max(last_at, self._aside[-1][0]) if self._aside else last_at

    def of(self, shard: int) -> Place[R] | None:
        """The shard's seats and requests; None if it has none."""
        return self._places.get(shard)

    def places(self) -> list[Place[R]]:
        """All places at this moment, in no particular order."""
        return list(self._places.values())

    def newest(self, shard: int) -> R | None:
        """The newest waiting request for a shard; None if there is none."""
        place = self._places.get(shard)
        return place.requests[-1] if place and place.requests else None

    def put_first(self, shard: int, number: int) -> None:
        """Give the shard's best seat this number, which must be below all others."""
        seat = self._places[shard].seats[0]
        own = seat.number if seat.own_number is None else seat.own_number
        self._renumber(shard, seat._replace(number=number, own_number=own))

    def take_back(self, shard: int) -> None:
        """Give the shard's best seat, which was put first, its own number back."""
        seat = self._places[shard].seats[0]
        assert seat.own_number is not None  # noqa: S101 - the caller checks
        self._renumber(shard, seat._replace(number=seat.own_number, own_number=None))

    def reconsider(self, shard: int) -> None:
        """Ask ``eligible_at`` again when a shard may be granted."""
        place = self._places.get(shard)
        if place is None:
            return
        taken = [seat.number for seat in place.taken]
        for number in taken:
            self._vacate(number)
        place.aside_until = self._eligible_at(shard)
        for number in taken:
            self._take(number, place)

    def drop(self, shard: int) -> Place[R]:
        """Remove a shard's seats and requests, of which there must be some."""
        place = self._places.pop(shard)
        for seat in place.taken:
            self._vacate(seat.number)
        self._absent.pop(shard, None)
        self._seats -= len(place.seats)
        return place

    def disband(self) -> list[Place[R]]:
        """Remove and return all places."""
        places = self.places()
        for index in (self._places, self._absent, self._here, self._ready, self._aside):
            index.clear()
        self._by_seat.clear()
        self._seats = 0
        return places

    def admit(self, place: Place[R]) -> None:
        """Take over a place from another line; call `settle` after the last one."""
        self._places[place.key] = place
        self._seats += len(place.seats)
        if place.has_absent:
            self._absent[place.key] = place
        place.aside_until = self._eligible_at(place.shard)
        for seat in place.taken:
            self._take(seat.number, place)

    def settle(self) -> None:
        """Sort the absent places into the order in which they expire."""
        self._absent = OrderedDict(sorted(self._absent.items(), key=lambda item: item[1].left_at))

    def _at(self, number: int) -> R:
        """The request in a taken seat."""
        place = self._by_seat[number]
        return place.requests[-1 - bisect_left(place.seats, (number,))]

    def _seat_of(self, request: R) -> Seat:
        return self._places[key_of(request)].seat_of(request)

    def _renumber(self, shard: int, seat: Seat) -> None:
        place = self._places[shard]
        before, place.seats[0] = place.seats[0], seat
        if place.requests:
            self._vacate(before.number)
            self._take(seat.number, place)

    def _take(self, number: int, place: Place[R]) -> None:
        insort(self._here, number)
        self._by_seat[number] = place
        if place.aside_until > -math.inf:
            insort(self._aside, (place.aside_until, number))
        else:
            insort(self._ready, number)

    def _vacate(self, number: int) -> None:
        del self._here[bisect_left(self._here, number)]
        place = self._by_seat.pop(number)
        if place.aside_until > -math.inf:
            del self._aside[bisect_left(self._aside, (place.aside_until, number))]
        else:
            del self._ready[bisect_left(self._ready, number)]

    def _put_aside(self, shard: int | None, until: float) -> None:
        """Put all requests for a shard aside; after a grant there are rarely any left."""
        if shard is None:
            places = [place for place in self._places.values() if place.shard is None]
        else:
            places = [place for place in (self.of(shard),) if place is not None]
        numbers = {seat.number for place in places for seat in place.taken}
        if not numbers:
            return
        for place in places:
            place.aside_until = until
        self._ready = [number for number in self._ready if number not in numbers]
        self._aside = [entry for entry in self._aside if entry[1] not in numbers]
        self._aside += ((until, number) for number in numbers)
        self._aside.sort()

    def _rejoin(self, now: float) -> None:
        """Return those who stand aside, and are eligible by now, to their seats in the line."""
        eligible = bisect_right(self._aside, (now, math.inf))
        if not eligible:
            return
        numbers = [number for _, number in self._aside[:eligible]]
        del self._aside[:eligible]
        for number in numbers:
            self._by_seat[number].aside_until = -math.inf
        self._ready += numbers
        self._ready.sort()


class Move(Generic[R]):
    """Moves all seats from old lines to new ones, a portion at a time.

    Seats keep their numbers. No seat may be granted or forgotten until all have been moved.
    Before a shard arrives, leaves or is looked up in the meantime, call `fetch` for its place.
    """

    def __init__(
        self,
        old: Iterable[Line[R]] = (),
        new: Sequence[Line[R]] = (),
        bucket_of: Callable[[int | None], int] = lambda _: 0,
    ) -> None:
        self._places = {place.key: place for line in old for place in line.disband()}
        self._keys = iter(list(self._places))
        self._new = new
        self._bucket_of = bucket_of

    def __bool__(self) -> bool:
        """Whether there are places still to be moved."""
        return bool(self._places)

    def fetch(self, key: Hashable) -> None:
        """Move the place with this key at once."""
        place = self._places.pop(key, None)
        if place is None:
            return
        self._new[self._bucket_of(place.shard)].admit(place)
        if not self._places:
            for line in self._new:
                line.settle()

    def some(self, at_most: int) -> None:
        """Move up to ``at_most`` more places."""
        for key in islice(self._keys, at_most):
            self.fetch(key)


def key_of(request: Request) -> Hashable:
    """The key of a request's place: its shard, or the request itself if it names none."""
    return request if request.shard is None else request.shard
