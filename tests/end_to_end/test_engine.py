"""The steps of the script: as one process would keep its line, and safe to repeat or delay."""

import signal
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest
import trio
from engines import INSTALLED, Server, servers
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway_queue.keeper.engine import (
    SCRIPT,
    Arrival,
    BuriedError,
    Claim,
    Claimed,
    Engine,
    EngineError,
    EraOverError,
    Member,
    Starts,
)
from gateway_queue.queue.rules.line import Line

pytestmark = pytest.mark.skipif(not INSTALLED, reason="no Redis or Valkey is installed")

BUCKETS = 2
TTL = 60.0
HOUR = 3600.0

bases = (f"test:{{{number}}}" for number in count())


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    with servers(tmp_path_factory.mktemp("engines")) as make:
        yield make


@pytest.fixture(scope="module", params=INSTALLED)
def server(request: pytest.FixtureRequest, make: Callable[..., Server]) -> Server:
    """One for all tests that do not harm it."""
    server = make(request.param)
    trio.run(server.start)
    return server


@pytest.fixture(params=INSTALLED)
async def fragile(request: pytest.FixtureRequest, make: Callable[..., Server]) -> Server:
    """One for a test that does."""
    server = make(request.param, "--appendonly", "yes", "--appendfsync", "always")
    await server.start()
    return server


@pytest.fixture
async def engine(server: Server) -> AsyncIterator[Engine]:
    async with Engine.at(server.url, next(bases)) as engine:
        yield engine


@pytest.fixture
async def alice(engine: Engine) -> Member:
    return await join(engine, "alice")


@pytest.fixture
async def bob(engine: Engine) -> Member:
    return await join(engine, "bob")


async def join(engine: Engine, replica: str) -> Member:
    return await engine.join(replica, keep=11.0, buckets=BUCKETS)


async def heads(engine: Engine) -> list[str | None]:
    return [told.head for told in (await join(engine, "looking")).told]


def claim(request: str, version: int = 0, name: str = "first", **more: Any) -> Claim:
    return Claim(name, 0, version, request, keep=5.5, **more)


# Against the line of one process -----------------------------------------------------------


class TimedEngine(Engine):
    """An engine whose clock is the test's, in milliseconds."""

    now = 1_780_000_000_000

    async def step(self, name: str, era: str, **given: object) -> Any:
        return await super().step(name, era, now=self.now, **given)


TIMED_SCRIPT = SCRIPT.replace(
    "call('TIME')", "{ math.floor(given.now / 1000), given.now % 1000 * 1000 }"
)
assert TIMED_SCRIPT != SCRIPT


@dataclass(frozen=True)
class Client:
    name: str
    shard: int | None


shards = st.sampled_from([0, 0, 1, 2, None])
fates = st.sampled_from(["handed over", "given back", "left", "lost"])
happenings = st.lists(
    st.tuples(st.just("arrive"), shards, st.sampled_from(["alice", "bob"]))
    | st.tuples(st.just("arrive"), shards, st.sampled_from(["alice", "bob"]))
    | st.tuples(st.just("leave"), st.integers(0, 99))
    | st.tuples(st.just("claim"), st.integers(0, 1), st.none() | st.integers(1, 100), fates)
    | st.tuples(st.just("pass"), st.integers(1, 40_000))
    | st.tuples(st.just("forget"))
    | st.tuples(st.just("bury"), st.sampled_from(["alice", "bob"])),
    min_size=10,
    max_size=60,
)


