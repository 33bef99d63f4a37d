"""What the documentation tells a reader to type is typed here, and shows what it shows there.

Each section of a page is a terminal of its own, in a folder with what a reader has: ``.venv``,
``token.txt``, a bot. A section that starts no server has one that runs already. Not compared are
fractions, and the HTTP header fields that a page leaves out.
"""

import difflib
import os
import re
import shlex
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
from fake_discord import TOKEN, fake_discord
from harness import DEFAULTS, Program, free_port, running, running_server
from pages import BLOCKS, ROOT, SECTIONS, Block, Step
from patience import PATIENCE

ADDRESS = "127.0.0.1:8000"  # as the pages have it
SERVES = re.compile(r"(^|.* )\.venv/bin/gateway-queue|hypercorn .*")

# How the commands begin that are run here.
HERE = (
    ".venv/bin/gateway-queue",
    ".venv/bin/python bench/bots.py",
    ".venv/bin/python bench/costs.py",
    ".venv/bin/python bench/logging_cost.py",
    ".venv/bin/python bench/start.py",
    ".venv/bin/python bench/waiting.py",
    'DISCORD_TOKEN="$(cat token.txt)" .venv/bin/gateway-queue',
    "curl ",
    "gateway-queue wait ",
    "hypercorn ",
)

# How the others begin, and who runs them, or why nobody can.
ELSEWHERE = {
    "python3 -m venv .venv": ".ci/run",
    ".venv/bin/pip install nox": ".ci/run",
    ".venv/bin/nox": ".ci/run",
    ".venv/bin/pip install '.[server]'": "`nox -s package`, with the same as it is published",
    ".venv/bin/pip install '.[server,redis]'": "`nox`, with the groups of its tests",
    "valkey-server ": "engines.py, with the same options",
    "GATEWAY_QUEUE_REDIS=": "test_replicas.py",
    ".venv/bin/pip install --upgrade pip": "`nox`, in environments of its own",
    ".venv/bin/pip install --constraint ": "`nox`, in environments of its own",
    ".venv/bin/pytest ": "`nox`, with all tests",
    ".venv/bin/ruff ": "`nox -s lint`",
    ".venv/bin/mypy": "`nox -s types`",
    "pip install .": "`nox -s package`, in the same way",
    "docker ": "by hand, as docs/deploy.md says at its end; tests/test_deploy.py reads the files",
    "chmod 400 token.txt": "by hand, with `docker compose`",
    "sudo ": "by hand, with `docker compose`; it needs root",
    "kubectl ": "it needs a cluster; tests/test_deploy.py validates the file",
    "python3 -m venv /opt/": "by hand, as docs/deploy.md says at its end; it needs root",
    "/opt/gateway-queue/bin/pip ": "by hand, with `systemctl`",
    "install ": "by hand, with `systemctl`",
    "gateway-queue status": "test_several_bots.py; it needs several bots",
    "systemctl ": "by hand, as docs/deploy.md says; tests/test_deploy.py verifies the unit",
}

# Sections whose code is one whole, and who runs it.
OTHER_TESTS = {
    "docs/bots.md: Check on them": "test_several_bots.py",
    "docs/bots.md: Where clients ask": "test_several_bots.py",
    "docs/clients/curl.md: Code": "test_curl.py",
}

# Blocks in which nothing is to be typed, and who reads them.
TYPED = {"console", "python", "sh"}
UNTYPED = {
    **dict.fromkeys(["csharp", "go", "java", "js", "kotlin", "rust"], "each recipe says who did"),
    **dict.fromkeys(["nginx", "yaml"], "test_proxies.py; that it is YAML is tested below"),
    "text": "configurations for test_proxies.py, and lines of a log",
    "ini": "a drop-in for systemd",
    "toml": "a bot's file, as tests/rules/test_roster.py has them",
    "{eval-rst}": "`nox -s docs`",
    "{include}": "`nox -s docs`",
    "{literalinclude}": "a file of examples/, whose tests are beside those of its library",
    "{toctree}": "`nox -s docs`",
}

# What a section is about, where that needs more than the settings of all.
SETTINGS: dict[str, dict[str, object]] = {
    "docs/http.md: `wait=S`: be told to ask again": {"GATEWAY_QUEUE_INTERVAL": 5.5},
    "docs/http.md: `/plan`": {"GATEWAY_QUEUE_INTERVAL": 5.5},
    "docs/operating.md: Plan a launch": {"GATEWAY_QUEUE_INTERVAL": 5.5},
    "docs/http.md: API key": {"GATEWAY_QUEUE_API_KEY": "KEY"},
    "docs/stuck.md: When it is stuck": {"COLUMNS": 80},
}

