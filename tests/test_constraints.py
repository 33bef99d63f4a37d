"""Checks use the versions that ``constraints.txt`` names, and no others."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_each_requirement_has_a_version() -> None:
    given = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras, groups = given["project"]["optional-dependencies"], given["dependency-groups"]
    wanted = [given["project"]["dependencies"], *extras.values(), *groups.values()]
    names = {
        re.split(r"[^\w.-]", requirement)[0].replace(".", "-")
        for requirements in wanted
        for requirement in requirements
        if isinstance(requirement, str)  # and not the inclusion of another group
    }

    locked = set(re.findall(r"^[\w-]+(?===)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))

    assert names - locked == set()
