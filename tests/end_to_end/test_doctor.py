"""``gateway-queue doctor``: at real servers, through real proxies, and where nothing is well."""

import signal
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from fake_discord import fake_discord
from harness import SERVER, Program, free_port, running, running_server
from proxies import CADDY, ENVOY, HAPROXY, NGINX, Kind, proxy, snippet
from strangers import JSON, answering, http

KEY = "sesame-9f2c"
ESCAPE = "\x1b"

WELL = "ok Nothing stands between a bot and its turn."


@asynccontextmanager
async def examining(url: str, *arguments: str, **environment: object) -> AsyncIterator[Program]:
    command = *SERVER, "doctor", "--url", url, *arguments
    # As wide as it takes for a finding to be one line.
    async with running(*command, **({"COLUMNS": 500} | environment)) as program:
        yield program


async def doctor(url: str, *arguments: str, **environment: object) -> tuple[int, list[str]]:
    """The exit code and the words of ``gateway-queue doctor``."""
    async with examining(url, *arguments, **environment) as program:
        code = await program.ended()
    return code, words_of(program)


def words_of(program: Program) -> list[str]:
    """The lines of a program, one space for any white space."""
    said = [" ".join(line.split()) for line in program.lines]
    assert not any("Traceback" in line or ESCAPE in line for line in said)
    return said


# At a server


async def test_all_is_well() -> None:
    async with (
        fake_discord(shards=5) as discord,
        running_server(
            DISCORD_TOKEN=discord.token, GATEWAY_QUEUE_DISCORD_API=discord.api
        ) as server,
    ):
        await server.logged("limits_read")
        code, said = await doctor(server.url, "--seconds", "1")
        assert await server.stop() == 0

    version = (await server.logged("listening"))["version"]
    assert code == 0
    assert said[0] == f"ok Gateway Queue {version} answers at {server.url}."
    assert said[1].startswith("ok It has read the limits from Discord: ")
    assert said[2].startswith("ok It may open ")
    assert said[3:] == [
        "Leaving a request that is held ...",
        "ok The server notices when a client leaves.",
        "Being held for 1.0 s ...",
        "ok A request was held for 1.0 s, and answered at once; longer was not tried.",
        WELL,
    ]
    assert not server.logged_so_far("identify_queued")
    assert [line["left"] for line in server.logged_so_far("probe_ended")] == [True, False]


async def test_a_server_with_troubles_of_its_own() -> None:
    async with running_server(
        DISCORD_TOKEN="token", GATEWAY_QUEUE_DISCORD_API="http://127.0.0.1:1"
    ) as server:
        await server.logged("limits_unreadable")
        code, said = await doctor(server.url, "--seconds", "0.1")

    assert code == 1
    assert any(line.startswith("bad It cannot read the limits from Discord: ") for line in said)
    assert said[-1] == "bad 1 thing stands between a bot and its turn."


async def test_one_of_several_bots(tmp_path: Path) -> None:
    folder = tmp_path / "bots"
    folder.mkdir()
    (folder / "one.toml").touch()
    async with running_server(GATEWAY_QUEUE_BOTS=folder) as server:
        of_all = await doctor(server.url, "--seconds", "0.1")
        of_one = await doctor(server.url, "--seconds", "0.1", "--bot", "one")
        of_none = await doctor(server.url, "--seconds", "0.1", "--bot", "two")

    assert (of_all[0], of_one[0], of_none[0]) == (0, 0, 1)
    assert "ok 1 bot; --bot NAME examines one of them." in of_all[1]
    assert f"answers at {server.url}/bots/one." in of_one[1][0]
    assert "there is no bot 'two'" in of_none[1][0]


async def test_the_api_key() -> None:
    async with running_server(GATEWAY_QUEUE_API_KEY=KEY) as server:
        right = await doctor(server.url, "--seconds", "0.1", GATEWAY_QUEUE_API_KEY=KEY)
        absent = await doctor(server.url)
        wrong = await doctor(server.url, GATEWAY_QUEUE_API_KEY="open-9f2c")

    assert (right[0], absent[0], wrong[0]) == (0, 1, 1)
    assert absent[1][0].startswith(f"bad The server at {server.url} requires an API key: set ")
    assert "does not accept the API key" in wrong[1][0]
    assert "9f2c" not in f"{right}{absent}{wrong}"


async def test_the_server_ends_in_the_middle() -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(running_server())
        ending = await stack.enter_async_context(examining(server.url))
        killed = await stack.enter_async_context(running_server())
        cut = await stack.enter_async_context(examining(killed.url))
        await until_held(server)
        assert await server.stop() == 0
        await until_held(killed)
        await killed.kill()
        assert (await ending.ended(), await cut.ended()) == (1, 1)

    *_, said_at_the_end, _, _ = words_of(ending)
    assert said_at_the_end.startswith("bad The server did not hold a request for longer than")
    assert said_at_the_end.endswith("the server is shutting down.")
    *_, said_of_a_crash, _, _ = words_of(cut)
    assert said_of_a_crash.startswith("bad The server ended after it held a request for ")


async def until_held(server: Program) -> None:
    """Until the second probe of a doctor is held."""
    await server.logged_times(2, "probe_held")


async def test_it_can_be_stopped() -> None:
    async with running_server() as server, examining(server.url) as program:
        await until_held(server)
        program.process.send_signal(signal.SIGINT)
        assert await program.ended() == 130
        await server.logged_times(2, "probe_ended", left=True)

    said = words_of(program)
    assert "ok The server notices when a client leaves." in said
    assert said[-1].startswith("note A request was held for ")
    assert said[-1].endswith("s, and then stopped.")


# Through proxies


