"""The two ways on which a request is held: which one is taken, and that no client can tell."""

from raw import connect, grant_of, tampered_server


async def test_a_failure_on_the_short_way_ends_its_connection_and_nothing_else() -> None:
    async with tampered_server("short_way_fails_at_first", GATEWAY_QUEUE_INTERVAL=0.2) as server:
        async with connect(server) as client:
            await client.ask(1)
            assert await client.rest() == b""
        await server.logged("connection_failed")
        await grant_of(server, 2)