# What a program needs that is a part of the reader's own.
MY_BOT = """
from discord.ext.commands import AutoShardedBot
from discord import Intents
from gateway_queue.client import GatewayQueue
from gateway_queue.client.discord_py import QueuedIdentify
class MyBot(QueuedIdentify, AutoShardedBot): ...
intents = Intents.none()
"""
BEGINNINGS = {
    "README.md: Add it to your bot": "import discord\n",
    "docs/index.md: First example": "import discord\n",
    "docs/clients/discord.py.md: Code": MY_BOT,
    "docs/clients/discord.py.md: Several processes": MY_BOT,
}

# Options with which a command takes seconds instead of minutes.
SMALL = "--clients 100 --buckets 2 --interval 0.2 --seconds 0.5 --openings 2"
IN_SHORT = {
    ".venv/bin/gateway-queue doctor --url http://127.0.0.1:8000": "--seconds 1",
    ".venv/bin/python bench/bots.py --bots 200": "--bots 3",
    ".venv/bin/python bench/logging_cost.py": "--runs 1",
    ".venv/bin/python bench/start.py": "--runs 1",
    ".venv/bin/python bench/waiting.py": SMALL,
    ".venv/bin/python bench/waiting.py --against other/bin/python"
    " --save docs/pictures/waiting.json": SMALL,
}

STEPS = [step for steps in SECTIONS.values() for step in steps]


def is_run_elsewhere(step: Step) -> bool:
    return step.block.section in OTHER_TESTS or step.text.startswith(tuple(ELSEWHERE))


def is_run_here(step: Step) -> bool:
    is_known = step.block.language == "python" or step.text.startswith(HERE)
    return is_known and not is_run_elsewhere(step)


def kind(block: Block) -> str:
    return block.language.partition(" ")[0]


RUN_HERE = {section: [*filter(is_run_here, steps)] for section, steps in SECTIONS.items()}


# What the pages have


def test_each_command_is_accounted_for() -> None:
    unknown = [
        f"{step.block.where}: {step.text}"
        for step in STEPS
        if not is_run_here(step) and not is_run_elsewhere(step)
    ]

    assert not unknown, (
        "Nobody runs these. What can be run here belongs into HERE of test_documents.py; what"
        " cannot, into ELSEWHERE, with who runs it or why nobody can:\n" + "\n".join(unknown)
    )


def test_each_block_is_of_a_known_kind() -> None:
    unknown = [
        f"{block.where}: {block.language or 'no language'}"
        for block in BLOCKS
        if kind(block) not in TYPED | UNTYPED.keys()
    ]

    assert not unknown, (
        "Commands are `sh`, or `console` with what they say; a program is `python`. What is not"
        " to be typed belongs into UNTYPED of test_documents.py:\n" + "\n".join(unknown)
    )


def test_nothing_is_accounted_for_that_no_page_has() -> None:
    typed = [step.text for step in STEPS]
    beginnings = [*HERE, *ELSEWHERE, *IN_SHORT]

    assert [one for one in beginnings if not any(text.startswith(one) for text in typed)] == []
    assert [one for one in OTHER_TESTS if one not in SECTIONS] == []
    assert [one for one in (*SETTINGS, *BEGINNINGS) if not RUN_HERE.get(one)] == []
    assert {kind(block) for block in BLOCKS} == TYPED | UNTYPED.keys()


def test_what_is_called_yaml_is_yaml() -> None:
    yaml = pytest.importorskip("yaml")

    for block in BLOCKS:
        if block.language == "yaml":
            assert yaml.safe_load(block.text), block.where


# What becomes of it


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the reader is."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "other").symlink_to(sys.prefix)
    (tmp_path / "bench").symlink_to(ROOT / "bench")
    (tmp_path / "docs" / "pictures").mkdir(parents=True)
    (tmp_path / "token.txt").write_text(TOKEN + "\n")
    (tmp_path / "bots").mkdir()
    (tmp_path / "bots" / "beta.toml").touch()
    bot = tmp_path / "bot"
    bot.write_text("#!/bin/sh\nexit 0\n")
    bot.chmod(0o755)
    # A terminal shows neither the progress of a transfer, nor the prompt behind the answer.
    (tmp_path / ".curlrc").write_text('silent\nshow-error\nnoproxy = "*"\nwrite-out = "\\n"\n')
    return tmp_path