class Together:
    """The script and a line of one process, to which the same happens. Times are milliseconds."""

    def __init__(self, engine: TimedEngine, member: Member) -> None:
        self.engine = engine
        self.member = member
        self.eligible: dict[int | None, float] = {}
        numbers = count(1)
        self.lines = [
            Line[Client](numbers, TTL * 1000, lambda shard: self.eligible.get(shard, -1e99))
            for _ in range(BUCKETS)
        ]
        self.here: list[Client] = []
        self.names = count(1)
        self.told = member.told

    @property
    def now(self) -> int:
        return self.engine.now

    def line_of(self, client: Client) -> Line[Client]:
        return self.lines[(client.shard or 0) % BUCKETS]

    async def arrive(self, shard: int | None, replica: str) -> None:
        client = Client(f"{replica}/{next(self.names)}", shard)
        self.here.append(client)
        self.line_of(client).arrive(client, self.now)
        arrival = Arrival(client.name, (shard or 0) % BUCKETS, shard)
        for _ in range(2):  # the second time it has its seat
            await self.member.arrive([arrival])

    async def leave(self, number: int) -> None:
        if self.here:
            client = self.here.pop(number % len(self.here))
            self.line_of(client).leave(client, self.now)
            for _ in range(2):
                await self.member.leave([client.name])

    async def claim(self, bucket: int, pause: int | None, fate: str) -> None:
        line = self.lines[bucket]
        client = line.next(self.now)
        if client is None:
            return
        if fate == "lost" or client.shard is None:
            pause = None
        version = self.told[bucket].news.version
        claim = Claim(f"c{next(self.names)}", bucket, version, client.name, 5.5, pause=pause)
        since = line.since(client)
        claimed = await self.member.claim(claim)
        assert isinstance(claimed, Claimed)
        assert claimed.waited * 1000 == pytest.approx(self.now - since, abs=0.5)
        assert await self.member.claim(claim) == "stale"
        if fate == "given back":
            assert await self.member.void(claim, here=True) == "given_back"
            return
        self.here.remove(client)
        if fate == "left":
            assert await self.member.void(claim, here=False) == "given_back"
            line.leave(client, self.now)
        elif fate == "lost":
            other = Claim("other", bucket, claimed.version, "nobody/0", 5.5)
            assert await self.member.claim(other) == "other"
            line.leave(client, self.now)
        else:
            if pause:
                self.eligible[client.shard] = self.now + pause * 1000
            line.grant(client)
            await self.member.handed_over(claim, late=False)

    async def forget(self) -> None:
        await self.member.beat(TTL)
        for line in self.lines:
            line.forget(self.now)

    async def bury(self, replica: str) -> None:
        dead = [client for client in self.here if client.name.startswith(replica)]
        for client in dead:
            self.here.remove(client)
            self.line_of(client).leave(client, self.now)
        assert await self.member.bury(replica) == 0

    async def compare(self) -> None:
        self.told = (await join(self.engine, "looking")).told
        for told, line in zip(self.told, self.lines, strict=True):
            client = line.next(self.now)
            assert told.head == (client.name if client else None)
            if client is None and line.waiting:
                assert told.again_in is not None
                assert told.again_in * 1000 == pytest.approx(line.next_at - self.now, abs=1)

    async def happens(self, what: str, *how: Any) -> None:
        if what == "pass":
            self.engine.now += how[0]
        else:
            await getattr(self, what)(*how)
        await self.compare()


@settings(max_examples=150)
@given(happenings)
async def test_the_script_serves_in_the_order_of_a_line(
    server: Server, happenings: list[tuple[Any, ...]]
) -> None:
    async with TimedEngine.at(server.url, next(bases), TIMED_SCRIPT) as engine:
        both = Together(engine, await join(engine, "replica"))
        for what, *how in happenings:
            await both.happens(what, *how)
        engine.now += 2 * int(HOUR) * 1000
        while both.here:
            for bucket in range(BUCKETS):
                await both.compare()
                await both.claim(bucket, None, "handed over")


# Claims ------------------------------------------------------------------------------------


async def test_of_two_claims_of_a_version_one_succeeds(alice: Member, bob: Member) -> None:
    await alice.arrive([Arrival("alice/1", 0, 0)])
    await bob.arrive([Arrival("bob/1", 0, 2)])

    assert isinstance(await alice.claim(claim("alice/1")), Claimed)
    assert await bob.claim(claim("bob/1", name="second")) == "stale"


