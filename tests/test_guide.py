"""The guide is true: commands that it shows are ones, links lead somewhere, errors and messages are the library's."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
import yaml
from guide_pages import BLOCK, PAGES, ROOT, Block, blocks, commands

from mil_palettize import errors
from mil_palettize.cli.arguments import build_parser
from mil_palettize.cli.main import COMMANDS, _explain
from mil_palettize.cli.running_arguments import with_values
from mil_palettize.errors import PalettizeError

LINES = sorted(
    {
        tuple(words)
        for page in PAGES
        for block in blocks(page)
        if block.language == "sh"
        for words in commands(block.code)
        if words[0] == "mil-palettize"
    }
)


@pytest.mark.parametrize("words", LINES, ids=" ".join)
def test_every_command_that_is_shown_is_one(words: tuple[str, ...]) -> None:
    options = build_parser(COMMANDS).parse_args(with_values(words[1:]))
    assert options.run is COMMANDS[words[1]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)#:\s]+)[^):\s]*\)", text):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_mark_stands_before_a_block(page: Path) -> None:
    marks = page.read_text(encoding="utf-8").count("<!-- run")
    assert marks == sum(block.how is not None for block in blocks(page))


def literals() -> set[str]:
    """Every piece of text in the library's source, of f-strings the parts between what is filled in."""
    trees = (ast.parse(file.read_text(encoding="utf-8")) for file in (ROOT / "mil_palettize").rglob("*.py"))
    nodes = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return {node.value for node in nodes if isinstance(node.value, str)}


TROUBLE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
QUOTED = re.findall(r"^\| `([^`]*)` \|", TROUBLE.partition("## Errors")[2].partition("## Results")[0], re.M)


def test_quoted_lines_are_the_librarys() -> None:
    known = literals()
    assert len(QUOTED) > 30
    pieces = [piece for line in QUOTED for piece in map(str.strip, line.split("…")) if piece]
    assert [piece for piece in pieces if not any(piece in text for text in known)] == []


def test_every_class_of_errors_has_its_row_and_exit_code() -> None:
    kinds = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type)}
    raised = {n: k for n, k in kinds.items() if issubclass(k, PalettizeError) and k is not PalettizeError}
    rows = dict(re.findall(r"^\| `(\w+Error)` \| (\d+) \|", TROUBLE, re.M))
    assert rows == {name: str(_explain(kind("x"))[1]) for name, kind in raised.items()}


CODE = [
    pytest.param(block, id=f"{page.stem} {number}")
    for page in PAGES
    for number, block in enumerate(blocks(page))
    if block.language in ("python", "yaml", "json")
]


@pytest.mark.parametrize("block", CODE)
def test_every_block_is_of_its_language(block: Block) -> None:
    read = {"python": ast.parse, "yaml": yaml.safe_load, "json": json.loads}[block.language]
    assert read(block.code)
