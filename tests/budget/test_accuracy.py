"""The smallest plan that keeps accuracy, on samples held out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from evaluator import mb, program_of, saved

from mil_palettize import (
    Budget,
    Calibration,
    ConfigError,
    EvaluationError,
    Limits,
    PackageError,
    compare,
    palettize_package,
    plan_mixed_bits,
)
from mil_palettize.torch import open_model

INPUTS, HIDDEN, CLASSES, COUNT = 24, 48, 8, 60
ALL = Limits(weight_threshold=64)
HELD = range(4, COUNT, 5)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Numbers to logits, through two layers."""
    random = np.random.default_rng(0)
    weights = [
        random.standard_normal(shape).astype(np.float32) / shape[0] ** 0.5
        for shape in ((INPUTS, HIDDEN), (HIDDEN, CLASSES))
    ]

    def build(x: Any) -> Any:
        hidden = mb.relu(x=mb.matmul(x=x, y=weights[0]))
        return mb.matmul(x=hidden, y=weights[1], name="logits")

    return saved(program_of(build, [((1, INPUTS), np.float32)]), tmp_path_factory.mktemp("network"))


@pytest.fixture(scope="module")
def samples() -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(1)
    return [{"x0": random.standard_normal((1, INPUTS)).astype(np.float32)} for _ in range(COUNT)]


@pytest.fixture(scope="module")
def labels(source: Path, samples: list[dict[str, np.ndarray]]) -> list[int]:
    """What the network says itself, but for every seventh."""
    module = open_model(source)
    found = [int(module.predict(sample)["logits"].argmax()) for sample in samples]
    return [(label + (i % 7 == 0)) % CLASSES for i, label in enumerate(found)]


def test_accuracy_falls_by_no_more(
    source: Path, samples: list[dict[str, np.ndarray]], labels: list[int], tmp_path: Path
) -> None:
    """By what the network with palettes answers to the samples that calibration left out."""
    calibration, out = Calibration(samples), tmp_path / "out.mlpackage"
    recipe = plan_mixed_bits(source, Budget(max_drop=0.1), limits=ALL, calibration=calibration, labels=labels)
    right = np.array([labels[i] for i in HELD])

    def accuracy(package: Path) -> float:
        module = open_model(package)
        return float(np.mean([module.predict(samples[i])["logits"].argmax() for i in HELD] == right))

    palettize_package(source, out, recipe, calibration=calibration)
    drop = accuracy(source) - accuracy(out)
    assert drop <= 0.1
    chosen = next(t for t in recipe.trials if (t.nbytes, t.uniform) == (recipe.nbytes, recipe.uniform))
    assert chosen.accuracy_drop == pytest.approx(drop)
    held = [samples[i] for i in HELD]
    assert chosen.snr_db == pytest.approx(compare(source, out, held).snr_db)
    assert recipe.nbytes == min(t.nbytes for t in recipe.trials if t.accuracy_drop <= 0.1)
    assert recipe.notes[-1] == "accuracy is that of 12 held out samples, of which one is 8.3 points"
    assert any(t.accuracy_drop > 0.1 for t in recipe.trials)


@pytest.mark.parametrize(
    ("calibration", "change", "error", "told"),
    [
        (None, {}, ConfigError, "give them to calibrate on"),
        (Calibration(), {}, ConfigError, "give them to calibrate on"),
        ("samples", {"labels": None}, ConfigError, "goes with the right classes"),
        ("samples", {"labels": [1, 2]}, EvaluationError, "2 labels for 60 samples"),
        ("samples", {"labels": "nowhere.csv"}, PackageError, "there is no such file"),
        ("samples", {"logits": ["other"]}, EvaluationError, "no output 'other' for logits"),
        ("few", {"labels": [1, 2, 3]}, EvaluationError, "none of 3 samples is held out"),
        ("sequences", {"labels": [1]}, EvaluationError, "sequences of calls"),
    ],
)
def test_what_cannot_be_measured(
    calibration: object,
    change: dict[str, Any],
    error: type[Exception],
    told: str,
    source: Path,
    samples: list[dict[str, np.ndarray]],
    labels: list[int],
) -> None:
    given = {"samples": samples, "few": samples[:3], "sequences": [samples]}
    if isinstance(calibration, str):
        calibration = Calibration(given[calibration])
    asked = {"calibration": calibration, "labels": labels} | change
    with pytest.raises(error, match=told):
        plan_mixed_bits(source, Budget(max_drop=0.1), limits=ALL, **asked)


def test_labels_without_accuracy(source: Path) -> None:
    with pytest.raises(ConfigError, match="go with max_drop"):
        plan_mixed_bits(source, Budget(bits_per_weight=4), labels=[1])


@pytest.mark.parametrize("share", [-0.1, 1, True, "1%", float("nan")])
def test_no_share(share: Any) -> None:
    with pytest.raises(ConfigError, match="max_drop is"):
        Budget(max_drop=share)
