"""The health check of the container image, against real servers."""

import sys
from pathlib import Path

import httpx
import trustme
from harness import Program, free_port, running, running_server

HEALTHY = Path(__file__).parent.parent.parent / "deploy" / "container" / "healthy.py"


async def check(port: int, **settings: object) -> tuple[int, list[str]]:
    """Its exit code and its words, in the environment that the server of the container has."""
    async with running(sys.executable, str(HEALTHY), HOST="0.0.0.0", PORT=port, **settings) as it:
        return await it.ended(), it.lines


def port_of(server: Program) -> int:
    return httpx.URL(server.url).port or 0


async def test_a_server_that_lives_is_healthy_and_nobodys_turn_is_taken() -> None:
    key = {"GATEWAY_QUEUE_API_KEY": "secret"}
    async with running_server(HOST="0.0.0.0", GATEWAY_QUEUE_INTERVAL=0.1, **key) as server:
        assert await check(port_of(server), **key) == (0, [])

        status = f"http://127.0.0.1:{port_of(server)}/status"
        async with httpx.AsyncClient(headers={"Authorization": "Bearer secret"}) as client:
            shown = (await client.get(status)).json()
        assert await server.stop() == 0
    assert shown["last_24_hours"] == {"granted": 0, "shards": 0}
    assert shown["waiting"] == 0
    assert not server.logged_so_far("identify_queued")


async def test_one_that_speaks_tls_is_healthy_under_any_name(tmp_path: Path) -> None:
    certfile, keyfile = tmp_path / "cert.pem", tmp_path / "key.pem"
    issued = trustme.CA().issue_cert("queue.example")
    for certificate in issued.cert_chain_pems:
        certificate.write_to_path(certfile, append=True)
    issued.private_key_pem.write_to_path(keyfile)
    tls = {"GATEWAY_QUEUE_CERTFILE": certfile, "GATEWAY_QUEUE_KEYFILE": keyfile}

    async with running_server(**tls) as server:
        assert await check(port_of(server), **tls) == (0, [])


async def test_without_a_server_it_is_not_healthy() -> None:
    code, [words] = await check(free_port())

    assert code == 1
    assert words.startswith("not healthy: ")
    assert "refused" in words