@dataclass(frozen=True)
class Setup:
    """A proxy as it is often set up, but for its patience, in seconds."""

    kind: Kind
    configuration: str
    cut: str | None  # what the doctor says that it was cut by
    advice: str
    notices: bool = True
    patience: int = 2


SETUPS = {
    "nginx": Setup(
        NGINX,
        snippet("nginx")
        .replace("proxy_read_timeout 1d", "proxy_read_timeout 2s")
        .replace("error_page 500 502 503 504 = @closed;", ""),
        "by 504 Gateway Timeout (Server: nginx",
        "Set `proxy_read_timeout 1d;` in nginx",
    ),
    "nginx that hangs up": Setup(
        NGINX,
        snippet("nginx").replace("proxy_read_timeout 1d", "proxy_read_timeout 2s"),
        "something in between closed the connection",
        "Raise the time-out of whatever is in between",
    ),
    "HAProxy, passing bytes": Setup(
        HAPROXY,
        snippet("HAProxy").replace("timeout server 1d", "timeout server 2s"),
        "something in between closed the connection",
        "Raise the time-out of whatever is in between",
    ),
    "HAProxy, HTTP": Setup(
        HAPROXY,
        snippet("HAProxy")
        .replace("timeout server 1d", "timeout server 7s")
        .replace("mode tcp", "mode http"),
        "by 504 Gateway Timeout",
        "Set `timeout server 1d` and `mode tcp` in HAProxy",
        notices=False,
        patience=7,
    ),
    "Caddy": Setup(
        CADDY,
        "queue.example {\n    reverse_proxy 127.0.0.1:8000 {\n        transport http {\n"
        "            response_header_timeout 2s\n        }\n    }\n}\n",
        "(Server: Caddy)",
        "Take `read_timeout` and `response_header_timeout` out",
    ),
    "Envoy": Setup(
        ENVOY,
        snippet("Envoy, HTTP").replace("timeout: 0s}", "timeout: 2s}"),
        "by 504 Gateway Timeout (Server: envoy)",
        "Set the route's `timeout: 0s`",
    ),
    "nginx as it should be": Setup(NGINX, snippet("nginx"), None, ""),
    "Caddy as it should be": Setup(CADDY, snippet("Caddy"), None, ""),
}


@pytest.mark.parametrize(
    "setup",
    [
        pytest.param(
            setup,
            id=name,
            marks=pytest.mark.skipif(
                setup.kind.path is None, reason=f"{setup.kind.program} is not installed"
            ),
        )
        for name, setup in SETUPS.items()
    ],
)
async def test_it_sees_by_what_a_request_is_cut(setup: Setup, tmp_path: Path) -> None:
    async with (
        running_server() as server,
        proxy(setup.kind, setup.configuration, server.url, tmp_path) as url,
    ):
        code, said = await doctor(url, "--seconds", str(setup.patience + 2))

    held = [line for line in said if "A request was" in line]
    noticed = [line for line in said if "client leaves" in line]
    assert noticed[0].startswith(
        "ok The server notices" if setup.notices else "bad The server does not notice"
    )
    if setup.cut is None:
        assert code == 0
        assert held == [
            "ok A request was held for 4.0 s, and answered at once; longer was not tried."
        ]
        return
    assert code == 1
    assert held[0].startswith(f"bad A request was cut after {setup.patience}.")
    assert setup.cut in held[0]
    advice = said[said.index(held[0]) + 1]
    assert advice.startswith(setup.advice)
    assert f"Or ask with `wait={setup.patience // 2}`" in advice


async def test_a_proxy_before_no_server(tmp_path: Path) -> None:
    if NGINX.path is None:
        pytest.skip("nginx is not installed")
    configuration = SETUPS["nginx"].configuration
    async with proxy(NGINX, configuration, f"http://127.0.0.1:{free_port()}", tmp_path) as url:
        code, said = await doctor(url)

    assert code == 1
    assert said[0].startswith(f"bad A proxy at {url} does not reach the server: 502 Bad Gateway")


# Where there is no Gateway Queue


async def test_nobody_listens() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    code, said = await doctor(url)

    assert code == 1
    assert said[0] == f"bad No connection to {url}: Connection refused."
    assert "--url" in said[1]


async def test_a_server_that_never_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        code, said = await doctor(f"http://127.0.0.1:{silent.getsockname()[1]}")

    assert code == 1
    assert "did not answer within 5 s" in said[0]


@pytest.mark.parametrize(
    ("answer", "said_of_it"),
    [
        (http(b"<html>", "200 OK", "Content-Type: text/html"), "is not a Gateway Queue: it does"),
        (http(b"", "404 Not Found"), "is not a Gateway Queue: 404 Not Found"),
        (http(b'{"status": "ok"}', "200 OK", JSON), "is not a Gateway Queue: version"),
        (
            http(b'{"message": "You\'re free to connect now! :)"}', "200 OK", JSON),
            "is the original gateway-queue",
        ),
        (http(b"", "301 Moved", "Location: https://q/\x1b[2J"), "closed the connection"),
        (http(b"no gzip", "200 OK", JSON, "Content-Encoding: gzip"), "closed the connection"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "closed the connection"),
        (b"", "closed the connection"),
    ],
)
async def test_somebody_else_answers(answer: bytes, said_of_it: str) -> None:
    async with answering(answer) as url:
        code, said = await doctor(url)

    assert code == 1
    assert said_of_it in said[0]
    assert said[-1] == "bad 1 thing stands between a bot and its turn."


@pytest.mark.parametrize("seconds", ["0", "-1", "901", "nan", "soon"])
async def test_seconds_that_cannot_be_meant(seconds: str) -> None:
    code, said = await doctor("http://127.0.0.1", "--seconds", seconds)

    assert code == 2
    assert "--seconds" in "".join(said)