async def test_only_who_is_next_is_granted(alice: Member, bob: Member) -> None:
    await alice.arrive([Arrival("alice/1", 0, 0)])
    await bob.arrive([Arrival("bob/1", 0, 2)])

    assert await bob.claim(claim("bob/1")) == "other"


async def test_a_silent_replica_is_passed_over_and_keeps_its_rank(
    engine: Engine, alice: Member, bob: Member
) -> None:
    await alice.arrive([Arrival("alice/1", 0, 0)])
    await bob.arrive([Arrival("bob/1", 0, 2), Arrival("bob/2", 0, 4)])

    assert isinstance(await bob.claim(claim("bob/1", silent=["alice"])), Claimed)
    assert (await heads(engine))[0] == "alice/1"


async def test_a_claim_that_was_forestalled_is_never_executed(alice: Member) -> None:
    await alice.arrive([Arrival("alice/1", 0, 0)])
    late = claim("alice/1")

    assert await alice.void(late, here=True) == "forestalled"
    assert await alice.claim(late) == "stale"
    assert isinstance(await alice.claim(claim("alice/1", 1, "next")), Claimed)


async def test_a_claim_may_be_voided_again(alice: Member) -> None:
    await alice.arrive([Arrival("alice/1", 0, 0)])
    await alice.claim(claim("alice/1"))

    assert await alice.void(claim("alice/1"), here=True) == "given_back"
    assert await alice.void(claim("alice/1"), here=True) == "gone"


async def test_a_claim_is_gone_once_another_followed(
    engine: Engine, alice: Member, bob: Member
) -> None:
    """Its seat is kept, for the claim may have reached its client."""
    await alice.arrive([Arrival("alice/1", 0, 0)])
    await bob.arrive([Arrival("bob/1", 0, 2), Arrival("bob/2", 0, 4)])
    await alice.claim(claim("alice/1"))
    await bob.claim(claim("bob/1", 1, "second"))

    assert await alice.void(claim("alice/1"), here=True) == "gone"
    await alice.arrive([Arrival("alice/1", 0, 0)])
    assert (await heads(engine))[0] == "alice/1"


async def test_no_more_is_granted_than_there_are_starts(alice: Member) -> None:
    await alice.arrive([Arrival("alice/1", 0, 0), Arrival("alice/2", 0, 2)])
    one = Starts(since=0, most=1)
    await alice.claim(claim("alice/1", starts=one))

    assert await alice.claim(claim("alice/2", 1, "second", starts=one)) == "starts"


# Reports -----------------------------------------------------------------------------------


async def news_of(engine: Engine, after: str) -> list[tuple[int, str]]:
    """The versions of bucket 0, and what made them; not what was only told of who is next."""
    _, told = await engine.news(after)
    return [(one.news.version, one.news.what) for one in told if one.news.what != "standing"]


async def test_a_report_that_is_repeated_says_nothing(engine: Engine, alice: Member) -> None:
    await alice.arrive([Arrival("alice/1", 0, 0)])
    await alice.claim(claim("alice/1"))
    for _ in range(2):
        await alice.handed_over(claim("alice/1"), late=False)

    assert await news_of(engine, alice.event) == [(1, "claimed"), (1, "handed_over")]


async def test_a_report_after_the_window_puts_the_bucket_off(engine: Engine, alice: Member) -> None:
    await alice.arrive([Arrival("alice/1", 0, 0)])
    await alice.claim(claim("alice/1"))
    await alice.handed_over(claim("alice/1"), late=True)

    assert await news_of(engine, alice.event) == [(1, "claimed"), (2, "put_off")]


