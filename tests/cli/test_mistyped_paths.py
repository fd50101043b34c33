"""What is not there is told at once: before torch, which takes seconds to import, and before loops are compiled."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from command_line import IN, OUT, PALETTIZE, Run, environment

NO = "no.mlpackage"
_KINDS = "a .npz, .npy, .jsonl or .wav file, an image, a folder of images or a .txt list of them, or FILE.py:NAME"
SAMPLES = f"samples are {_KINDS}"
NOTHING = f"there is no such file or folder; {SAMPLES}"
CASES = [
    (("palettize", NO, OUT, "--nbits", "4", "--check"), 3, "there is no "),
    (("palettize", NO, OUT, "--nbits", "4", "--calibrate", "8"), 3, "there is no "),
    ((*PALETTIZE, "--nbits", "4", "--calibrate", "no.npz"), 3, f"cannot read no.npz: {NOTHING}"),
    ((*PALETTIZE, "--nbits", "4", "--calibrate", "no.py:f"), 3, "cannot read no.py: there is no such file; give FILE"),
    ((*PALETTIZE, "--nbits", "4", "--calibrate", "wieghts"), 2, "no file or folder 'wieghts'; did you mean 'weights'?"),
    (("palettize", IN, IN, "--nbits", "4", "--check"), 3, "exists; use --overwrite"),
    (("palettize", IN, "taken/out.mlpackage", "--nbits", "4", "--check"), 3, "taken is not a folder; choose another"),
    ((*PALETTIZE, "--nbits", "3", "--check"), 4, "nbits=3 is supported since iOS18"),
    ((*PALETTIZE, "--nbits", "4", "--check", "--quiet"), 2, "--quiet shows nothing of --check; leave one out, or give"),
    ((*PALETTIZE, "--nbits", "4", "--sensitivity", "taken"), 3, "taken is text, and is no .npz file; give what mil-"),
    ((*PALETTIZE, "--nbits", "4", "--dry-run"), 0, ""),
    (("compare", NO, IN), 3, "there is no "),
    (("compare", IN, NO), 3, "there is no "),
    (("compare", IN, IN, "--inputs", "no.npz"), 3, NOTHING),
    (("run", NO), 3, "there is no "),
    (("run", IN, "--inputs", "no"), 3, NOTHING),
    (("run", IN, "--inputs", "~nobody-of-this-name/a.py:f"), 3, "there is no such file; give FILE.py:NAME"),
    (("sensitivity", NO, "--out", "s.npz"), 3, "there is no "),
    (("sensitivity", IN, "--out", "s.npz", "--calibrate", "no.npy"), 3, NOTHING),
    (
        ("sensitivity", IN, "--out", "s.npz", "--labels", "taken"),
        3,
        "is text, and is no .npz file; save one whole number",
    ),
    (("sensitivity", IN, "--out", "s.npz", "--loss", "no.py:f"), 3, "cannot read no.py: there is no such file"),
]
ALL = """
import contextlib, io, sys
from mil_palettize.cli.main import main
for arguments, code, told in {cases!r}:
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            found = main(arguments)
        except SystemExit as stop:
            found = stop.code
    assert (found, told in said.getvalue()) == (code, True), (arguments, found, said.getvalue())
    assert said.getvalue().count("\\n") == (code > 0), said.getvalue()
    assert not {{"torch", "numba"}} & sys.modules.keys(), arguments
"""


def test_nothing_heavy_is_imported_for_it(run: Run, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file\n")
    done = subprocess.run(
        [sys.executable, "-c", ALL.format(cases=CASES)], env=environment(), cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == [IN, "taken"]


@pytest.mark.parametrize("kind", ["config", "samples", "sensitivity", "package"])
def test_files_that_cannot_be_read_have_one_exit_code(kind: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 and nothing")
    wrong = {
        "config": [(*PALETTIZE, "--config", name) for name in ("bad", "no.yaml")],
        "samples": [("run", IN, "--inputs", name) for name in ("bad", "bad.npz", "no.npz")],
        "sensitivity": [(*PALETTIZE, "--nbits", "4", "--sensitivity", name) for name in ("bad", "bad.npz", "no.npz")],
        "package": [("inspect", name) for name in ("bad", "no")],
    }[kind]
    if kind == "samples":
        pytest.importorskip("torch")
    for arguments in wrong:
        code, out, err = run(*arguments)
        assert (code, out) == (3, ""), err
