"""What samples tell of a weight, against what solving and running give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mil_palettize.algorithms.layerwise.moments import Moments, objective
from mil_palettize.algorithms.layerwise.pivots import element_pivots, pivots
from mil_palettize.algorithms.layerwise.reconstruction import reconstructed
from mil_palettize.algorithms.layerwise.structured import structured_power, structured_square
from mil_palettize.algorithms.making import ArraySource, make_palette
from mil_palettize.algorithms.specification import PaletteSpecification


def correlated(columns: int, seed: int) -> np.ndarray:
    inputs = np.random.default_rng(seed).standard_normal((4 * columns, columns // 3))
    mixed = inputs @ np.random.default_rng(seed + 1).standard_normal((columns // 3, columns))
    return mixed.T @ mixed / len(mixed) + 0.05 * np.eye(columns)


def test_pivots_are_what_columns_before_leave() -> None:
    """By elimination: the part of a column, done in its turn, that those done after it cannot make good."""
    square = correlated(12, 0)
    order = np.argsort(-np.diagonal(square), kind="stable")
    found = pivots(square)
    for place, column in enumerate(order):
        after = order[place + 1 :]
        taken = square[column, after] @ np.linalg.solve(square[np.ix_(after, after)], square[after, column])
        assert found[column] == pytest.approx(square[column, column] - taken)


@pytest.mark.parametrize("nbits", [2, 4, 6])
def test_what_compensation_leaves_is_told(nbits: int) -> None:
    random = np.random.default_rng(3)
    weight, square = random.standard_normal((64, 90)).astype(np.float32), correlated(90, 5)
    where = np.arange(weight.size).reshape(1, *weight.shape)
    moments = Moments(where, square[None])
    made = make_palette(ArraySource("w", weight), PaletteSpecification("kmeans", nbits, (2, 4, 6)))
    wide = weight.astype(np.float64)
    left = reconstructed(made.expr, [objective(moments, wide.reshape(-1), 0.1, asymmetric=False)], rounds=0).objective
    errors = np.square(wide - made.expr.decode()).reshape(-1)
    told = float(element_pivots(moments, 0.1, np.ones((1, len(weight))), weight.size) @ errors)
    without = float(np.einsum("ri,ij,rj->", wide - made.expr.decode(), square, wide - made.expr.decode()))
    assert told == pytest.approx(left, rel=0.2)
    assert abs(told - left) < 0.5 * abs(without - left)


@pytest.mark.parametrize(("columns", "window"), [(18, 9), (144, 9), (100, 1)])
def test_power_under_structured_moments(columns: int, window: int) -> None:
    rows = np.random.default_rng(0).standard_normal((7, columns))
    square = structured_square(columns, window)
    assert structured_power(rows, window) == pytest.approx(np.einsum("ri,ij,rj->", rows, square, rows))


def test_costs_rank_weights_as_the_outputs_do(fixtures: Path, tmp_path: Path) -> None:
    """One weight at a time at 2 bits, calibrated: the noise at the outputs, and what was said before."""
    pytest.importorskip("torch")
    from mil_palettize import Budget, Calibration, Limits, compare, palettize_package
    from mil_palettize.budget.weighed_choices import Source
    from mil_palettize.budget.weighing import weighed
    from mil_palettize.doors.budget_costs import element_costs
    from mil_palettize.encoding.workers import Workers
    from mil_palettize.request.normalised import Requests
    from mil_palettize.torch import MILModule
    from mil_palettize.torch.calibration.made_up_samples import natural_samples

    source, out = fixtures / "conv_fp16_ios18.mlpackage", tmp_path / "out.mlpackage"
    samples = natural_samples(MILModule.from_package(source), 16, 0)
    calibration = Calibration(samples)

    def costs(model: object, wanted: object) -> object:
        return element_costs(model, wanted, calibration=calibration)

    with Workers(1) as pool:
        found = weighed(Source(source), Limits(group_size=0), Budget(bits_per_weight=3.0), pool, None, costs)
    told, measured = [], []
    for one in found.choices:
        number = next(i for i, c in enumerate(one.choice.candidates) if c.options and c.options["nbits"] == 2)
        asked = Requests(None, {}, {one.choice.names[0]: one.choice.candidates[number].request})
        palettize_package(source, out, asked, calibration=calibration, overwrite=True)
        outputs = compare(source, out, samples).outputs
        measured.append(float(np.mean([10.0 ** (-output.snr_db / 10.0) for output in outputs])))
        told.append(one.errors[number])
    assert set(found.weight_ranks) == {
        "error relative to the weight",
        "error under structured moments",
        "squared gradients",
        "squared gradients and moments",
    }
    ranked = found.weight_ranks
    assert ranked["error relative to the weight"] < ranked["squared gradients"]  # which know what comes after
    ranks = [np.argsort(np.argsort(values)) for values in (told, measured)]
    assert np.corrcoef(*ranks)[0, 1] >= 0.6, (told, measured)


def test_few_samples_make_no_wide_layer_free(tmp_path: Path) -> None:
    """Of 256 inputs 20 samples tell little: what a palette loses on others is told nonetheless, within a factor."""
    pytest.importorskip("torch")
    from coremltools.converters.mil.mil import Builder as mb
    from evaluator import program_of, saved

    from mil_palettize import Budget, Calibration, Limits, compare, palettize_package, plan_mixed_bits

    weight = np.random.default_rng(0).standard_normal((40, 256)).astype(np.float32)
    program = program_of(lambda x: mb.linear(x=x, weight=weight), [((1, 256), np.float32)])
    source, out = saved(program, tmp_path), tmp_path / "out.mlpackage"
    random = np.random.default_rng(1)
    samples, others = ([{"x0": random.standard_normal((1, 256)).astype(np.float32)} for _ in range(20)] for _ in "ab")
    calibration = Calibration(samples)
    recipe = plan_mixed_bits(
        source, Budget(bits_per_weight=2.1), limits=Limits(group_size=0), calibration=calibration, measure=False
    )
    palettize_package(source, out, recipe, calibration=calibration)
    measured = 10.0 ** (-compare(source, out, others).outputs[0].snr_db / 10.0)
    assert 0.5 < recipe.error / measured < 2.0