async def test_a_report_after_the_next_claim_stops_a_claim_in_flight(
    engine: Engine, alice: Member, bob: Member
) -> None:
    await alice.arrive([Arrival("alice/1", 0, 0)])
    await bob.arrive([Arrival("bob/1", 0, 2), Arrival("bob/2", 0, 4)])
    await alice.claim(claim("alice/1"))
    await bob.claim(claim("bob/1", 1, "second"))
    for _ in range(2):
        await alice.handed_over(claim("alice/1"), late=False)

    assert await bob.claim(claim("bob/2", 2, "third")) == "stale"
    assert (await news_of(engine, alice.event))[-1] == (3, "put_off")


# Replicas that die, and state that is lost -----------------------------------------------------


async def test_the_clients_of_a_dead_replica_find_their_seats_elsewhere(
    engine: Engine, alice: Member, bob: Member
) -> None:
    beats = await bob.beat(TTL)
    await alice.arrive([Arrival(f"alice/{shard}", 0, shard) for shard in range(0, 500, 2)])
    await bob.arrive([Arrival("bob/1", 0, 1000)])
    while await bob.bury("alice", beats["alice"]):
        pass

    assert (await heads(engine))[0] == "bob/1"
    await bob.arrive([Arrival("bob/2", 0, 0)])
    assert (await heads(engine))[0] == "bob/2"
    with pytest.raises(BuriedError):
        await alice.beat(TTL)


async def test_a_replica_whose_heart_beats_is_not_buried(alice: Member, bob: Member) -> None:
    beats = await bob.beat(TTL)
    await alice.arrive([Arrival("alice/1", 0, 0)])
    await alice.beat(TTL)
    await bob.bury("alice", beats["alice"])

    await alice.beat(TTL)


async def test_after_a_flush_nothing_is_granted_in_the_old_era(fragile: Server) -> None:
    async with Engine.at(fragile.url, next(bases)) as engine:
        alice = await join(engine, "alice")
        first, second = await alice.arrive([Arrival("alice/1", 0, 0), Arrival("alice/2", 0, 2)])
        await fragile.flush()

        with pytest.raises(EraOverError):
            await alice.claim(claim("alice/1"))

        alice = await join(engine, "alice again")
        assert alice.told[0].news.keep == 11.0
        new = Arrival("alice again/3", 0, 4)
        told_again = [
            Arrival("alice again/2", 0, 2, seat=second),
            Arrival("alice again/1", 0, 0, seat=first),
        ]
        await alice.arrive([new, *told_again])
        assert (await heads(engine))[0] == "alice again/1"


async def test_a_restart_begins_a_new_era_and_keeps_the_seats(fragile: Server) -> None:
    async with Engine.at(fragile.url, next(bases)) as engine:
        alice = await join(engine, "alice")
        await alice.arrive([Arrival("alice/1", 0, 0), Arrival("alice/2", 0, 2)])
        await alice.claim(claim("alice/1"))
        fragile.kill()
        await fragile.start()

        with pytest.raises(EraOverError):
            await alice.handed_over(claim("alice/1"), late=False)

        bob = await join(engine, "bob")
        assert not bob.told[0].news.written
        await bob.arrive([Arrival("bob/1", 0, 0)])
        assert (await heads(engine))[0] == "bob/1"


async def test_what_a_stopped_server_executes_late_can_be_voided(fragile: Server) -> None:
    async with Engine.at(fragile.url, next(bases)) as engine:
        alice = await join(engine, "alice")
        await alice.arrive([Arrival("alice/1", 0, 0)])
        fragile.signal(signal.SIGSTOP)
        with pytest.raises(EngineError, match="timed out"):
            await alice.claim(claim("alice/1"))
        fragile.signal(signal.SIGCONT)

        assert await alice.void(claim("alice/1"), here=True) == "given_back"
        assert (await heads(engine))[0] == "alice/1"


async def test_a_dead_server_is_an_error_and_needs_no_new_connection(fragile: Server) -> None:
    async with Engine.at(fragile.url, next(bases)) as engine:
        alice = await join(engine, "alice")
        fragile.kill()
        with pytest.raises(EngineError):
            await alice.beat(TTL)
        await fragile.start()

        with pytest.raises(EraOverError):
            await alice.beat(TTL)
