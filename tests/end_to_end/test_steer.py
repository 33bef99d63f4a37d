"""``gateway-queue pause`` and the other commands of an operator."""

from harness import SERVER, Program, running, running_server
from raw import waiting

KEY = "correct-horse-battery-staple"


async def run(server: Program, *arguments: str, key: str | None = KEY) -> tuple[int, str]:
    """The exit code and the words of a command that is told where the server is."""
    environment = {"GATEWAY_QUEUE_URL": server.url, "GATEWAY_QUEUE_OPERATOR_KEY": key}
    async with running(*SERVER, *arguments, **environment) as command:
        return await command.ended(), "\n".join(command.lines)


async def test_each_command_does_what_it_says() -> None:
    async with (
        running_server(
            GATEWAY_QUEUE_OPERATOR_KEY=KEY, GATEWAY_QUEUE_INTERVAL=60, GATEWAY_QUEUE_API_KEY="other"
        ) as server,
    ):
        restart = "or until the server restarts"
        said = await run(server, "pause", "--for", "30m", "database", "is down")
        assert said == (0, f"Paused for 30 min 0 s, {restart}")
        await server.logged("paused", reason="database is down")
        assert await run(server, "resume") == (0, "Not paused")
        said = await run(server, "slow", "90")
        assert said == (
            0,
            f"90 s between grants instead of 60 s until somebody ends it, {restart}",
        )
        code, words = await run(server, "slow", "off")
        assert (code, words.partition(" applies ")[0]) == (0, "The configured interval")
        assert (await run(server, "forgive", "1"))[0] == 1
        code, words = await run(server, "slow", "5")
        assert (code, "more than the configured interval" in words) == (1, True)


async def test_it_steers_a_shard() -> None:
    async with (
        running_server(GATEWAY_QUEUE_OPERATOR_KEY=KEY, GATEWAY_QUEUE_INTERVAL=60) as server,
        waiting(server, 1) as client,
    ):
        assert await run(server, "first", "1") == (0, "Shard 1 is next in its bucket")
        assert await run(server, "drop", "1") == (0, "Shard 1 no longer has a place")
        assert await client.rest() == b""


async def test_it_says_what_is_wrong() -> None:
    async with running_server(GATEWAY_QUEUE_OPERATOR_KEY=KEY) as server:
        code, words = await run(server, "resume", key=None)
        assert (code, "GATEWAY_QUEUE_OPERATOR_KEY" in words) == (2, True)
        code, words = await run(server, "resume", key="wrong")
        assert (code, "not the one" in words) == (1, True)
        assert (await run(server, "pause", "--for", "soon"))[0] == 2
        assert (await run(server, "slow", "fast"))[0] == 2
