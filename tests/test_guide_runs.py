"""Blocks of the guide after ``<!-- run -->`` run: of a page in their order, in one empty folder beside ``fixtures``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from guide_pages import PAGES, ROOT, Block, blocks, commands

pytest.importorskip("torch")

from mil_palettize.cli.main import main


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
    run_page(page, False, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if True in kinds(page)], ids=lambda page: page.stem)
def test_slow_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_page(page, True, tmp_path, monkeypatch)
