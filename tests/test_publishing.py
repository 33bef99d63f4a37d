"""What strangers see of the project agrees with what is in it: its page on PyPI, its workflows."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
URLS = PYPROJECT["project"]["urls"]


def test_each_link_on_pypi_leads_somewhere() -> None:
    hook = PYPROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    page = (ROOT / "README.md").read_text()
    for substitution in hook["substitutions"]:
        page = re.sub(substitution["pattern"], substitution["replacement"], page)
    ours = re.compile(r"https://[\w.]+/gateway-queue/gateway-queue/(?:blob/)?v\$HFPR_VERSION/")

    targets = re.findall(r"\]\((\S+?)\)|(?:href|src|srcset)=\"(\S+?)\"", page)

    for target in map("".join, targets):
        assert target.startswith(("https:", "http:", "#"))
        file, is_ours = ours.subn("", target)
        assert not is_ours or (ROOT / file.partition("#")[0]).exists(), target
