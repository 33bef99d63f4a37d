"""`nox` runs the checks for every change: lint, types, tests, docs, package.

`nox --list` shows the other sessions.
"""

import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import nox

PROJECT = nox.project.load_toml("pyproject.toml")
CONSTRAINTS = "constraints.txt"
ACTIONLINT = "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12"


def runs(version: str) -> bool:
    """Whether this Python is installed. If pyenv hides it, it is on the PATH but fails."""
    command = shutil.which(f"python{version}")
    if command is None:
        return False
    return not subprocess.run([command, "--version"], capture_output=True, check=False).returncode


# None stands for the Python that runs nox.
PYTHONS = [version for version in nox.project.python_versions(PROJECT) if runs(version)] or None

nox.options.sessions = ["lint", "types", "tests", "end_to_end", "docs", "package"]


def install(session: nox.Session, *what: str) -> None:
    """Install packages in the versions that are known to work."""
    session.install("--constraint", CONSTRAINTS, *what)


def group(name: str) -> list[str]:
    return list(nox.project.dependency_groups(PROJECT, name))


@nox.session
def lint(session: nox.Session) -> None:
    install(session, *group("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("hadolint", "Dockerfile", "deploy/container/bot.Dockerfile")
    session.run("zizmor", "--quiet", ".")


@nox.session(venv_backend="none")
def workflows(session: nox.Session) -> None:
    """Check GitHub's workflows. Needs Go, because PyPI's package only downloads actionlint."""
    session.run("go", "run", ACTIONLINT)


@nox.session
def types(session: nox.Session) -> None:
    install(session, ".[server,redis]", *group("types"))
    session.run("mypy")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """All tests that start no processes, most of them on a clock that jumps."""
    install(session, ".[server,redis]", *group("test"))
    auto = "--numprocesses=auto", "-m", "not slow and not alone"
    session.run("pytest", *auto, "--ignore=tests/end_to_end", *session.posargs)


@nox.session(python=PYTHONS and PYTHONS[-1])
def end_to_end(session: nox.Session) -> None:
    """Tests with real processes and sockets, on the newest Python; six at once, as most wait."""
    install(session, ".[server,redis]", *group("test"))
    six = "--numprocesses=6", "--dist=loadfile", "-m", "not slow and not alone"
    session.run("pytest", *six, "tests/end_to_end", *session.posargs)
    session.run("pytest", "-m", "alone")


@nox.session
def browser(session: nox.Session) -> None:
    """Test the operator's page and the documentation in an installed Chromium.

    Also makes the pictures of the operator's page.
    """
    install(session, ".[server]", *group("docs"), *group("test"))
    pictures, pages = {"PICTURES": "docs/pictures"}, ("test_browser.py", "test_site.py")
    files = [f"tests/end_to_end/{page}" for page in pages]
    session.run("pytest", *files, *session.posargs, env=pictures)


@nox.session
def slow(session: nox.Session) -> None:
    """Tests that take minutes, because they wait for as long as bots do."""
    install(session, ".[server,redis]", *group("test"))
    session.run("pytest", "-m", "slow", "--override-ini=faulthandler_timeout=900", *session.posargs)


@nox.session
def replicas(session: nox.Session) -> None:
    """Several replicas in a storm, for some minutes."""
    install(session, ".[server,redis]", *group("test"))
    session.run(
        "python",
        "bench/replicas.py",
        *session.posargs,
        env={"PYTHONPATH": "tests:tests/end_to_end"},
    )


@nox.session
def soak(session: nox.Session) -> None:
    """Load and faults for a few minutes, after a long test of the request parser."""
    install(session, ".[server,redis]", *group("test"))
    session.run("pytest", "--hypothesis-profile=soak", "tests/rules/test_asking.py")
    session.run("python", "bench/soak.py", *session.posargs, env={"PYTHONPATH": "tests"})


@nox.session
def pictures(session: nox.Session) -> None:
    """Draw those of docs/pictures that need no quiet machine, from real runs; takes two minutes."""
    install(session, ".[server]", *group("test"))
    for script in "drawings", "timeline", "printed":
        env = {"PYTHONPATH": "tests:tests/end_to_end"}
        session.run("python", f"bench/{script}.py", env=env)


@nox.session
def growth(session: nox.Session) -> None:
    """Measure how the cost per client grows, and plot it for docs/benchmarks.md."""
    install(session, ".[server]", *group("bench"))
    session.run("python", "bench/growth.py", *session.posargs)


@nox.session
def replica_costs(session: nox.Session) -> None:
    """Measure what replicas cost beside one server, for docs/benchmarks.md."""
    install(session, ".[server,redis]", *group("test"))
    env = {"PYTHONPATH": "tests:tests/end_to_end"}
    session.run("python", "bench/replica_costs.py", *session.posargs, env=env)


@nox.session
def docs(session: nox.Session) -> None:
    install(session, ".[server]", *group("docs"))
    session.run("sphinx-build", "--quiet", "--fail-on-warning", "docs", "build/docs")


@nox.session
def package(session: nox.Session) -> None:
    """Build the package, and install it into empty environments, as a client and as a server."""
    install(session, *group("package"))
    built = Path("dist").resolve()
    shutil.rmtree(built, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(built), silent=True)
    files = [str(file) for file in sorted(built.iterdir())]
    session.run("twine", "check", "--strict", *files)
    for file in files:
        empty = Path(session.create_tmp(), "empty").resolve()
        session.run("python", "-m", "venv", "--clear", str(empty))

        def run(command: str, *arguments: str, **options: Any) -> None:
            session.run(str(empty / "bin" / command), *arguments, external=True, **options)  # noqa: B023

        run("pip", "install", "--quiet", "--constraint", CONSTRAINTS, file)
        run("python", "-c", "from gateway_queue.client import GatewayQueue")
        run("gateway-queue", "--version", success_codes=[1])  # says what is missing
        run("pip", "install", "--quiet", "--constraint", CONSTRAINTS, f"{file}[server]")
        run("pip", "check")
        serve(session, empty / "bin" / "gateway-queue")


def serve(session: nox.Session, command: Path) -> None:
    """Start a server, and let a shard wait for its turn."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    settings = {"PORT": port, "GATEWAY_QUEUE_INTERVAL": "0.1", "GATEWAY_QUEUE_JOURNAL": "memory"}
    with subprocess.Popen([command], env=settings) as server:
        try:
            ask = "wait", "--shard", "0", "--timeout", "30"
            session.run(str(command), *ask, env=settings, external=True)
        finally:
            server.terminate()
    if server.returncode:
        session.error(f"the server ended with {server.returncode}")


@nox.session
def audit(session: nox.Session) -> None:
    """Look for known vulnerabilities in our dependencies; needs PyPI's own index."""
    install(session, *group("audit"))
    session.run("pip-audit", "--strict", "--no-deps", "--disable-pip", "-r", CONSTRAINTS)


@nox.session
def lock(session: nox.Session) -> None:
    """Update the versions that CI and the image use."""
    session.install(*group("lock"))
    groups = [f"--group={name}" for name in PROJECT["dependency-groups"]]
    output = "--no-header", "--no-annotate", "--no-emit-index-url", "--output-file", CONSTRAINTS
    session.run(
        *("uv", "pip", "compile", "--upgrade", "--universal", "--python-version=3.11"),
        *("--all-extras", *groups, *output, "pyproject.toml"),
    )
