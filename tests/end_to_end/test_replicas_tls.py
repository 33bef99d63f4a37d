"""Replicas speak TLS with Redis, if it proves to be the one that they were told."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from engines import INSTALLED, servers
from harness import Program, free_port, running_server
from raw import grant_of

pytestmark = pytest.mark.skipif("redis" not in INSTALLED, reason="Redis is not installed")


@asynccontextmanager
async def replica(folder: Path, host: str, user: str = "") -> AsyncIterator[Program]:
    """A replica of a Redis at localhost that has a certificate for this host."""
    authority = trustme.CA()
    certificate = authority.issue_cert(host)
    ca, cert, key = (folder / name for name in ("ca.pem", "cert.pem", "key.pem"))
    authority.cert_pem.write_to_path(str(ca))
    certificate.cert_chain_pems[0].write_to_path(str(cert))
    certificate.private_key_pem.write_to_path(str(key))
    port = free_port()
    options = {
        "bind": "127.0.0.1",
        "tls-port": port,
        "tls-cert-file": cert,
        "tls-key-file": key,
        "tls-ca-cert-file": ca,
        "tls-auth-clients": "no",
    }
    with servers(folder) as make:
        given = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        await make("redis", *given).start()
        url = f"rediss://{user}localhost:{port}?ssl_ca_certs={ca}"
        async with running_server(GATEWAY_QUEUE_REDIS=url, GATEWAY_QUEUE_INTERVAL=0.2) as server:
            yield server


async def test_a_certificate_for_its_host_is_taken(tmp_path: Path) -> None:
    async with replica(tmp_path, "localhost") as server:
        await grant_of(server, 0)


async def test_one_for_another_host_is_not(tmp_path: Path) -> None:
    async with replica(tmp_path, "valkey.test") as server:
        line = await server.logged("engine_away")
        assert "certificate" in line["error"].lower()
        assert not server.logged_so_far("replica_joined")


async def test_no_log_line_has_the_password(tmp_path: Path) -> None:
    async with replica(tmp_path, "localhost", user="queue:open-sesame@") as server:
        await server.logged("engine_away")
        assert "open-sesame" not in "\n".join(server.lines)
