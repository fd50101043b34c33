"""What a report warns of: palettes worse than zeros, and runs that palettized nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.proto import MIL_pb2 as MIL
from mil_messages import block, const, function, op, write_package

from mil_palettize import Calibration, OpPalettizerConfig, OptimizationConfig, PlanError, Report, palettize_package
from mil_palettize.cli.main import main

NOTHING = "nothing to palettize: no constant is above the threshold"


def config(**options: Any) -> OptimizationConfig:
    return OptimizationConfig(global_config=OpPalettizerConfig(**{"nbits": 4, "weight_threshold": 100, **options}))


def package(folder: Path, weight: np.ndarray) -> Path:
    """x · weight."""
    body = block(const("w", weight), op("matmul", "y", {"x": "x", "y": "w"}), outputs=["y"])
    made = function({"CoreML8": body}, [("x", (1, weight.shape[0]))])
    return write_package(folder / "in.mlpackage", MIL.Program(version=1, functions={"main": made}))


def palettized(source: Path, **options: Any) -> Report:
    return palettize_package(source, source.parent / "out.mlpackage", config(**options), overwrite=True)


def test_a_palette_worse_than_zeros(tmp_path: Path) -> None:
    weight = np.full((64, 64), 0.5, np.float16)
    weight[0, 0], weight[0, 1] = -40, 100
    weight[2:] *= np.where(np.random.default_rng(1).random((62, 64)) < 0.5, -0.01, 0.01).astype(np.float16)
    weight[2:, ::2] = 0
    source = package(tmp_path, weight)
    (found,) = palettized(source, mode="uniform", nbits=1).palettized
    assert found.snr_db is not None
    assert found.snr_db < 0
    (note,) = found.notes
    assert note.startswith("warning: uniform is worse here than zeros would be")
    assert "use mode kmeans" in note
    report = palettized(source, mode="uniform", nbits=1)
    assert "use mode kmeans: w" in " ".join(report.to_text(1000).split())
    better = palettized(source, mode="kmeans", nbits=1).palettized
    assert not any("worse here than zeros" in note for w in better for note in w.notes)


def test_a_run_that_palettized_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = package(tmp_path, np.zeros((64, 64), np.float16))
    same = f"{NOTHING}; the new package has the same weights"
    assert same in palettized(source, weight_threshold=5000).to_text().splitlines()
    assert NOTHING not in palettized(source).to_text()
    dry = palettize_package(source, None, config(weight_threshold=5000), dry_run=True)
    assert NOTHING in dry.to_text().splitlines()
    small = tmp_path / "small.mlpackage"
    with pytest.raises(PlanError, match="strict: nothing is palettized: no constant is above the threshold"):
        palettize_package(source, small, config(weight_threshold=5000), strict=True)
    assert not small.exists()
    arguments = ["palettize", str(source), str(small), "--nbits", "4", "--strict", "--weight-threshold", "5000"]
    assert main(arguments) == 4
    assert "nothing is palettized" in capsys.readouterr().err
    palettize_package(source, small, config(), strict=True)


def test_a_package_that_is_palettized_already(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0, with a line that says why nothing was done; ``inspect`` tells it beforehand."""
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float16)
    source, once, twice = package(tmp_path, weight), tmp_path / "once.mlpackage", str(tmp_path / "twice.mlpackage")
    palettize_package(source, once, config())
    assert main(["palettize", str(once), twice, "--nbits", "4"]) == 0
    why = "already compressed (constexpr_lut_to_dense); redo (--redo) palettizes it again (1 constant)"
    assert f"nothing to palettize: {why}; the new package has the same weights" in capsys.readouterr().out.splitlines()
    assert main(["inspect", str(once)]) == 0
    assert "\n1 compressed already: palettize takes palettes with --redo only" in capsys.readouterr().out


def test_strict_where_the_values_rule_it_out(tmp_path: Path) -> None:
    """Found while writing: nothing is left behind."""
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float16)
    source, goal = package(tmp_path, weight), tmp_path / "out.mlpackage"
    unique = OptimizationConfig(global_config=OpPalettizerConfig(mode="unique", weight_threshold=100))
    assert not palettize_package(source, goal, unique).palettized
    with pytest.raises(PlanError, match="strict"):
        palettize_package(source, tmp_path / "other.mlpackage", unique, strict=True)
    assert {item.name for item in tmp_path.iterdir()} == {"in.mlpackage", "out.mlpackage"}


def test_a_bulk_that_is_represented_far_worse_than_the_squared_error_says(tmp_path: Path) -> None:
    """Few large elements: their entries are missing where nearly all others are. Calibration looks at outputs."""
    random = np.random.default_rng(0)
    weight = random.standard_normal((96, 96)) * np.where(random.uniform(size=(96, 96)) < 0.01, 100.0, 1.0)
    source = package(tmp_path, weight.astype(np.float16))
    for nbits in (4, 8):
        (found,) = palettized(source, nbits=nbits).palettized
        assert [note.startswith("warning: heavy tails: ") for note in found.notes] == [True]
    clipped = package(tmp_path / "clipped", weight.clip(-4, 4).astype(np.float16))
    assert not any(w.notes for w in palettized(clipped).palettized)
    calibrated = palettize_package(
        source,
        tmp_path / "out.mlpackage",
        config(),
        overwrite=True,
        calibration=Calibration(method="weights"),
    )
    assert not any("heavy tails" in note for w in calibrated.palettized for note in w.notes)
