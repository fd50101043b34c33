"""The file of --report, and standard output: where they cannot be written."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from command_line import CLI_ERROR, IN, OUT, PALETTIZE, Run
from handmade import contents

from mil_palettize.cli import output
from mil_palettize.cli.main import main
from mil_palettize.errors import PackageError

# The report's file


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (".", "is a folder"),
        ("no/report.json", "make it first"),
        (f"{IN}/Manifest.json", f"is inside the package {IN}"),
        (f"{IN}/Data/new.json", f"is inside the package {IN}"),
        (f"{OUT}/report.json", f"is inside the package {OUT}"),
        (OUT, f"is inside the package {OUT}"),
        ("link.json", f"is inside the package {IN}"),
        ("recipe.yaml", "is the file of --config"),
        ("", "the path is empty"),
    ],
)
def test_report_where_it_cannot_be(run: Run, tmp_path: Path, report: str, said: str) -> None:
    (tmp_path / "recipe.yaml").write_text("config_type: OpPalettizerConfig\nglobal_config:\n  nbits: 4\n")
    (tmp_path / "link.json").symlink_to(tmp_path / IN / "Manifest.json")
    before = contents(tmp_path)
    code, out, err = run(*PALETTIZE, "--config", "recipe.yaml", "--overwrite", "--report", report)
    assert (code, out) == (3 if said in ("is a folder", "make it first") else 2, "")
    assert said in err
    assert contents(tmp_path) == before


def test_report_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Tests may run as root, who may write anywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PackageError, match="no permission to write --report"):
        output.check_report_path(str(tmp_path / "r.json"), [])


def test_report_that_fails_leaves_the_package_and_says_so(run: Run, tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    code, out, err = run(*PALETTIZE, "--nbits", "4", "--report", "/dev/full")
    assert (code, out) == (3, "")
    assert "cannot write /dev/full: No space left on device; out.mlpackage is complete" in err
    assert run("inspect", OUT)[0] == 0


def test_report_replaces_a_file_at_once(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "report.json").write_text("old")
    (tmp_path / "link.json").symlink_to("report.json")

    def fail(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        code, _, err = run("palettize", IN, "--nbits", "4", "--dry-run", "--report", "report.json")
    assert code == 3
    assert err == "mil-palettize: error: cannot write report.json: No space left on device\n"
    assert (tmp_path / "report.json").read_text() == "old"
    assert run("palettize", IN, "--nbits", "4", "--dry-run", "--report", "link.json")[0] == 0
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "report.json").read_text())["dry_run"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [IN, "link.json", "report.json"]


def test_standard_output_that_is_closed_or_full(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as reader_is_gone, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", reader_is_gone)
        assert main(["inspect", IN]) == 0
    if os.path.exists("/dev/full"):
        with open("/dev/full", "w") as full, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", full)
            assert main([*PALETTIZE, "--nbits", "4"]) == 3
        code, _, err = run("diff", IN, OUT)
        assert code == 1
        assert err == f"{CLI_ERROR}cannot write to standard output: No space left on device; {OUT} is complete\n"
