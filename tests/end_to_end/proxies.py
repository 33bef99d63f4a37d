"""Proxies before the queue, set up by the very words of docs/proxies.md."""

import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio
from harness import Program, free_port, running

PAGE = Path(__file__).parents[2] / "docs" / "proxies.md"

# Those that no user has in the PATH are in the last two; some can be had as Python packages.
FOLDERS = [Path(sys.executable).parent, *os.get_exec_path(), "/usr/sbin", "/usr/local/sbin"]

NGINX_AROUND = """
daemon off;
master_process off;
pid nginx.pid;
error_log stderr warn;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    {server}
}}
"""
CADDY_AROUND = "{{\n    admin off\n}}\n{server}"


@dataclass(frozen=True)
class Kind:
    """A program, and what is around its configuration."""

    program: str
    arguments: str
    file: str
    listens: tuple[str, str]  # where it does in the page, and where it shall
    around: str = "{server}"

    @property
    def path(self) -> str | None:
        """None where it is not installed."""
        return shutil.which(self.program, path=os.pathsep.join(map(str, FOLDERS)))


NGINX = Kind(
    "nginx",
    "-p {folder} -e stderr -c {file}",
    "nginx.conf",
    ("listen 80", "listen 127.0.0.1:{port}"),
    NGINX_AROUND,
)
HAPROXY = Kind(
    "haproxy",
    "-db -f {file}",
    "haproxy.cfg",
    ("bind :80", "bind 127.0.0.1:{port}"),
)
CADDY = Kind(
    "caddy",
    "run --adapter caddyfile --config {file}",
    "Caddyfile",
    ("queue.example", "http://127.0.0.1:{port}"),
    CADDY_AROUND,
)
ENVOY = Kind(
    "envoy",
    "--disable-hot-restart --concurrency 1 --log-level warning -c {file}",
    "envoy.yaml",
    ("0.0.0.0, port_value: 80}", "127.0.0.1, port_value: {port}}"),
)


def snippet(heading: str) -> str:
    """The code that the page has under this heading."""
    _, _, section = PAGE.read_text().partition(f"\n## {heading}\n")
    return section.split("\n```")[1].partition("\n")[2] + "\n"


@asynccontextmanager
async def proxy(kind: Kind, configuration: str, queue: str, folder: Path) -> AsyncIterator[str]:
    """The address of such a proxy, before the queue at this one."""
    assert kind.path is not None
    port = free_port()
    old, new = kind.listens
    queue_port = queue.rpartition(":")[2]
    for here, there in {
        old: new.replace("{port}", str(port)),
        "127.0.0.1:8000": f"127.0.0.1:{queue_port}",
        "port_value: 8000": f"port_value: {queue_port}",
    }.items():
        configuration = configuration.replace(here, there)
    file = folder / kind.file
    file.write_text(kind.around.format(server=configuration))
    arguments = [word.format(file=file, folder=folder) for word in kind.arguments.split()]
    async with running(kind.path, *arguments, HOME=folder) as program:
        await _listening(program, port)
        yield f"http://127.0.0.1:{port}"


@asynccontextmanager
async def balancer(ports: list[int], folder: Path) -> AsyncIterator[str]:
    """The address of HAProxy before servers at these ports, one after the other."""
    assert HAPROXY.path is not None
    port = free_port()
    around, _, _ = snippet("HAProxy").partition("    server gateway-queue")
    backend = "\n".join(f"    server r{n} 127.0.0.1:{port}" for n, port in enumerate(ports))
    file = folder / HAPROXY.file
    file.write_text(
        around.replace("bind :80", f"bind 127.0.0.1:{port}")
        + f"    balance roundrobin\n    option redispatch 1\n{backend}\n"
    )
    async with running(HAPROXY.path, "-db", "-f", str(file)) as program:
        await _listening(program, port)
        yield f"http://127.0.0.1:{port}"


async def _listening(program: Program, port: int) -> None:
    """Wait until a program listens at this port."""
    while True:
        try:
            await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
            break
        except OSError:
            assert program.returncode is None, "the proxy does not start"
            await trio.sleep(0.02)
