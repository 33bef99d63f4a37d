"""What the server says of itself at ``/openapi.json`` is true, and all of it."""

import json
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest
from fake_discord import fake_discord
from harness import running, running_server
from patience import PATIENCE
from raw import grant_of, waiting

from gateway_queue import __version__
from gateway_queue.http.asking import BELOW, RESERVED

HERE = Path(__file__).parent
SCHEMATHESIS = [
    *(sys.executable, "-m", "schemathesis.cli"),
    *("--config-file", str(HERE / "schemathesis.toml"), "run"),
]
# Without an operator key all of that is 403, also where no key is sent.
WITHOUT_OPERATOR = ("--exclude-path-regex", "^/operator")
HOOKS = HERE / "programs" / "schemathesis_hooks.py"
DESCRIPTION = json.loads(files("gateway_queue.http").joinpath("openapi.json").read_bytes())
KEY = "correct-horse-battery-staple"

# So that every turn comes at once, however many are asked for.
FAST: dict[str, object] = {
    "GATEWAY_QUEUE_INTERVAL": 0.005,
    "GATEWAY_QUEUE_CRASH_LOOP": "off",
    "GATEWAY_QUEUE_DAILY_STARTS": 1_000_000,
}


def faults(value: Any, schema: dict[str, Any]) -> list[str]:
    """Where a value is not as this part of the description says, or has fields beyond it."""
    validator = jsonschema_rs.Draft202012Validator(closed(DESCRIPTION | schema))
    return [str(error) for error in validator.iter_errors(value)]


def described(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def closed(part: Any) -> Any:
    """The same part of the description, where objects may have no other fields."""
    if isinstance(part, list):
        return [closed(item) for item in part]
    if not isinstance(part, dict):
        return part
    inner = {name: closed(value) for name, value in part.items()}
    return inner | {"additionalProperties": False} if "properties" in part else inner


# The description


def test_all_pages_are_described() -> None:
    below = {path for path in DESCRIPTION["paths"] if path.startswith(BELOW)}

    assert set(DESCRIPTION["paths"]) - below == RESERVED | {"/"}


def test_the_description_is_of_this_version() -> None:
    assert DESCRIPTION["info"]["version"] == __version__


def test_the_examples_are_as_described() -> None:
    found = list(examples(DESCRIPTION))

    assert len(found) > 10
    for example, schema in found:
        assert faults(example, schema) == []


def examples(part: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Each example and its schema."""
    if isinstance(part, dict) and "example" in part:
        yield part["example"], part["schema"]
    elif isinstance(part, dict | list):
        for inner in part.values() if isinstance(part, dict) else part:
            yield from examples(inner)


async def test_the_description_is_a_page_like_others() -> None:
    async with (
        running_server(GATEWAY_QUEUE_API_KEY=KEY) as server,
        httpx.AsyncClient(base_url=server.url) as client,
    ):
        refused = await client.get("/openapi.json")
        client.headers["Authorization"] = f"Bearer {KEY}"
        answer = await client.get("/openapi.json")
        wrong = await client.post("/openapi.json?shard=1")

    assert (refused.status_code, answer.status_code, wrong.status_code) == (401, 200, 405)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == DESCRIPTION


# The answers


async def test_schemathesis_finds_nothing() -> None:
    async with (
        running_server(**FAST) as server,
        running(
            *(*SCHEMATHESIS, f"{server.url}/openapi.json", *WITHOUT_OPERATOR),
            SCHEMATHESIS_HOOKS=HOOKS,
        ) as schemathesis,
    ):
        assert await schemathesis.ended(within=3 * PATIENCE) == 0


async def test_schemathesis_finds_nothing_with_a_key_and_a_token(tmp_path: Path) -> None:
    """Here the key is required, and no answer may have a field that is not described."""
    description = tmp_path / "openapi.json"
    description.write_text(json.dumps(closed(DESCRIPTION) | {"security": [{"api_key": []}]}))
    async with (
        fake_discord(total=1_000_000, remaining=1_000_000) as discord,
        running_server(
            **FAST,
            DISCORD_TOKEN=discord.token,
            GATEWAY_QUEUE_DISCORD_API=discord.api,
            GATEWAY_QUEUE_API_KEY=KEY,
        ) as server,
    ):
        await server.logged("limits_read")
        async with running(
            *(*SCHEMATHESIS, str(description), "--url", server.url, *WITHOUT_OPERATOR),
            *("--header", f"Authorization: Bearer {KEY}"),
            SCHEMATHESIS_HOOKS=HOOKS,
        ) as schemathesis:
            assert await schemathesis.ended(within=3 * PATIENCE) == 0


async def test_schemathesis_finds_nothing_that_an_operator_may_do(tmp_path: Path) -> None:
    description = tmp_path / "openapi.json"
    description.write_text(json.dumps(closed(DESCRIPTION)))
    async with (
        running_server(**FAST, GATEWAY_QUEUE_OPERATOR_KEY=KEY) as server,
        running(
            *(*SCHEMATHESIS, str(description), "--url", server.url),
            *("--include-path-regex", "^/operator", "--phases", "examples,coverage,fuzzing"),
            *("--header", f"Authorization: Bearer {KEY}"),
            SCHEMATHESIS_HOOKS=HOOKS,
        ) as schemathesis,
    ):
        assert await schemathesis.ended(within=3 * PATIENCE) == 0


@pytest.mark.parametrize(
    ("reason", "granted", "settings"),
    [
        ("interval", [], {"GATEWAY_QUEUE_INTERVAL": 60}),
        (
            "crash_loop",
            [7, 7],
            {"GATEWAY_QUEUE_INTERVAL": 0.05, "GATEWAY_QUEUE_CRASH_LOOP": "1/600"},
        ),
        (
            "reserve",
            [1],
            {
                "GATEWAY_QUEUE_INTERVAL": 0.05,
                "GATEWAY_QUEUE_DAILY_STARTS": 2,
                "GATEWAY_QUEUE_RESERVE": 1,
            },
        ),
        (
            "limits_unknown",
            [],
            {"DISCORD_TOKEN": "token", "GATEWAY_QUEUE_DISCORD_API": "http://127.0.0.1:1"},
        ),
    ],
)
async def test_those_who_wait_are_told_as_described(
    reason: str, granted: list[int], settings: dict[str, object]
) -> None:
    async with (
        running_server(**settings) as server,
        httpx.AsyncClient(base_url=server.url) as client,
    ):
        for shard in granted:
            await grant_of(server, shard)
        async with waiting(server, 7):
            put_off = await client.get("/", params={"shard": 7, "wait": 0.01})
            status = (await client.get("/status?seats=true")).json()

    assert (put_off.status_code, put_off.json()["reason"]) == (202, reason)
    assert faults(put_off.json(), described("PutOff")) == []
    assert status["seats"][0]["reason"] == reason
    assert faults(status, described("Status")) == []
