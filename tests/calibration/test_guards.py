"""What is said of a whole function: embeddings that make most of the error, and noise where samples are made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from mil_palettize import Calibration, OpPalettizerConfig, OptimizationConfig, Report, palettize_package
from mil_palettize.doors import calibrating
from mil_palettize.doors.calibration_guard import Comparison
from mil_palettize.torch.metrics import outputs_noise


def palettized(fixtures: Path, folder: Path, table_bits: int, matrix_bits: int) -> Report:
    config = OptimizationConfig(
        global_config=OpPalettizerConfig(nbits=matrix_bits, weight_threshold=0),
        op_type_configs={"gather": OpPalettizerConfig(nbits=table_bits, weight_threshold=0)},
    )
    source, calibration = fixtures / "embedding_linear_ios16.mlpackage", Calibration(samples=20)
    return palettize_package(source, folder / "out.mlpackage", config, calibration=calibration, overwrite=True)


def test_an_embedding_that_makes_most_of_the_error(fixtures: Path, tmp_path: Path) -> None:
    (told,) = (note for note in palettized(fixtures, tmp_path, 1, 8).notes if "looked up" in note)
    assert "make most of the error" in told
    assert not any("looked up" in note for note in palettized(fixtures, tmp_path, 8, 1).notes)


@pytest.mark.parametrize("noisy", [0.5, 2.0])
def test_made_up_samples_are_guarded_by_noise(
    fixtures: Path, tmp_path: Path, noisy: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Palettes that are worse there than plain ones are given up, all of them."""
    monkeypatch.setattr(calibrating, "on_noise", lambda *given, **options: Comparison("noise", 1.0, noisy))
    report = palettized(fixtures, tmp_path, 2, 2)
    assert [w.calibration is None for w in report.palettized] == [noisy > 1.0] * len(report.palettized)
    assert any(note.startswith("noise: ") and note.endswith("given up") for note in report.notes) == (noisy > 1.0)


def test_noise_of_outputs_is_relative_to_the_power_of_each() -> None:
    import torch

    wanted = [{"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([0.01]), "n": torch.tensor([1])}]
    found = [{"a": torch.tensor([3.0, 5.0]), "b": torch.tensor([0.02]), "n": torch.tensor([9])}]
    assert outputs_noise(wanted, found) == pytest.approx(1.0 / 25.0 + 1.0)
    assert np.isfinite(outputs_noise([], []))


def test_noise_of_a_classifier_is_that_of_its_probabilities() -> None:
    import torch

    wanted = [{"label": "cat", "p": {"cat": 0.8, "dog": 0.6}, "n": torch.tensor([1])}]
    found = [{"label": "dog", "p": {"dog": 0.6, "cat": 0.5}, "n": torch.tensor([9])}]
    assert outputs_noise(wanted, found) == pytest.approx(0.09)


def test_noise_of_whole_numbers_alone_is_how_many_differ() -> None:
    import torch

    wanted = [{"n": torch.tensor([1, 2, 3, 4]), "label": "a"}, {"n": torch.tensor([1, 2, 3, 4]), "label": "a"}]
    found = [{"n": torch.tensor([1, 2, 3, 5]), "label": "a"}, {"n": torch.tensor([1, 2, 3, 4]), "label": "b"}]
    assert outputs_noise(wanted, found) == pytest.approx(0.125 + 0.5)


def test_what_is_not_finite_any_more_is_infinite_noise() -> None:
    import torch

    masked = [{"y": torch.tensor([float("-inf"), 2.0])}]
    assert outputs_noise(masked, [{"y": torch.tensor([float("-inf"), 1.0])}]) == pytest.approx(0.25)
    assert outputs_noise(masked, [{"y": torch.tensor([float("-inf"), float("nan")])}]) == np.inf