@pytest.mark.skipif(
    not (shutil.which("bash") and shutil.which("curl")), reason="there is no bash or no curl"
)
@pytest.mark.parametrize("section", [section for section, steps in RUN_HERE.items() if steps])
async def test_it_does_what_the_page_says(section: str, folder: Path) -> None:
    steps = RUN_HERE[section]
    async with fake_discord() as discord, AsyncExitStack() as servers:
        settings: dict[str, object] = {
            **DEFAULTS,
            "PORT": free_port(),
            "GATEWAY_QUEUE_DISCORD_API": discord.api,
            "GATEWAY_QUEUE_INTERVAL": 0.2,
            "TZ": in_the_morning(),
            "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}",
            "CURL_HOME": folder,
            **{
                name: str(value).format(folder=folder)
                for name, value in SETTINGS.get(section, {}).items()
            },
        }
        server = None
        if not SERVES.fullmatch(steps[0].text):
            server = await servers.enter_async_context(running_server(**settings))
        for step in steps:
            if SERVES.fullmatch(step.text):
                if server:
                    await ctrl_c(server)
                server = await servers.enter_async_context(serving(step, folder, settings))
            else:
                await follow(step, folder, settings)
        assert server is not None
        await ctrl_c(server)


def in_the_morning() -> str:
    """A time zone in which it is between 8 and 9 now.

    Near midnight, the name of a day stands before a time that is tomorrow.
    """
    return f"DAY{datetime.now(UTC).hour - 8:+d}"


@asynccontextmanager
async def serving(step: Step, folder: Path, settings: dict[str, object]) -> AsyncIterator[Program]:
    async with running(*typed(step, folder, settings), **settings) as server:
        try:
            await server.logged("listening")
            if "DISCORD_TOKEN" in step.text:
                await server.logged("limits_read")
            yield server
        finally:
            with trio.CancelScope(shield=True):
                await server.stop()  # a worker of hypercorn would outlive a parent that is killed


async def ctrl_c(server: Program) -> None:
    server.process.send_signal(signal.SIGINT)
    assert await server.ended() == 0


async def follow(step: Step, folder: Path, settings: dict[str, object]) -> None:
    """Do it, and compare what is said with what the page shows."""
    async with running(*typed(step, folder, settings), **settings) as program:
        code = await program.ended(within=5 * PATIENCE if step.text in IN_SHORT else PATIENCE)
    said = [line.rstrip() for line in program.lines]
    assert code == 0, f"{step.block.where}: {step.text!r} ended with {code}: {said}"
    if step.shown is not None:
        shown = comparable(step.shown)
        said = comparable(without_unshown_fields(said, step.shown))
        said = [line.replace(f"127.0.0.1:{settings['PORT']}", ADDRESS) for line in said]
        difference = "\n".join(difflib.unified_diff(shown, said, "the page", "the command", n=9))
        assert not difference, f"{step.block.where}: {step.text}\n{difference}"


def typed(step: Step, folder: Path, settings: dict[str, object]) -> tuple[str, ...]:
    """The step as a command for `running`, in the folder and with the server's true address."""
    text = step.text.replace(ADDRESS, f"127.0.0.1:{settings['PORT']}")
    if step.block.language == "python":
        program = folder / "program.py"
        program.write_text(BEGINNINGS.get(step.block.section, "") + text)
        return sys.executable, str(program)
    if step.text in IN_SHORT:
        text += f" {IN_SHORT[step.text]}"
    if SERVES.fullmatch(step.text):
        text = f"exec env {text}"  # or signals would reach the shell alone
    return "bash", "-c", f"cd {shlex.quote(str(folder))} && {text}"


def without_unshown_fields(said: list[str], shown: list[str]) -> list[str]:
    """What curl says with ``-i``, with no more in the head than the page has."""
    fields = {field(line) for line in shown}
    end = said.index("") if "".join(said).startswith("HTTP/") else 1
    return said[:1] + [line for line in said[1:end] if field(line) in fields] + said[end:]


def field(line: str) -> str:
    return line.partition(":")[0]


def comparable(lines: list[str]) -> list[str]:
    text = "\n".join(lines).rstrip()
    text = re.sub(r"(?<=may open )[\d,]+", "0", text)  # this system's own
    text = re.sub(r"\b\d\d:\d\d\b", "08:00", text)  # the time of day
    return re.sub(r"(?<=: )\d+\.\d+|(?<=after )\d+\.\d+(?= s)", "0.0", text).split("\n")
