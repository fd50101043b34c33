"""What was compiled is found again, and never after a change to anything it was made of."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mil_palettize.algorithms.compiled import jit

OUTER = """
from loops.compiled.inner import number
from loops.compiled.jit import compiled

@compiled
def answer():
    return number() + 1

if __name__ == "__main__":
    print(answer(), sum(answer.stats.cache_hits.values()))
"""
INNER = """
from loops.compiled.jit import inlined

@inlined
def number():
    return {}
"""


def test_a_change_in_an_imported_file_is_seen(tmp_path: Path) -> None:
    folder = tmp_path / "loops" / "compiled"
    folder.mkdir(parents=True)
    shutil.copy(jit.__file__, folder)
    (folder / "outer.py").write_text(OUTER)

    def run(number: int) -> str:
        (folder / "inner.py").write_text(INNER.format(number))
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "kept")}
        environment["PYTHONDONTWRITEBYTECODE"] = "1"  # two sources of one second and size have the same stamp
        command = [sys.executable, "-m", "loops.compiled.outer"]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()

    assert run(1) == "2 0"
    assert run(1) == "2 1"
    assert run(5) == "6 0"
    assert run(1) == "2 1"


def test_where_what_was_compiled_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources, personal = tmp_path / "sources", tmp_path / "personal"
    sources.mkdir()
    (sources / "a.py").write_text("a = 1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(personal))
    first = jit.kept_in(sources, "")
    assert first is not None
    assert Path(first).parent == sources / "__pycache__"
    (sources / "b.py").write_text("")
    second = jit.kept_in(sources, "")
    assert second not in (first, None)
    chosen = jit.kept_in(sources, str(tmp_path / "chosen"))
    assert chosen == str(tmp_path / "chosen" / Path(str(second)).name)
    shutil.rmtree(sources / "__pycache__")
    (sources / "__pycache__").write_text("a file where the folder would be")
    assert Path(str(jit.kept_in(sources, ""))).parent == personal / "mil_palettize"
    personal.joinpath("mil_palettize").rename(tmp_path / "elsewhere")
    personal.joinpath("mil_palettize").write_text("")
    assert jit.kept_in(sources, "") is None
