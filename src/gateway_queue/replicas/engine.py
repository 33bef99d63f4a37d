"""The steps that change the state shared by all replicas, in Redis or Valkey.

They are in one script, `engine.lua`. This module sends them and reads their answers; it decides
nothing. A step that fails may still have been executed, or be executed later.
"""

import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import structlog
from anyio import BrokenResourceError, ClosedResourceError
from coredis import Redis
from coredis.exceptions import RedisError, ResponseError

from gateway_queue.redis_url import RedisURL
from gateway_queue.replicas.connections import client

log = structlog.get_logger()

SCRIPT = Path(__file__).with_name("engine.lua").read_text(encoding="utf-8")

# How long to wait for an answer or a connection, in seconds. Coredis would wait forever.
TIMEOUT = 1.0

# How long one request for news waits for them, in seconds. Nothing depends on it: it only
# shows whether the connection still works.
NEWS_WAIT = 5.0

# How often the connection that waits for news may break. Coredis counts broken ones as still in
# use, and once the pool is full, it would wait forever for a free one.
LOSSES = 100_000

# How long a primary that was cut off may still accept grants: with `min-replicas-max-lag 2` it
# refuses writes after this many seconds.
FAILOVER = 3.0


class EngineError(Exception):
    """The engine cannot be reached, or refused. What was asked for may still happen."""


class EraOverError(Exception):
    """The state was lost, or another process holds it: everything before now is unknown."""


class TermOverError(Exception):
    """Another replica leads, or may."""


class BuriedError(Exception):
    """The others considered this replica dead."""


@dataclass(frozen=True, slots=True)
class Joined:
    """The state when a replica joined: who leads (empty: nobody).

    ``events``: the number of the last event. ``settings``: those of the last leader.
    ``has_replicas``: one of them may replace the engine, or the engine has replaced another.
    """

    era: str
    term: int
    leader: str
    events: int
    has_replicas: bool
    settings: str | None = None


@dataclass(frozen=True, slots=True)
class Heard:
    """Who leads in which term, and the number of heartbeats of each replica.

    ``events``: the number of the last event.
    """

    term: int
    leader: str
    events: int
    beats: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Led:
    """A term that begins."""

    term: int
    time: int  # Unix milliseconds


@dataclass(frozen=True, slots=True)
class News:
    """What a replica has read, with numbers: ``events`` for all, ``entries`` for itself."""

    events: Sequence[tuple[int, Any]]
    entries: Sequence[tuple[int, Any]]


class Engine:
    """The state of a deployment. All of its keys begin with ``base``."""

    def __init__(
        self, client: Redis[str], reader: Redis[str], base: str, script: str = SCRIPT
    ) -> None:
        self._base = base
        self._client = client
        self._script = client.register_script(script)
        self._reader = reader
        self._refused: set[str] = set()  # steps that were refused when last tried

    @classmethod
    @asynccontextmanager
    async def at(cls, url: str, base: str, script: str = SCRIPT) -> AsyncIterator[Self]:
        """The engine at this URL, for as long as the context lasts; it may be down meanwhile."""
        parsed = RedisURL.parse(url)
        async with (
            client(parsed, TIMEOUT, TIMEOUT) as asker,
            client(parsed, TIMEOUT, TIMEOUT + NEWS_WAIT, LOSSES) as reader,
        ):
            yield cls(asker, reader, base, script)

    async def join(self, replica: str, era: str = "", events: int = 0) -> Joined:
        """Become one of the replicas, having heard so many events of an era."""
        return Joined(**await self._step("join", era, replica=replica, events=events))

    async def beat(self, era: str, replica: str) -> Heard:
        """Show that this replica is alive. Raises BuriedError if it was considered dead."""
        return Heard(**await self._step("beat", era, replica=replica))

    async def lead(self, era: str, replica: str, term: int, settings: str) -> Led:
        """Begin the term after this one. Raises TermOverError if another replica did."""
        return Led(**await self._step("lead", era, replica=replica, term=term, settings=settings))

    async def step(self, name: str, era: str, **given: object) -> Any:
        """Execute one of the other steps.

        Raises EngineError, EraOverError, and, for a step of the leader, TermOverError.
        """
        try:
            answer = await self._step(name, era, **given)
        except EngineError as error:
            if isinstance(error.__cause__, ResponseError) and name not in self._refused:
                self._refused.add(name)
                log.error("engine_refuses", step=name, error=str(error))
            raise
        self._refused.discard(name)
        return answer

    async def news(self, era: str, replica: str, event: int, entry: int) -> News:
        """What came after this event and this entry; waits until there is something."""
        events, inbox = f"{self._base}:events", f"{self._base}:to:{era}:{replica}"
        after = {events: f"{event}-0", inbox: f"{entry}-0"}
        with self._explained("news"):
            read = await self._reader.xread(after, block=int(NEWS_WAIT * 1000), count=1000)
        read = read or {}
        return News(
            [(_first_part(one), _decoded(one, "event")) for one in read.get(events, ())],
            [(_first_part(one), _decoded(one, "entry")) for one in read.get(inbox, ())],
        )

    async def weaknesses(self) -> list[str]:
        """How the engine may lose what it acknowledged, and which settings prevent that."""
        with self._explained("info"):
            memory = await self._client.info("memory")
            replication = await self._client.info("replication")
        found = []
        policy = str(memory.get("maxmemory_policy", "noeviction"))
        if policy != "noeviction":
            found.append(
                f"Redis may drop keys of the queue: set maxmemory-policy, which is {policy},"
                " to noeviction"
            )
        # This field only exists if both settings are set.
        if replication.get("connected_slaves") and "min_slaves_good_slaves" not in replication:
            found.append(
                "a failover may lose grants, and two shards may then identify at once: set"
                " min-replicas-to-write 1 and min-replicas-max-lag 2"
            )
        return found

    async def fields(self, key: str) -> dict[str, str]:
        """All fields of a hash of ours."""
        with self._explained(key):
            return dict(await self._client.hgetall(f"{self._base}:{key}"))

    async def grants(self, bot: str, since: int) -> list[tuple[int, Any]]:
        """The rows of a bot's grants since then, the oldest first; times in Unix milliseconds."""
        with self._explained("grants"):
            rows = await self._client.xrange(f"{self._base}:grants:{bot}", start=str(since))
        return [(_first_part(row), _decoded(row, "row")) for row in rows]

    async def _step(self, name: str, era: str, **given: object) -> Any:
        arguments = json.dumps({key: value for key, value in given.items() if value is not None})
        with self._explained(name):
            answer = json.loads(str(await self._script([self._base], [name, era, arguments])))
        match answer and answer.get("no"):
            case "era":
                raise EraOverError
            case "term":
                raise TermOverError
            case "buried":
                raise BuriedError
        return answer or {}

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except (RedisError, OSError, BrokenResourceError, ClosedResourceError) as error:
            if isinstance(error, TimeoutError):
                # The peer may accept what is sent and never answer: a server that hangs and was
                # replaced by another, or one that has vanished.
                for one in (self._client, self._reader):
                    one.connection_pool.disconnect()
            why = f" ({error.__cause__})" if error.__cause__ else ""
            raise EngineError(f"{what}: {error or type(error).__name__}{why}") from error


def _first_part(entry: Any) -> int:
    """The first number of an entry's id."""
    return int(str(entry.identifier).partition("-")[0])


def _decoded(entry: Any, field: str) -> Any:
    return json.loads(entry.field_values[field])
