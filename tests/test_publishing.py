"""What strangers see of the project agrees with what is in it: PyPI, GitHub, the way in."""

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").iterdir())
CHECKS = GITHUB / "workflows" / "checks.yml"
NOXFILE = ROOT / "noxfile.py"
PAGES = [ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", GITHUB / "pull_request_template.md"]

HERE = PROJECT["urls"]["Source"]
LINK = re.compile(r"\]\((\S+?)\)|\b(?:href|src|srcset)=\"(\S+?)\"")


def links(text: str) -> list[str]:
    return ["".join(link) for link in LINK.findall(text)]


def matrix() -> Any:
    return yaml.safe_load(CHECKS.read_text())["jobs"]["nox"]["strategy"]["matrix"]


def sessions() -> set[str]:
    """The names of nox's sessions, without the Python behind them."""
    return {
        node.name
        for node in ast.parse(NOXFILE.read_text()).body
        if isinstance(node, ast.FunctionDef)
        and any("nox.session" in ast.unparse(decorator) for decorator in node.decorator_list)
    }


# PyPI


def test_each_link_on_pypi_leads_somewhere() -> None:
    hook = PYPROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    page = (ROOT / "README.md").read_text()
    for substitution in hook["substitutions"]:
        page = re.sub(substitution["pattern"], substitution["replacement"], page)
    ours = re.compile(r"https://[\w.]+/gateway-queue/gateway-queue/(?:blob/)?v\$HFPR_VERSION/")

    for link in links(page):
        file, is_ours = ours.subn("", link)
        assert link.startswith(("https:", "http:", "#"))
        assert not is_ours or (ROOT / file.partition("#")[0]).exists(), link


def test_the_image_says_what_pypi_says() -> None:
    labels = dict(
        re.findall(r"org\.opencontainers\.image\.(\w+)=\"(.*)\"", (ROOT / "Dockerfile").read_text())
    )

    assert labels["source"] == HERE
    assert labels["documentation"] == PROJECT["urls"]["Documentation"]
    assert labels["licenses"] == PROJECT["license"]


# GitHub


def test_github_tests_each_python_that_we_name() -> None:
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))

    assert [one["python"] for one in matrix()["include"]] == named
    assert [one["session"] for one in matrix()["include"]] == [f"tests-{one}" for one in named]
    assert PROJECT["requires-python"] == f">={named[0]}"


def test_github_runs_existing_sessions_and_all_that_nox_runs_by_default() -> None:
    text = "".join(page.read_text() for page in [*WORKFLOWS, *PAGES])
    named = set(re.findall(r"nox (?:-s|--session) (\w+)", text))
    checked = {*matrix()["session"], "tests"}
    (usual,) = re.findall(r"nox\.options\.sessions = (\[.*\])", NOXFILE.read_text())

    assert named | checked <= sessions()
    assert set(ast.literal_eval(usual)) <= checked


def test_github_publishes_what_nox_makes() -> None:
    made = re.findall(r"\"docs\", \"(build/\w+)\"|Path\(\"(dist)\"\)", NOXFILE.read_text())
    taken = [step["with"]["path"] for step in steps() if "/upload-" in step.get("uses", "")]

    assert [path.rstrip("/") for path in taken] == ["".join(path) for path in made]


def steps() -> list[Any]:
    jobs = [job for file in WORKFLOWS for job in yaml.safe_load(file.read_text())["jobs"].values()]
    return [step for job in jobs for step in job.get("steps", [])]


def test_actions_are_pinned_by_hash_and_alike() -> None:
    text = "".join(file.read_text() for file in WORKFLOWS)
    actions = set(re.findall(r"uses: ([^.\n].*)", text))

    assert [one for one in actions if not re.fullmatch(r"\S+@[0-9a-f]{40} # v[\d.]+", one)] == []
    assert len({one.partition("@")[0] for one in actions}) == len(actions)


def test_forms_are_yaml_and_ask_each_thing_once() -> None:
    for form in sorted((GITHUB / "ISSUE_TEMPLATE").iterdir()):
        asked = [field["id"] for field in yaml.safe_load(form.read_text()).get("body", [])]
        assert len(asked) == len(set(asked)), form


# The way in


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_link_leads_to_a_file(page: Path) -> None:
    for link in links(page.read_text()):
        file = link.removeprefix(f"{HERE}/blob/main/").partition("#")[0]
        assert file.startswith("https:") or (ROOT / file).is_file(), link


def test_the_one_command_installs_every_tool_that_commits_need() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    tools = {hook["entry"].split()[0] for repo in config["repos"] for hook in repo["hooks"]}
    installed = " ".join(PYPROJECT["dependency-groups"]["lint"])

    assert " --editable '.[server,redis]' --group dev\n" in (ROOT / "CONTRIBUTING.md").read_text()
    assert {"include-group": "lint"} in PYPROJECT["dependency-groups"]["dev"]
    assert [tool for tool in tools if Path(tool).name not in installed] == []
    assert {str(Path(tool).parent) for tool in tools} == {".venv/bin"}
