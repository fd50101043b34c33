"""What calibration and sensitivity cannot work with: one line that names it, and nothing written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

torch = pytest.importorskip("torch")

from evaluator import program_of, saved  # noqa: E402

from mil_palettize import Calibration, ConfigError, OpPalettizerConfig, OptimizationConfig, palettize_package  # noqa: E402
from mil_palettize.cli.main import main  # noqa: E402
from mil_palettize.errors import EvaluationError, PalettizeError  # noqa: E402

CONFIG = OptimizationConfig(global_config=OpPalettizerConfig(nbits=2, weight_threshold=4))
ROW = np.zeros((1, 8), np.float32)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Four classes of a row of eight numbers."""
    weight = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    (tmp_path / "in").mkdir()
    return saved(program_of(lambda x: mb.linear(x=x, weight=weight), [((1, 8), np.float32)]), tmp_path / "in")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Three indices into a table of nine rows."""
    rows = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    (tmp_path / "in").mkdir()
    return saved(program_of(lambda i: mb.gather(x=rows, indices=i, axis=0), [((3,), np.int32)]), tmp_path / "in")


def refused(path: Path, data: Any, error: type[PalettizeError], message: str) -> None:
    out = path.parent.parent / "o.mlpackage"
    with pytest.raises(error, match=message) as caught:
        palettize_package(path, out, CONFIG, calibration=Calibration(data))
    assert "\n" not in str(caught.value)
    assert sorted(entry.name for entry in out.parent.iterdir()) == ["in"]


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"y": ROW}, "no input 'y'; it takes 'x0'"),
        ({}, "input 'x0' is missing"),
        ({"x0": np.zeros((1, 9), np.float32)}, r"has shape \[1, 9\]; the model takes \[1, 8\]"),
        ({"x0": np.zeros(8, np.float32)}, r"has shape \[8\]"),
        ({"x0": np.full((1, 8), np.nan, np.float32)}, "sample 1 has NaN or infinite values in input 'x0'"),
        ({"x0": np.full((1, 8), np.inf, np.float32)}, "sample 1 has NaN or infinite values in input 'x0'"),
        ({"x0": np.full((1, 8), "a")}, "'x0'"),
        ({"x0": [[1.0], [2.0, 3.0]]}, "'x0'"),
    ],
    ids=["names", "missing", "shape", "rank", "NaN", "infinite", "text", "ragged"],
)
def test_a_sample_among_others(source: Path, sample: dict[str, Any], message: str) -> None:
    refused(source, [{"x0": ROW}, sample], EvaluationError, message)


@pytest.mark.parametrize(
    ("indices", "message"),
    [(np.array([0.0, 1.5, 2.0]), "'x0' has values that int32 cannot hold, such as 1.5"),
     (np.array([0, 9, 1], np.int32), "cannot be run"), (np.array([2**40, 0, 0]), "cannot hold")],
    ids=["halves", "beyond the table", "beyond int32"],
)  # fmt: skip
def test_indices(table: Path, indices: np.ndarray, message: str) -> None:
    refused(table, [{"x0": indices}], EvaluationError, message)


@pytest.mark.skipif(torch.cuda.is_available() and torch.backends.mps.is_available(), reason="all devices are here")
def test_a_device_that_is_not_there(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "mps" if torch.cuda.is_available() else "cuda"
    out = source.parent.parent / "o.mlpackage"
    with pytest.raises(ConfigError, match=rf"torch has no device '{name}' on this machine; use one of \['cpu'"):
        palettize_package(source, out, CONFIG, calibration=Calibration([{"x0": ROW}], device=name))
    with pytest.raises(ConfigError, match="calibration device is 'tpu'; use one of"):
        Calibration(device="tpu")
    command = ["palettize", str(source), str(out), "--nbits", "2", "--weight-threshold", "4", "--calibrate", "4"]
    assert main([*command, "--device", name]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not out.exists()
    assert main([*command, "--device", "cpu", "--quiet"]) == 0


LOSSES = {
    "labels of another number": ("labels", lambda: [0, 1, 2], "3 labels for 4 samples"),
    "a label that is no class": ("labels", lambda: [0, 1, 2, 4], "label 4 is none of the 4 classes"),
    "a loss that is NaN": ("loss", lambda: "sum(outputs.values()).sum() * float('nan')", "the loss of sample 0 is nan"),
    "a loss of many": ("loss", lambda: "next(iter(outputs.values()))", "the loss of sample 0 is no number"),
    "a loss that is no tensor": ("loss", lambda: "None", "the loss of sample 0 is no number"),
    "a loss that fails": ("loss", lambda: "1 / 0", "the loss of sample 0 fails"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_what_sensitivity_is_given(source: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    kind, made, message = LOSSES[name]
    given: Callable[[], Any] = made
    if kind == "labels":
        np.save(tmp_path / "y.npy", np.array(given()))
        option = str(tmp_path / "y.npy")
    else:
        (tmp_path / "loss.py").write_text(f"def loss(outputs, number):\n    return {given()}\n")
        option = f"{tmp_path / 'loss.py'}:loss"
    out = tmp_path / "s.npz"
    code = main(["sensitivity", str(source), "--out", str(out), "--calibrate", "4", f"--{kind}", option])
    told = capsys.readouterr().err.strip().splitlines()
    assert code in (2, 3, 4)
    assert len(told) == 1
    assert message in told[0]
    assert not out.exists()


def test_no_samples_at_all(source: Path) -> None:
    (source.parent / "none.py").write_text("def none():\n    return iter(())\n")
    refused(source, f"{source.parent / 'none.py'}:none", EvaluationError, "gives no sample; yield at least one")
