"""The bar: what it says while loops are compiled, on a terminal and off it."""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path

import pytest

from mil_palettize import OpPalettizerConfig, OptimizationConfig, compare, palettize_package
from mil_palettize.algorithms.compiled.jit import Loop
from mil_palettize.reports.counting import counting
from mil_palettize.reports.progress import ProgressEvent, make_progress


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


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_what_is_counted_has_a_bar_on_terminals(stream: type[io.StringIO], monkeypatch: pytest.MonkeyPatch) -> None:
    output = stream()
    monkeypatch.setattr(sys, "stderr", output)
    with counting(True) as count:
        for done in range(1, 4):
            count("comparing", done, 3)
        for done in range(1, 3):
            count("weight by weight", done, 2)
    shown = output.getvalue()
    assert ("comparing" in shown, "weight by weight" in shown) == (stream is Terminal,) * 2
    assert stream is not Terminal or shown.rindex("comparing") < shown.index("weight by weight")


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_a_line_each_half_minute_where_there_is_no_terminal(
    stream: type[io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    output, clock = stream(), [0.0]
    monkeypatch.setattr(sys, "stderr", output)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    progress = make_progress(True)
    for done in range(1, 961):  # two minutes
        clock[0] += 0.125
        progress.calibrate(done, 960, "op")
    progress.start(8, 80)
    for number in range(8):
        clock[0] += 10
        progress.advance(f"main/w{number}", 1, 10)
    with counting(True) as count:
        clock[0] += 31
        count("comparing", 1, 2)
        count("comparing", 2, 2)
    progress.close()
    lines = [line for line in output.getvalue().splitlines() if line.startswith("mil_palettize: ")]
    told = [f"mil_palettize: calibrating: runs of ops, {done} of 960 done" for done in (240, 480, 720, 960)]
    told += [f"mil_palettize: weights, {done} of 8 done" for done in (3, 6)]
    told += ["mil_palettize: comparing, 1 of 2 done"]
    assert lines == ([] if stream is Terminal else told)


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_trials_have_a_bar_that_stays(stream: type[io.StringIO], monkeypatch: pytest.MonkeyPatch) -> None:
    output = stream()
    monkeypatch.setattr(sys, "stderr", output)
    progress = make_progress(True)
    progress.calibrate(1, 1, "main/w")
    progress.trial("trying mixed bits, 20,000 bytes", 0, 2)
    inner = make_progress(True)
    inner.start(1, 10)
    compile_something()
    inner.close()
    progress.trial("trying uniform 3 bits, 19,000 bytes (mixed bits, 20,000 bytes, 9.0 dB)", 1, 2)
    progress.close()
    shown = output.getvalue()
    assert shown.count("compiling") == 1
    if stream is Terminal:
        assert shown.index("20,000 bytes |") < shown.index("1 weights") < shown.index("9.0 dB) |")


def test_every_sample_and_palette_is_counted(fixtures: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    source, small = fixtures / "conv_fp16_ios18.mlpackage", tmp_path / "small.mlpackage"
    events: list[ProgressEvent] = []
    config = OptimizationConfig(OpPalettizerConfig(nbits=4, weight_threshold=100))
    report = palettize_package(source, small, config, verify=True, check=True, progress=events.append)
    counted = [(e.name, e.runs_done, e.runs_total) for e in events if e.name in ("verifying", "comparing")]
    palettes = len(report.palettized)
    assert counted == [("verifying", i + 1, palettes) for i in range(palettes)] + [
        ("comparing", i + 1, 8) for i in range(8)
    ]
    assert all(e.weights_done == palettes for e in events if e.runs_total)
    told: list[tuple[str, int, int]] = []
    compare(source, small, random=3, per_op=True, progress=lambda *state: told.append(state))
    runs = 2 * palettes + 2  # each alone, without the worst, nothing, and all
    assert told == [
        *(("comparing", i + 1, 3) for i in range(3)), *(("weight by weight", i + 1, runs) for i in range(runs))
    ]  # fmt: skip
