"""What tests of the command line share."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
from command_line import IN, Run

from mil_palettize.cli.main import main
from mil_palettize.reports import progress_lines
from mil_palettize.reports.progress import COMPILING_LINE


@pytest.fixture
def run(tmp_path: Path, fixtures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """``run("palettize", IN, OUT, …)`` in a folder with a package → (exit code, standard output, standard error). What
    it says of loops that are compiled, and of work that takes long, is left out: not every run says it."""
    monkeypatch.setattr(progress_lines, "EVERY", math.inf)
    shutil.copytree(fixtures / "conv_fp16_ios16.mlpackage", tmp_path / IN)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        try:
            code = main(arguments)
        except SystemExit as stop:
            code = int(stop.code or 0)
        shown = capsys.readouterr()
        return code, shown.out, shown.err.replace(COMPILING_LINE, "")

    return call
