"""The guide is true: commands parse, blocks after ``<!-- run -->`` run, links lead somewhere, errors are all named.

Blocks of a page run in their order in one empty folder beside a link to ``fixtures``. ``<!-- run: exit 1 -->`` says
what a command ends with; ``<!-- run: file NAME -->`` makes a file of a block; ``<!-- run: slow -->`` leaves a block,
and those behind it on its page, to ``-m slow``.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from mil_palettize import errors
from mil_palettize.cli.arguments import build_parser
from mil_palettize.cli.main import COMMANDS, _explain, main
from mil_palettize.cli.running_arguments import with_values
from mil_palettize.errors import PalettizeError

ROOT = Path(__file__).resolve().parent.parent
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


def run(block: Block, names: dict[str, object]) -> None:
    if file := re.search(r"file (\S+)", block.how or ""):
        Path(file[1]).write_text(block.code, encoding="utf-8")
        return
    if block.language == "python":
        exec(compile(block.code, "a block of the guide", "exec"), names)
        return
    for words in commands(block.code):
        assert words[0] == "mil-palettize", "only this command is run"
        assert main(words[1:]) == block.exit_code, block.code


def run_page(page: Path, slow: bool, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "fixtures").symlink_to(ROOT / "fixtures")
    monkeypatch.chdir(folder)
    names: dict[str, object] = {"__name__": "guide"}
    for block in blocks(page):
        if block.slow and not slow:
            return
        if block.how is not None:
            run(block, names)


def kinds(page: Path) -> set[bool]:
    """Whether blocks of the page that run are slow."""
    return {block.slow for block in blocks(page) if block.how is not None}


@pytest.mark.parametrize("page", [page for page in PAGES if False in kinds(page)], ids=lambda page: page.stem)
def test_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    run_page(page, False, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if True in kinds(page)], ids=lambda page: page.stem)
def test_slow_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    run_page(page, True, tmp_path, monkeypatch)


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
    for line in QUOTED:
        for piece in filter(None, (part.strip() for part in line.split("…"))):
            assert any(piece in text for text in known), piece


def test_every_class_of_errors_has_its_row_and_exit_code() -> None:
    kinds = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type)}
    raised = {n: k for n, k in kinds.items() if issubclass(k, PalettizeError) and k is not PalettizeError}
    rows = dict(re.findall(r"^\| `(\w+Error)` \| (\d+) \|", TROUBLE, re.M))
    assert rows == {name: str(_explain(kind("x"))[1]) for name, kind in raised.items()}
