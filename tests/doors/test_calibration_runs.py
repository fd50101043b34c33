"""A calibration while it runs: what is told of it, memory it may take, and what is left when it is stopped."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

pytest.importorskip("torch")

from evaluator import program_of, saved

from mil_palettize import Calibration, ConfigError, OpPalettizerConfig, OptimizationConfig, palettize_package
from mil_palettize.cli.arguments import build_parser, calibration_of
from mil_palettize.cli.main import COMMANDS, main
from mil_palettize.torch.evaluator import memory

CONFIG = OptimizationConfig(global_config=OpPalettizerConfig(nbits=2, weight_threshold=4))
SHAPE = (16, 8)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    weight = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    (tmp_path / "in").mkdir()
    return saved(
        program_of(lambda x: mb.relu(x=mb.linear(x=x, weight=weight)), [((1, 8), np.float32)]), tmp_path / "in"
    )


def rows(count: int) -> list[dict[str, np.ndarray]]:
    return [{"x0": row[None].astype(np.float32)} for row in np.random.default_rng(1).normal(size=(count, 8))]


@pytest.mark.parametrize("calibration", [Calibration(rows(10)), Calibration(method="weights")], ids=["rows", "weights"])
def test_progress_tells_of_calibration_before_weights(source: Path, tmp_path: Path, calibration: Calibration) -> None:
    events: list[Any] = []
    palettize_package(source, tmp_path / "o.mlpackage", CONFIG, calibration=calibration, progress=events.append)
    runs = [event for event in events if event.runs_total]
    assert runs == events[: len(runs)]
    assert [event.runs_done for event in runs] == sorted({event.runs_done for event in runs})
    assert runs[-1].runs_done == runs[-1].runs_total
    assert all(event.weights_total == 0 and event.name for event in runs)
    assert events[-1].weights_done == events[-1].weights_total == 1


def test_an_interrupt_leaves_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of values that lie on disk meanwhile."""
    (tmp_path / "meanwhile").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "meanwhile"))
    seen: list[int] = []

    def stop(event: Any) -> None:
        seen.append(len(list((tmp_path / "meanwhile").rglob("*.pt"))))
        if event.runs_done == event.runs_total:
            raise KeyboardInterrupt

    out = tmp_path / "o.mlpackage"
    with pytest.raises(KeyboardInterrupt):
        palettize_package(source, out, CONFIG, calibration=Calibration(rows(10), memory=1), progress=stop)
    assert max(seen) > 0
    assert not list((tmp_path / "meanwhile").iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "meanwhile"]


def test_memory_does_not_change_what_is_made(source: Path, tmp_path: Path) -> None:
    found = []
    for number, limit in enumerate((None, 1)):
        out = tmp_path / f"{number}.mlpackage"
        palettize_package(source, out, CONFIG, calibration=Calibration(rows(10), memory=limit))
        found.append({file.name: file.read_bytes() for file in out.rglob("*") if file.suffix in (".bin", ".mlmodel")})
    assert found[0] == found[1]


def test_a_quarter_of_what_is_free(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With hardly any, values go to a temporary folder."""
    (tmp_path / "meanwhile").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "meanwhile"))
    monkeypatch.setattr(memory, "free_bytes", lambda: 16)
    seen: list[int] = []
    palettize_package(
        source, tmp_path / "o.mlpackage", CONFIG, calibration=Calibration(rows(10)),
        progress=lambda event: seen.append(len(list((tmp_path / "meanwhile").rglob("*.pt")))),
    )  # fmt: skip
    assert max(seen) > 0


@pytest.mark.parametrize(("text", "nbytes"), [("2GB", 2 * 10**9), ("1.5 kb", 1500), ("700", 700), ("3M", 3 * 10**6)])
def test_sizes(text: str, nbytes: int) -> None:
    given = ["palettize", "a", "b", "--calibrate", "8", "--memory", text]
    found = calibration_of(build_parser(COMMANDS).parse_args(given))
    assert found is not None
    assert found.memory == nbytes


@pytest.mark.parametrize(
    "options", [["--calibrate", "8", "--memory", "much"], ["--calibrate", "8", "--memory", "0"], ["--memory", "2GB"],
                ["--calibrate", "weights", "--memory", "2GB"]],
)  # fmt: skip
def test_memory_that_cannot_be(
    source: Path, tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(["palettize", str(source), str(tmp_path / "o.mlpackage"), "--nbits", "2", *options])
    except SystemExit as error:
        code = int(str(error.code))
    assert code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    with pytest.raises(ConfigError, match="calibration memory is 0"):
        Calibration(memory=0)


def test_outputs_that_are_constant_are_named(source: Path, tmp_path: Path) -> None:
    """As are too few samples, and it goes on."""
    out = tmp_path / "o.mlpackage"
    same = palettize_package(source, out, CONFIG, calibration=Calibration(rows(1) * 6))
    assert any("the same for all samples" in note for note in same.notes)
    assert any(note.startswith("calibrated on 6 samples only") for note in same.notes)
    other = palettize_package(source, out, CONFIG, calibration=Calibration(rows(6)), overwrite=True)
    assert not any("the same for all samples" in note for note in other.notes)
