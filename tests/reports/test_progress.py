"""The bar: what it says while loops are compiled, on a terminal and off it."""

from __future__ import annotations

import io
import sys

import pytest

from mil_palettize.algorithms.compiled.jit import Loop
from mil_palettize.reports.progress import make_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def compile_something() -> int:
    def one() -> int:
        return 1

    return int(Loop(one, {}, kept=False)())


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_the_bar_says_that_it_compiles(stream: type[io.StringIO], monkeypatch: pytest.MonkeyPatch) -> None:
    output = stream()
    monkeypatch.setattr(sys, "stderr", output)
    progress = make_progress(True)
    progress.start(2, 100)
    assert compile_something() == 1
    assert compile_something() == 1
    progress.advance("main/w", 1, 50)
    progress.close()
    assert output.getvalue().count("compiling, once after installing") == (stream is Terminal)
    assert output.getvalue().count("mil_palettize: compiling loops, ") == (stream is not Terminal)
    before = output.getvalue()
    compile_something()
    assert output.getvalue() == before


def test_what_compiles_before_the_bar_is_told_too(capsys: pytest.CaptureFixture[str]) -> None:
    progress = make_progress(True)
    compile_something()
    progress.close()
    assert capsys.readouterr().err.count("compiling loops") == 1


def test_a_bar_that_was_never_begun_closes() -> None:
    make_progress(True).close()


def test_calibration_has_a_bar_of_its_own_that_starts_anew_with_each_function(monkeypatch: pytest.MonkeyPatch) -> None:
    output = Terminal()
    monkeypatch.setattr(sys, "stderr", output)
    progress = make_progress(True)
    for name in ("first", "second"):
        for done in range(1, 5):
            progress.calibrate(done, 4, name)
    progress.start(1, 10)
    progress.close()
    assert "calibrating" in output.getvalue()
    assert "weights" in output.getvalue().rpartition("calibrating")[2]
