"""The first moments of the server, while Python loads: SIGTERM ends it then, too."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from harness import DEFAULTS, SERVER, Program, running
from patience import PATIENCE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")

# As in a container: no signal has an effect by default.
FIRST_PROCESS = "unshare", "--pid", "--fork", "--kill-child", "--mount-proc"


def can_unshare() -> bool:
    if shutil.which("unshare") is None:
        return False
    return not subprocess.run([*FIRST_PROCESS, "true"], capture_output=True, check=False).returncode


@pytest.fixture(params=["a process", "the first process"])
def launcher(request: pytest.FixtureRequest) -> tuple[str, ...]:
    if request.param == "a process":
        return ()
    if not can_unshare():
        pytest.skip("no namespace of processes can be made here")
    return FIRST_PROCESS


async def heeding(program: Program, launcher: tuple[str, ...]) -> int:
    """The process that we run, once it has a handler for SIGTERM."""
    with trio.fail_after(PATIENCE):
        while True:
            pids = [program.pid] if not launcher else children(program.pid)
            for pid in pids:
                if heeds(pid, signal.SIGTERM):
                    return pid
            await trio.sleep(0.001)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def heeds(pid: int, number: signal.Signals) -> bool:
    (caught,) = (
        int(line.split()[1], 16)
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("SigCgt:")
    )
    return bool(caught >> (number - 1) & 1)


async def test_sigterm_ends_it_before_it_has_loaded(launcher: tuple[str, ...]) -> None:
    async with running(*launcher, *SERVER, **DEFAULTS) as server:
        os.kill(await heeding(server, launcher), signal.SIGTERM)
        assert await server.ended() == 0

    assert server.lines == []


@pytest.mark.parametrize("delay", [0.1, 0.2, 0.4, 0.8, 1.6])
async def test_sigterm_ends_it_whenever_it_comes(launcher: tuple[str, ...], delay: float) -> None:
    async with running(*launcher, *SERVER, **DEFAULTS) as server:
        pid = await heeding(server, launcher)
        await trio.sleep(delay)
        os.kill(pid, signal.SIGTERM)
        assert await server.ended() == 0

    assert "Traceback" not in "\n".join(server.lines)


async def test_a_wait_that_is_ended_is_not_taken_for_a_turn(launcher: tuple[str, ...]) -> None:
    async with running(*launcher, *SERVER, "wait", "--shard=1", **DEFAULTS) as program:
        os.kill(await heeding(program, launcher), signal.SIGTERM)
        assert await program.ended() == 128 + signal.SIGTERM


def test_the_signal_is_heeded_before_anything_else_is_loaded() -> None:
    program = "import sys; before = {*sys.modules}; import gateway_queue.__main__; "
    show = "print(*{name.partition('.')[0] for name in {*sys.modules} - before})"
    loaded = subprocess.run(
        [sys.executable, "-c", program + show], capture_output=True, text=True, check=True
    )

    assert {*loaded.stdout.split()} - sys.stdlib_module_names == {"gateway_queue"}
