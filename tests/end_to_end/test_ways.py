"""The two ways on which a request is held: which one it takes, and that no client can tell."""

import re
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager

import pytest
from encrypted import Identity, connected
from harness import Program
from hypercorn_command import serving
from raw import Answer, Client, connect, grant_of, tampered_server

KEY = "sesame-9f2c"
ONE = "Host: queue"
CLOSE = "Connection: close"

# Requests that take the short way, each for a shard of its own.
GRANTED = {
    "HTTP/1.1": ("GET /?shard={} HTTP/1.1", ONE),
    "HTTP/1.1, to be closed": ("GET /?shard={} HTTP/1.1", ONE, CLOSE),
    "HTTP/1.0": ("GET /?shard={} HTTP/1.0",),
    "HTTP/1.0, to be kept": ("GET /?shard={} HTTP/1.0", "Connection: keep-alive"),
    "HEAD": ("HEAD /?shard={} HTTP/1.1", ONE),
    "HEAD, to be closed": ("HEAD /?shard={} HTTP/1.0",),
    "POST without a body": ("POST /?shard={} HTTP/1.1", ONE),
    "prefix": ("GET /queue/?shard={} HTTP/1.1", ONE),
    "whole URL": ("GET http://queue/?shard={} HTTP/1.1", ONE),
    "wait": ("GET /?shard={}&wait=60 HTTP/1.1", ONE),
    "confirm": ("GET /?shard={}&confirm=true HTTP/1.1", ONE),
}
PUT_OFF = {
    "wait": ("GET /?shard={}&wait=0.001 HTTP/1.1", ONE),
    "wait, to be closed": ("GET /?shard={}&wait=0.001 HTTP/1.1", ONE, CLOSE),
    "wait, HTTP/1.0": ("GET /?shard={}&wait=0.001 HTTP/1.0",),
    "wait, HEAD": ("HEAD /?shard={}&wait=0.001 HTTP/1.1", ONE),
}

# What only Hypercorn answers.
NOT_SHORT = {
    "page": ("GET /healthz HTTP/1.1", ONE),
    "nonsense": ("GET /?shard=nonsense HTTP/1.1", ONE),
    "body": ("POST /?shard=1 HTTP/1.1", ONE, "Content-Length: 0"),
}

# What answers may differ in: the reason, which h11 leaves out; the date; and, in a 202, when
# the turn is expected, and how many digits that has.
MAY_DIFFER = re.compile(rb"(?<=HTTP/1.1 ...) [\w ]*|(?<=date: )[^\r]*")
MAY_DIFFER_IN_202 = re.compile(rb'(?<=content-length: )\d+|(?<="expected_in": )[\d.]+')


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return Identity.new(tmp_path_factory.mktemp("identity"))


@pytest.mark.parametrize(
    ("command", "is_encrypted", "has_key"),
    [
        ("gateway-queue", False, False),
        ("gateway-queue", True, True),
        ("hypercorn", False, True),
        ("hypercorn", True, False),
    ],
)
async def test_no_client_can_tell_which_way_its_request_took(
    command: str, *, is_encrypted: bool, has_key: bool, identity: Identity
) -> None:
    headers = [f"Authorization: Bearer {KEY}"] if has_key else []
    settings: dict[str, object] = {
        "GATEWAY_QUEUE_INTERVAL": 0.05,
        "GATEWAY_QUEUE_CRASH_LOOP": "1/600",
        "GATEWAY_QUEUE_API_KEY": KEY if has_key else None,
    }

    def server_with(change: str) -> AbstractAsyncContextManager[Program]:
        if command == "gateway-queue":
            files = identity.settings if is_encrypted else {}
            return tampered_server(change, **settings, **files)
        options = ("--certfile", str(identity.certfile), "--keyfile", str(identity.keyfile))
        return serving(*options if is_encrypted else (), TAMPERING=change, **settings)

    async with server_with("way_through_hypercorn_is_closed") as server:
        short = await answers(server, identity, headers)
        for name, lines in NOT_SHORT.items():
            async with connected(server, identity) as client:
                await client.send(*lines, *headers)
                assert await client.rest() == b"", name
        if has_key:
            async with connected(server, identity) as client:
                await client.send(*GRANTED["HTTP/1.1"], f"{headers[0]}?")
                assert await client.rest() == b""
    async with server_with("short_way_is_closed") as server:
        through_hypercorn = await answers(server, identity, headers)

    assert short == through_hypercorn
    statuses = {answer[:12] for conversation in short.values() for answer in conversation}
    assert statuses == {b"HTTP/1.1 200", b"HTTP/1.1 202"}


async def answers(
    server: Program, identity: Identity, headers: list[str]
) -> dict[str, list[bytes]]:
    """What is answered to all of these."""
    heard = {}
    for number, (name, lines) in enumerate(GRANTED.items(), start=1):
        async with connected(server, identity) as client:
            heard[name] = await converse(client, [*lines, *headers], [2 * number, 2 * number + 1])
    slowed_down = 0
    async with connected(server, identity) as client:
        await converse(client, [*GRANTED["HTTP/1.1"], *headers], 2 * [slowed_down])
    for name, lines in PUT_OFF.items():
        async with connected(server, identity) as client:
            heard[name] = await converse(client, [*lines, *headers], 2 * [slowed_down])
    return heard


async def converse(client: Client, lines: list[str], shards: Iterable[int]) -> list[bytes]:
    """Ask for these shards, one after the other, for as long as the connection lasts."""
    heard = []
    for shard in shards:
        await client.send(lines[0].format(shard), *lines[1:])
        answer = await client.answer(has_body=not lines[0].startswith("HEAD"))
        heard.append(comparable(answer))
        if "connection" in answer.headers:
            assert await client.rest() == b""
            break
    return heard


def comparable(answer: Answer) -> bytes:
    words = MAY_DIFFER.sub(b"", answer.head + answer.body)
    return MAY_DIFFER_IN_202.sub(b"", words) if answer.status == 202 else words


async def test_a_failure_on_the_short_way_ends_its_connection_and_nothing_else() -> None:
    async with tampered_server("short_way_fails_at_first", GATEWAY_QUEUE_INTERVAL=0.2) as server:
        async with connect(server) as client:
            await client.ask(1)
            assert await client.rest() == b""
        await server.logged("connection_failed")
        await grant_of(server, 2)
