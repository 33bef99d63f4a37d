"""What README.md and the pages of docs/ tell a reader to type, in the order of reading."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block; ``section`` is the page with the heading above it."""

    section: str
    where: str  # page and line
    language: str
    text: str

    def steps(self) -> "Iterator[Step]":
        if self.language == "python":
            yield Step(self, self.text)
        elif self.language == "console":
            for typed in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
                command, _, shown = typed.partition("\n")
                yield Step(self, command, shown.splitlines())
        elif self.language == "sh":
            for line in re.findall(r"^[^#\n](?:\\\n|.)*", self.text, re.MULTILINE):
                for command in line.split(" && "):
                    yield Step(self, command)


@dataclass(frozen=True, slots=True)
class Step:
    """A command or a program, and what the page shows as its output; None if it shows none."""

    block: Block
    text: str
    shown: list[str] | None = None


def _blocks() -> Iterator[Block]:
    for page in PAGES:
        name = str(page.relative_to(ROOT))
        tokens = MarkdownIt().parse(page.read_text())
        section = name
        for before, token in zip([None, *tokens], tokens, strict=False):
            if before is not None and before.type == "heading_open":
                section = f"{name}: {token.content}"
            elif token.type == "fence" and token.map:
                where = f"{name}:{token.map[0] + 1}"
                yield Block(section, where, token.info.strip(), token.content)


BLOCKS = list(_blocks())
SECTIONS: dict[str, list[Step]] = {}
for _block in BLOCKS:
    SECTIONS.setdefault(_block.section, []).extend(_block.steps())
