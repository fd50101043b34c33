"""Tutorials run as they are written, and show what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_palettes_that_are_learned_read_more_digits(tmp_path: Path) -> None:
    """At the same bytes as those made without data."""
    out = tmp_path / "digits.mlpackage"
    run = subprocess.run(
        [sys.executable, "tools/tutorial_dkm.py", str(out)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = [line.strip("| ").split(" | ") for line in run.stdout.splitlines() if line.startswith("| ")][1:]
    rows = {name: (float(right), int(nbytes.replace(",", ""))) for name, right, nbytes in lines}
    plain, learned = rows["1 bit, without data"], rows["1 bit, learned"]
    assert learned[0] > plain[0] + 30
    assert learned[1] == plain[1]
    assert out.is_dir()
