"""``confirm``: the next grant waits for the true IDENTIFY, however long its client takes."""

import time
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import httpx
import pytest
import trio
from harness import Program, running_server
from instants import EXACT, LOGGED_WITHIN, opened_at
from prometheus_client.parser import text_string_to_metric_families
from raw import Client, answer_of, connect, waiting
from ways import on_one_server

pytestmark = pytest.mark.usefixtures("way")

# With this interval all the constants of ``confirm`` are a fifth of what they are.
INTERVAL = 1.0
HOLD = 2.0
AFTER_CONFIRMATION = 1.06


async def test_a_grant_to_be_confirmed_holds_its_bucket_until_then() -> None:
    async with confirming() as server:
        await granted(server, 0, confirm=True)
        async with waiting(server, 1) as other:
            await trio.sleep(0.3)
            said = await confirmed(server, 0)
            await opens(server, other, 1, AFTER_CONFIRMATION, after=said)


async def test_without_its_confirmation_it_does_so_twice_as_long() -> None:
    async with confirming() as server:
        first = await granted(server, 0, confirm=True)
        async with waiting(server, 1) as other:
            await opens(server, other, 1, HOLD, after=first)


async def test_a_late_or_a_second_confirmation_only_ever_defers_the_next_grant() -> None:
    async with confirming() as server:
        await granted(server, 0, confirm=True)
        unconfirmed = await granted(server, 1, confirm=True)  # as nobody has confirmed
        await confirmed(server, 0)
        await confirmed(server, 0)
        assert (await granted(server, 2)).began - unconfirmed.ended >= HOLD - EXACT
        async with waiting(server, 3) as other:
            await trio.sleep(0.3)
            for shard in (0, 1, 2):  # the last of them without having said that it would
                said = await confirmed(server, shard)
            await opens(server, other, 3, AFTER_CONFIRMATION, after=said)


async def test_a_confirmation_holds_up_no_other_bucket() -> None:
    async with confirming(GATEWAY_QUEUE_MAX_CONCURRENCY=2) as server:
        await granted(server, 0, confirm=True)
        first = await granted(server, 1)
        async with waiting(server, 3) as other:
            await confirmed(server, 0)
            await opens(server, other, 3, INTERVAL, after=first)


async def test_without_a_grant_or_with_bad_parameters_nothing_is_confirmed() -> None:
    async with confirming() as server, httpx.AsyncClient(base_url=server.url) as client:
        await granted(server, 1)
        for method, target, status, named in [
            ("POST", "/confirm?shard=0", 404, "shard 0"),
            ("POST", "/confirm", 400, "shard"),
            ("POST", "/confirm?shard=one", 400, "shard"),
            ("POST", "/confirm?shard=1&shard=1", 400, "shard"),
            ("POST", "/confirm?shard=1&outcome=other", 400, "outcome"),
            ("POST", "/confirm?shard=1&outcome=", 400, "outcome"),
            ("GET", "/confirm?shard=1", 405, "only allows POST"),
            ("PUT", "/confirm?shard=1", 405, "only allows POST"),
        ]:
            answer = await client.request(method, target)
            assert (method, target, answer.status_code) == (method, target, status)
            assert answer.headers["content-type"] == "application/problem+json"
            assert named in answer.json()["detail"]
        assert answer.headers["allow"] == "POST"


# Only the replica that leads counts what happens to shards.
@on_one_server
async def test_an_op_9_is_counted_and_logged() -> None:
    async with confirming() as server, httpx.AsyncClient(base_url=server.url) as client:
        await granted(server, 7, confirm=True)
        assert await invalid_sessions(client) == 0
        said = await confirmed(server, 7, "&outcome=invalid_session")
        assert await invalid_sessions(client) == 1
        await server.logged("invalid_session_reported", level="warning", shard=7)
        assert (await granted(server, 7)).ended - said.began >= AFTER_CONFIRMATION - EXACT


def confirming(**settings: object) -> AbstractAsyncContextManager[Program]:
    return running_server(GATEWAY_QUEUE_INTERVAL=INTERVAL, **settings)


@dataclass(frozen=True, slots=True)
class Span:
    """The instants between which something happened at the server."""

    began: float
    ended: float


async def granted(server: Program, shard: int, *, confirm: bool = False) -> Span:
    """When this shard was: the answer is sent as it is granted."""
    target = f"/?shard={shard}{'&confirm=true' if confirm else ''}"
    answer = await answer_of(server, f"GET {target} HTTP/1.1", "Host: queue")
    assert answer.is_grant
    return Span(answer.at, answer.at)


async def confirmed(server: Program, shard: int, outcome: str = "") -> Span:
    """When this shard was."""
    began = time.time()
    target = f"/confirm?shard={shard}{outcome}"
    async with connect(server) as client:
        await client.send(f"POST {target} HTTP/1.1", "Host: queue", "Content-Length: 0")
        answer = await client.answer(has_body=False)
    assert answer.status == 204
    return Span(began, answer.at)


async def opens(
    server: Program, client: Client, shard: int, seconds: float, *, after: Span
) -> None:
    """Wait for this client's turn; fail unless its bucket opened so many seconds after that."""
    answer = await client.answer()
    assert answer.is_grant
    assert answer.at - after.began >= seconds - EXACT
    line = await server.logged("identify_granted", shard=shard)
    assert opened_at(line) - after.ended < seconds + LOGGED_WITHIN


async def invalid_sessions(client: httpx.AsyncClient) -> float:
    text = (await client.get("/metrics")).text
    [value] = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "gateway_queue_invalid_sessions_total"
    ]
    return value
