"""Fisher information against gradients worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

torch = pytest.importorskip("torch")

from evaluator import program_of, saved  # noqa: E402

from mil_palettize.errors import ConfigError, EvaluationError  # noqa: E402
from mil_palettize.torch import MILModule  # noqa: E402
from mil_palettize.torch.calibration.fisher import fisher  # noqa: E402

WEIGHT = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


def classifier(folder: Path) -> MILModule:
    program = program_of(lambda x: mb.linear(x=x, weight=WEIGHT), [((1, 4), np.float32)])
    return MILModule.from_package(saved(program, folder))


def samples(count: int) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(1)
    return [{"x0": random.normal(size=(1, 4)).astype(np.float32)} for _ in range(count)]


def by_hand(data: list[dict[str, np.ndarray]], labels: list[int]) -> np.ndarray:
    total = np.zeros(WEIGHT.shape)
    for sample, label in zip(data, labels, strict=True):
        x = sample["x0"][0].astype(np.float64)
        scores = WEIGHT.astype(np.float64) @ x
        chances = np.exp(scores - scores.max())
        chances /= chances.sum()
        total += np.outer(chances - np.eye(3)[label], x) ** 2
    return total / len(data)


def test_of_given_labels(tmp_path: Path) -> None:
    data = samples(5)
    found = fisher(classifier(tmp_path), data, labels=[0, 1, 2, 1, 0])
    assert len(found) == 1
    np.testing.assert_allclose(next(iter(found.values())), by_hand(data, [0, 1, 2, 1, 0]), rtol=1e-4)


def test_of_labels_that_the_network_draws(tmp_path: Path) -> None:
    """The mean over many draws is that of all labels by their chances; the same seed draws the same."""
    module, one = classifier(tmp_path), samples(1)
    found = next(iter(fisher(module, one * 600).values()))
    x = one[0]["x0"][0]
    chances = np.exp(WEIGHT @ x) / np.exp(WEIGHT @ x).sum()
    wanted = sum(chances[label] * by_hand(one, [label]) for label in range(3))
    np.testing.assert_allclose(found, wanted, rtol=0.25)
    again = next(iter(fisher(module, one * 600).values()))
    assert np.array_equal(found, again)


def test_of_a_loss(tmp_path: Path) -> None:
    data = samples(3)
    found = fisher(classifier(tmp_path), data, loss=lambda outputs, number: next(iter(outputs.values())).sum())
    x = np.stack([sample["x0"][0] for sample in data]).astype(np.float64)
    np.testing.assert_allclose(next(iter(found.values())), np.tile((x**2).mean(axis=0), (3, 1)), rtol=1e-5)


def test_what_cannot_be(tmp_path: Path) -> None:
    module, data = classifier(tmp_path), samples(2)
    with pytest.raises(EvaluationError, match="1 labels for 2 samples"):
        fisher(module, data, labels=[0])
    with pytest.raises(ConfigError, match="label 7 is none of the 3 classes"):
        fisher(module, data, labels=[7, 0])
    with pytest.raises(EvaluationError, match="the loss of sample 0 is nan"):
        fisher(module, data, loss=lambda outputs, number: torch.tensor(float("nan")))
    with pytest.raises(EvaluationError, match="is no number"):
        fisher(module, data, loss=lambda outputs, number: next(iter(outputs.values())))
