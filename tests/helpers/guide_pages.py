"""The guide's pages, their blocks, and the commands in these.

``<!-- run -->`` before a block has a test run it. ``<!-- run: exit 1 -->`` says what a command ends with; ``<!-- run:
file NAME -->`` makes a file of a block; ``<!-- run: slow -->`` leaves a block, and those behind it on its page, to ``-m
slow``.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
BLOCK = re.compile(r"(?:^<!-- run(?P<how>[^>]*?) -->\n+)?^```(?P<language>\w+)[^\n]*\n(?P<code>.*?)^```$", re.M | re.S)


class Block(NamedTuple):
    """A fenced block; ``how`` is what stands behind ``run`` before it, None where nothing is to be run."""

    language: str
    code: str
    how: str | None

    @property
    def slow(self) -> bool:
        return self.how is not None and "slow" in self.how

    @property
    def exit_code(self) -> int:
        found = re.search(r"exit (\d+)", self.how or "")
        return int(found[1]) if found else 0


def blocks(page: Path) -> list[Block]:
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [Block(block["language"], block["code"], block["how"]) for block in found]


def commands(code: str) -> Iterator[list[str]]:
    """The words of each line of a shell block, comments left out, continued lines joined."""
    for line in code.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words
