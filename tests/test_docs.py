"""The documentation says what the code does, as far as that can be compared."""

import ast
import re
from pathlib import Path

from gateway_queue.http.asking import RESERVED
from gateway_queue.log import LEVELS
from gateway_queue.settings import describe

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
CI = ROOT / ".ci" / "run"
DOCS = ROOT / "docs"
DESIGN, HTTP = DOCS / "design.md", DOCS / "http.md"
LOG, METRICS = DOCS / "log.md", DOCS / "metrics.md"
SETTINGS = DOCS / "settings.md"
SOURCE = ROOT / "src" / "gateway_queue"
CLIENT = SOURCE / "client"

# What a line is logged with.
LOGS = r"(structlog\.get_logger\(\)|(self\.)?log)\.\w+|say"


def rows(page: Path) -> list[list[str]]:
    """The cells of all rows of tables that begin with a name."""
    lines = page.read_text().splitlines()
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith("| `")
    ]


def name(cell: str) -> str:
    return cell.strip("`").partition("{")[0]


def test_the_page_of_settings_has_all_there_is_to_know_of_each() -> None:
    assert rows(SETTINGS) == [
        [
            f"`{setting.name}`",
            "" if setting.is_secret else f"`{setting.flag}`",
            f"`{setting.default}`",
            setting.meaning,
            setting.allowed,
        ]
        for setting in describe()
    ]


def test_ci_makes_the_checks_as_the_readme_says() -> None:
    (command,) = re.findall(r"^.*/nox$", README.read_text(), re.MULTILINE)
    steps = command.split(" && ")

    assert [line for line in CI.read_text().splitlines() if line in steps] == steps


def test_each_reserved_path_is_documented() -> None:
    page = HTTP.read_text()

    assert [path for path in sorted(RESERVED) if path not in page] == []


def test_the_design_has_a_place_for_each_module() -> None:
    modules = {module.name for module in SOURCE.rglob("[!_]*.py")}

    assert set(re.findall(r"`(\w+\.py)`", DESIGN.read_text())) == modules


def test_each_log_line_is_documented() -> None:
    documented = [name(row[0]) for row in rows(LOG) if row[1].partition(";")[0] in LEVELS]

    assert sorted(documented) == sorted(events())


def events() -> set[str]:
    """What the server logs: the strings among the arguments of `log`'s methods, or of `say`."""
    arguments = [
        argument
        for module in SOURCE.rglob("*.py")
        if module.parent != CLIENT
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.Call)
        and re.fullmatch(
            r"((structlog\.get_logger\(\)|(self\.)?log)\.\w+|say)", ast.unparse(node.func)
        )
        for argument in node.args
    ]
    return {
        node.value
        for argument in arguments
        for node in ast.walk(argument)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
