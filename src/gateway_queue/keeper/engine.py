"""The steps in which the state that replicas share changes, in Redis or Valkey.

One script has them all, `keeper.lua`. This module sends them and reads their answers; it
decides nothing. A step that fails may have been executed all the same, now or later.
"""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

from coredis import Redis
from coredis.exceptions import RedisError
from coredis.retry import NoRetryPolicy

from gateway_queue.queue.rules.shared_pace import News

SCRIPT = Path(__file__).with_name("keeper.lua").read_text(encoding="utf-8")

# How long to wait for an answer or a connection, in seconds. Coredis would wait for ever.
TIMEOUT = 1.0

# How long one request for news waits for them, in seconds. Nothing depends on it: it only
# shows whether the connection still stands.
NEWS_WAIT = 5.0

Refusal = Literal["stale", "other", "starts"]
Voided = Literal["given_back", "forestalled", "gone"]


class EngineError(Exception):
    """The engine cannot be asked, or refused to answer. What was asked for may happen yet."""


class EraOverError(Exception):
    """The state was lost, or another process has it: everything before now is unknown."""


class BuriedError(Exception):
    """The others took this replica for dead, and its requests for gone."""


@dataclass(frozen=True, slots=True)
class Told:
    """What is told of a bucket: its news, and who is next.

    ``head`` is the request that is next. ``again_in``: seconds until somebody is, where all
    who wait stand aside.
    """

    bucket: int
    news: News
    head: str | None
    again_in: float | None

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Self:
        news = News(
            told["version"],
            told["before"],
            told["what"],
            told["keep"],
            told["written"],
            told.get("after", 0.0),
        )
        return cls(told["bucket"], news, told.get("head"), told.get("again_in"))


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that takes a seat: the one with the number ``seat``, if it had one before.

    Its name begins with the replica's and a slash. ``age``: seconds since the seat was taken.
    """

    request: str
    bucket: int
    shard: int | None = None
    seat: int | None = None
    age: float | None = None


@dataclass(frozen=True, slots=True)
class Starts:
    """At most so many starts may have been granted since then, in Unix milliseconds."""

    since: int
    most: int


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim of the next grant of a bucket, from a replica that knows its ``version``.

    ``request`` is next unless it is passed over: the requests of ``silent`` replicas are.
    ``keep``: seconds to the next grant. ``pause``: seconds for which the shard is slowed down.
    """

    claim: str
    bucket: int
    version: int
    request: str
    keep: float
    silent: Sequence[str] = ()
    pause: float | None = None
    starts: Starts | None = None


@dataclass(frozen=True, slots=True)
class Claimed:
    """The grant's number, the version that it made, and how long its seat was kept."""

    grant: int
    version: int
    waited: float


class Engine:
    """The state of one bot's replicas. All of its keys begin with ``base``."""

    def __init__(
        self, client: Redis[str], reader: Redis[str], base: str, script: str = SCRIPT
    ) -> None:
        self._base = base
        self._script = client.register_script(script)
        self._reader = reader

    @classmethod
    @asynccontextmanager
    async def at(cls, url: str, base: str, script: str = SCRIPT) -> AsyncIterator[Self]:
        """The engine at this URL, for as long as the context lasts; it may be away meanwhile."""
        async with _client(url, TIMEOUT) as client, _client(url, TIMEOUT + NEWS_WAIT) as reader:
            yield cls(client, reader, base, script)

    async def join(self, replica: str, *, keep: float, buckets: int) -> "Member":
        """Become one of the replicas. ``keep``: how long a past is unknown, in seconds.

        A replica's name is used once: whoever was buried joins with another.
        """
        answer = await self.step("join", "", replica=replica, keep=keep, buckets=buckets)
        told = [Told.read(bucket) for bucket in answer["buckets"]]
        return Member(self, replica, answer["era"], told, answer["event"])

    async def step(self, name: str, era: str, **given: object) -> Any:
        """Have one step executed."""
        arguments = json.dumps({key: value for key, value in given.items() if value is not None})
        try:
            answer: Any = await self._script([self._base], [name, era, arguments])
        except (RedisError, OSError) as error:
            raise EngineError(f"{name}: {error}") from error
        return json.loads(answer)

    async def news(self, after: str) -> tuple[str, list[Told]]:
        """The news after this event, and the last event of them; waits some time for them."""
        events = f"{self._base}:events"
        try:
            block = int(NEWS_WAIT * 1000)
            read = await self._reader.xread({events: after}, block=block)
        except (RedisError, OSError) as error:
            raise EngineError(f"news: {error}") from error
        entries = [entry for stream in (read or {}).values() for entry in stream]
        told = [Told.read(json.loads(entry.field_values["news"])) for entry in entries]
        return (str(entries[-1].identifier) if entries else after), told


