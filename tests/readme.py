"""The commands and sentences of README and pages."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

__all__ = ["PAGES", "ROOT", "blocks", "commands", "sentences"]

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)


def commands(page: Path, name: str) -> list[list[str]]:
    """Return the words of each command of that name in a page's shell blocks."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    split = [shlex.split(line, comments=True) for line in lines if line.startswith(f"{name} ")]
    return [words[1:] for words in split]


def sentences(page: Path) -> Iterator[str]:
    """Yield the sentences of a page outside headings, code and tables; an item of a list is one."""
    text = re.sub(r"^```.*?^```$|<!--.*?-->", "", page.read_text("utf-8"), flags=re.M | re.S)
    text = re.sub(
        r"^(#|\||!\[|    ).*$", "", re.sub(r"^ {1,3}(?=\w)", "", text, flags=re.M), flags=re.M
    )
    text = re.sub(r"^ *([-*]|\d+\.) ", "\n", text, flags=re.M)
    for paragraph in re.split(r"\n\s*\n", re.sub(r"\]\([^)]*\)", "]", text)):
        ends = r"(?<=[.!?])(?<!al\.)(?<!e\.g\.)(?<!i\.e\.) | (?<=[.!?][)*`]) "
        yield from filter(None, re.split(ends, " ".join(paragraph.split())))
