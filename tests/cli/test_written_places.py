"""What a command writes never replaces what another option has it read."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from mil_palettize.cli.main import main

NAME = "conv_fp32_ios18.mlpackage"


@pytest.fixture(autouse=True)
def place(fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package and files that the commands below read."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(fixtures / NAME, "in.mlpackage")
    np.savez("x.npz", x=np.zeros(3))
    np.save("y.npy", np.zeros(3))
    Path("own.py").write_text("def f(): return []\n")
    Path("photos").mkdir()
    Path("photos/a.png").write_bytes(b"a picture")
    os.link("x.npz", "linked.npz")
    Path("link.npz").symlink_to("x.npz")


SENSITIVITY = ["sensitivity", "in.mlpackage"]
PALETTIZE = ["palettize", "in.mlpackage", "out.mlpackage", "--nbits", "4"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ([*SENSITIVITY, "--calibrate", "x.npz", "--out", "x.npz"], "--out x.npz is the file of --calibrate"),
        ([*SENSITIVITY, "--calibrate", "x.npz", "--out", "linked.npz"], "--out linked.npz is the file of --calibrate"),
        ([*SENSITIVITY, "--calibrate", "x.npz", "--out", "link.npz"], "--out link.npz is the file of --calibrate"),
        ([*SENSITIVITY, "--labels", "y.npy", "--out", "y.npy"], "--out y.npy is the file of --labels"),
        ([*SENSITIVITY, "--loss", "own.py:f", "--out", "own.py"], "--out own.py is the file of --loss"),
        ([*SENSITIVITY, "--calibrate", "own.py:f", "--out", "own.py"], "--out own.py is the file of --calibrate"),
        (
            [*SENSITIVITY, "--calibrate", "photos", "--out", "photos/a.png"],
            "--out photos/a.png is in the folder of --calibrate; choose a place outside it",
        ),
        ([*PALETTIZE, "--sensitivity", "x.npz", "--report", "x.npz"], "--report x.npz is the file of --sensitivity"),
        ([*PALETTIZE, "--calibrate", "x.npz", "--report", "x.npz"], "--report x.npz is the file of --calibrate"),
        ([*PALETTIZE, "--calibrate", "photos/", "--report", "photos/r.json"], "is in the folder of --calibrate"),
        (["run", "in.mlpackage", "--inputs", "own.py:f", "--out", "own.py"], "--out own.py is the file of --inputs"),
        (
            ["compare", "in.mlpackage", "in.mlpackage", "--inputs", "x.npz", "--html", "x.npz"],
            "--html x.npz is the file of --inputs",
        ),
    ],
)
def test_what_is_read_is_not_replaced(command: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert main(command) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


def test_a_report_may_be_called_as_a_method(capsys: pytest.CaptureFixture[str]) -> None:
    """``--calibrate weights`` is no file."""
    command = [*PALETTIZE, "--weight-threshold", "64", "--calibrate", "weights", "--report", "weights", "--quiet"]
    assert main(command) == 0
    assert Path("weights").is_file()