class Member:
    """A replica that has joined an era; its steps change nothing in any other.

    ``told`` is how the buckets stood then, ``event`` the last event before. All methods raise
    EngineError, and EraOverError once the era is over.
    """

    def __init__(
        self, engine: Engine, replica: str, era: str, told: Sequence[Told], event: str
    ) -> None:
        self.replica = replica
        self.era = era
        self.told = told
        self.event = event
        self._engine = engine

    async def arrive(self, arrivals: Sequence[Arrival]) -> list[int]:
        """Seat requests, in their order; one that has a seat keeps it. Returns the seats."""
        requests = [_without_none(asdict(arrival)) for arrival in arrivals]
        answer = await self._step("arrive", requests=requests)
        return list(answer["seats"])

    async def leave(self, requests: Sequence[str]) -> None:
        """The clients of these have left; their shards keep the seats for a while."""
        await self._step("leave", requests=requests)

    async def claim(self, claim: Claim) -> Claimed | Refusal:
        """Claim a grant. At most one claim of all succeeds for one version.

        Never cancel this: if it is unknown what became of a claim, it has to be made `void`.
        """
        answer = await self._step("claim", **_without_none(asdict(claim)))
        if refusal := answer.get("no"):
            return refusal  # type: ignore[no-any-return]
        return Claimed(answer["grant"], answer["version"], answer["waited"])

    async def handed_over(self, claim: Claim, *, late: bool) -> None:
        """The answer has been written, ``late`` if after the claim's window; may be repeated."""
        given = {"bucket": claim.bucket, "claim": claim.claim, "keep": claim.keep, "late": late}
        await self._step("handed_over", **given)

    async def void(self, claim: Claim, *, here: bool) -> Voided:
        """The answer was not written and never will be; ``here``: the client still waits.

        Where the claim is ``gone``, the client has to arrive again, with its seat's number.
        """
        given = {"bucket": claim.bucket, "version": claim.version, "claim": claim.claim}
        answer = await self._step("void", here=here, **given)
        return answer["done"]  # type: ignore[no-any-return]

    async def beat(self, ttl: float) -> dict[str, int]:
        """Show that this replica lives; returns how often the hearts of all have beaten.

        Seats of clients who left ``ttl`` seconds ago are forgotten. Raises BuriedError.
        """
        answer = await self._step("beat", replica=self.replica, ttl=ttl)
        if answer.get("no") == "buried":
            raise BuriedError
        return dict(answer["beats"])

    async def bury(self, replica: str, beats: int | None = None) -> int:
        """Take some requests of a dead replica for gone; returns how many there are left.

        Unless its heart has beaten since; without ``beats`` it is this one's own former name.
        """
        answer = await self._step("bury", replica=replica, beats=beats)
        return int(answer["left"])

    async def _step(self, name: str, **given: object) -> Any:
        answer = await self._engine.step(name, self.era, **given)
        if answer.get("no") == "era":
            raise EraOverError
        return answer


def _client(url: str, timeout: float) -> Redis[str]:
    return Redis.from_url(
        url,
        decode_responses=True,
        stream_timeout=timeout,
        connect_timeout=TIMEOUT,
        # The default would execute a step again that was executed, but not answered in time.
        retry_policy=NoRetryPolicy(),
    )


def _without_none(given: Mapping[str, object]) -> dict[str, Any]:
    given = {key: value for key, value in given.items() if value is not None}
    return {k: _without_none(v) if isinstance(v, Mapping) else v for k, v in given.items()}
