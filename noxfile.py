"""`nox` makes every check there is: lint, types, the tests on each Python found here, the docs."""

import shutil
import subprocess

import nox

PROJECT = nox.project.load_toml("pyproject.toml")


def runs(version: str) -> bool:
    """Whether this Python is installed. One that pyenv hides is on the PATH, but fails."""
    command = shutil.which(f"python{version}")
    if command is None:
        return False
    return not subprocess.run([command, "--version"], capture_output=True, check=False).returncode


# None: at least the Python that runs nox.
PYTHONS = [version for version in nox.project.python_versions(PROJECT) if runs(version)] or None


def install(session: nox.Session, group: str) -> None:
    session.install(".[server]", *nox.project.dependency_groups(PROJECT, group))


@nox.session
def lint(session: nox.Session) -> None:
    session.install(*nox.project.dependency_groups(PROJECT, "lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    install(session, "types")
    session.run("mypy")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    install(session, "test")
    session.run("pytest", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    install(session, "docs")
    session.run("sphinx-build", "--quiet", "--fail-on-warning", "docs", "build/docs")
