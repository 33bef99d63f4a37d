"""``gateway-queue plan``: with a real server, and without one."""

import json

from harness import SERVER, Program, free_port, running, running_server
from raw import waiting

from gateway_queue.cli.plan_report import Plan


async def plan(*arguments: str, **environment: object) -> tuple[int, Program]:
    """``gateway-queue plan``, and its exit code."""
    async with running(*SERVER, "plan", *arguments, **({"COLUMNS": 80} | environment)) as program:
        code = await program.ended()
    assert "Traceback" not in said(program)
    return code, program


def said(program: Program) -> str:
    return "\n".join(" ".join(line.split()) for line in program.lines)


def at(server: Program) -> dict[str, object]:
    """The settings of whom to find the server."""
    return {"HOST": "127.0.0.1", "PORT": server.url.rpartition(":")[2]}


# With a server


async def test_a_launch_after_those_who_wait() -> None:
    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=60, GATEWAY_QUEUE_MAX_CONCURRENCY=4) as server,
        waiting(server, 0),
        waiting(server, 4),
    ):
        code, program = await plan("100", **at(server))
        words = said(program)
        other_code, other = await plan(
            *("--url", server.url, "100", "--max-concurrency", "100", "--interval", "120")
        )

    assert (code, other_code) == (0, 0)
    assert words.startswith(f"Plan for 100 shards at {server.url}\n")
    assert "4 buckets, one shard every 60 s in each." in words
    assert "950 of 1,000 session starts may be granted" in words
    words = " ".join(words.split())
    assert "100 shards in 4 buckets take 24 min 0 s. 2 wait before them." in words
    assert ", in 26 min " in words
    assert "100 buckets, one shard every 120 s in each." in said(other)
    assert "take 0 s." in said(other)


async def test_json_is_the_servers() -> None:
    async with running_server(GATEWAY_QUEUE_INTERVAL=60) as server:
        code, program = await plan("2000", "--json", **at(server))
        assert await server.stop() == 0

    assert code == 0
    found = json.loads(said(program))
    assert (found["shards"], found["missing"], found["all_in_in"]) == (2000, 1050, None)
    assert found["takes"] == 1999 * 60
    assert not server.logged_so_far("identify_queued")


async def test_refusals_are_shown_in_the_servers_own_words() -> None:
    async with running_server(GATEWAY_QUEUE_INTERVAL=60) as server:
        code, program = await plan("2000", "--interval", "3", **at(server))

    assert code == 2
    assert f"the server at {server.url} says: interval is '3.0'; it must be" in said(program)


async def test_a_server_that_does_not_know_the_limits_has_no_plan() -> None:
    async with running_server(
        DISCORD_TOKEN="token", GATEWAY_QUEUE_DISCORD_API="http://127.0.0.1:1"
    ) as server:
        code, program = await plan("2000", **at(server))

    assert code == 1
    assert "says: Discord's session start limit is unknown" in said(program)


# Without one


async def test_a_plan_without_a_server() -> None:
    code, program = await plan("2000", "--starts", "4000", "--max-concurrency", "16", PORT=0)

    assert code == 0
    words = said(program)
    assert words.startswith("Plan for 2,000 shards without a server\n")
    assert "16 buckets, one shard every 5.5 s in each." in words
    assert "There are enough session starts, with 1,800 to spare." in " ".join(words.split())


async def test_without_a_server_it_plans_for_one_with_these_settings() -> None:
    port = free_port()
    code, program = await plan(
        "2000",
        "--json",
        PORT=port,
        GATEWAY_QUEUE_INTERVAL=8,
        GATEWAY_QUEUE_MAX_CONCURRENCY=2,
        GATEWAY_QUEUE_DAILY_STARTS=500,
        GATEWAY_QUEUE_RESERVE=100,
    )

    assert code == 0
    assert f"no server answers at http://127.0.0.1:{port}: Connection refused" in said(program)
    (line,) = (line for line in program.lines if line.startswith("{"))
    found = json.loads(line)
    assert found["takes"] == found["limits"]["total"] / 500 * 999 * 8
    assert (found["buckets"], found["missing"]) == (2, 1600)
    assert set(Plan.__dataclass_fields__) <= set(found)


async def test_nobody_listens_where_the_server_is_said_to_be() -> None:
    code, program = await plan("2000", "--url", f"http://127.0.0.1:{free_port()}")

    assert code == 1
    assert "no server answers at" in said(program)
    assert len(program.lines) == 1


async def test_the_help_of_all_names_it() -> None:
    async with running(*SERVER, "--help", COLUMNS=80) as program:
        assert await program.ended() == 0

    assert "plan Show how long it takes to start SHARDS shards." in said(program)
