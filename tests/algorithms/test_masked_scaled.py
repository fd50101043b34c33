"""Palettes of masked values, and of values that are scaled by channel."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from refined_palettes import DTYPES, best_partition, bits, by_quantiles, error_of, make, sample

from mil_palettize.algorithms.making import UnquantizableError
from mil_palettize.algorithms.scalar import weighted_distribution as weighted
from mil_palettize.expressions.weight_expr import Scale, lut_of

# Masks


@pytest.mark.parametrize("mode", ["kmeans", "uniform", "unique", "custom"])
@pytest.mark.parametrize("dtype", [*DTYPES, np.int8])
def test_a_masked_palette_is_that_of_the_values_alone(mode: str, dtype: type) -> None:
    rng = np.random.default_rng(3)
    array = np.round(rng.standard_normal((8, 30)) * 12).astype(dtype)
    mask = rng.random(array.shape) < 0.5
    options = {"lut_function": by_quantiles} if mode == "custom" else {}
    whole, alone = make(array, mode, mask=bits(mask), **options), make(array[mask], mode, **options)
    assert (whole.sse, whole.signal) == pytest.approx((alone.sse, alone.signal), rel=1e-12)
    assert np.array_equal(lut_of(whole.expr).table.reshape(-1), lut_of(alone.expr).table.reshape(-1))
    assert np.array_equal(lut_of(whole.expr).indices.unpack()[mask], lut_of(alone.expr).indices.unpack())


@pytest.mark.parametrize("options", [{}, {"scale_axis": 1}, {"lut_dtype": "int8"}, {"lut_dtype": "uint8"}])
@pytest.mark.parametrize("mode", ["kmeans", "uniform", "custom"])
def test_a_group_without_values_has_a_table_of_zeros(mode: str, options: dict[str, Any]) -> None:
    array = sample((4, 10), np.float16)
    mask = np.ones(array.shape, bool)
    mask[2:] = False
    extra = {"lut_function": by_quantiles} if mode == "custom" else {}
    made = make(array, mode, mask=bits(mask), axis=0, group_size=2, **options, **extra)
    assert not lut_of(made.expr).table[1].any()
    assert lut_of(made.expr).table[0].any()


# Scales


@pytest.mark.parametrize("seed", range(8))
def test_scaled_tables_are_no_worse_than_any_partition(seed: int) -> None:
    """float32, whose rounding does not matter; scales may only make it better."""
    array = sample((3, 4), np.float32, seed)
    scales = np.abs(array).max(axis=1, keepdims=True).astype(np.float64)
    optimum = best_partition((array / scales).reshape(-1), np.repeat(scales.reshape(-1) ** 2, 4), 4)
    assert make(array, scale_axis=0).sse <= optimum * (1 + 1e-5)


def best_runs(x: np.ndarray, weights: np.ndarray, k: int) -> np.ndarray:
    """The mean of the run that each value is in, in the partition into k runs with the least weighted squared error."""
    order = np.argsort(x)
    least, means = np.inf, np.empty(len(x))
    for cuts in combinations(range(1, len(x)), k - 1):
        runs = np.split(order, cuts)
        centers = [np.average(x[run], weights=weights[run]) for run in runs]
        error = sum(float(np.sum(weights[run] * (x[run] - c) ** 2)) for run, c in zip(runs, centers, strict=True))
        if error < least:
            least = error
            means = np.empty(len(x))
            for run, center in zip(runs, centers, strict=True):
                means[run] = center
    return means


def alternating_errors(array: np.ndarray, k: int, importance: np.ndarray, rounds: int) -> list[float]:
    """After each of some rounds: the best table for the scales of the rows, then the best scales for its entries."""
    scales, errors = np.abs(array).max(axis=1, keepdims=True), []
    for _ in range(rounds):
        weights = np.broadcast_to(scales**2, array.shape) * importance
        entries = best_runs((array / scales).reshape(-1), weights.reshape(-1), k).reshape(array.shape)
        errors.append(error_of(array, entries * scales, importance))
        scales = (importance * array * entries).sum(axis=1, keepdims=True)
        scales /= (importance * entries**2).sum(axis=1, keepdims=True)
    return errors


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("weighted_", [False, True])
def test_scales_are_fitted_in_turn_with_the_table(seed: int, weighted_: bool) -> None:
    """By brute force over all partitions. float32, whose rounding does not matter; small gains are not waited for."""
    array = sample((3, 7), np.float32, seed + 3)
    importance = 10 ** np.random.default_rng(seed).uniform(-1, 1, array.shape) if weighted_ else np.ones(array.shape)
    errors = alternating_errors(array.astype(np.float64), 4, importance, 3)
    assert errors[1] < 0.999 * errors[0]
    options = {"importance": importance} if weighted_ else {}
    assert make(array, scale_axis=0, **options).sse <= min(errors) * (1 + 2e-3)


@pytest.mark.parametrize("nbits", [1, 2, 4, 6])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("axis", "group_size"), [(None, None), (0, 4), (1, 16)])
@pytest.mark.parametrize("scale_axis", [0, 1])
def test_scaled_is_better_than_the_usual_recipe(
    nbits: int, dtype: type, axis: int | None, group_size: int | None, scale_axis: int
) -> None:
    """Which divides by the largest magnitudes, makes the best palette of the quotients, and multiplies again."""
    array = sample((16, 64), dtype, nbits)
    scales = np.abs(array).max(axis=1 - scale_axis, keepdims=True)
    usual = make((array / scales).astype(dtype), nbits=nbits, axis=axis, group_size=group_size).expr.decode() * scales
    made = make(array, nbits=nbits, scale_axis=scale_axis, axis=axis, group_size=group_size)
    assert made.sse <= error_of(array, usual) * (1 + 1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_element_has_the_index_that_decodes_nearest(dtype: type) -> None:
    array = sample((12, 40), dtype)
    made = make(array, nbits=6, scale_axis=1)
    assert isinstance(made.expr, Scale)
    entries = lut_of(made.expr).table.reshape(-1)
    every = (entries[:, None, None] * np.asarray(made.expr.scale)[None]).astype(np.float64)
    distances = np.abs(every - array[None].astype(np.float64)).min(axis=0)
    assert np.array_equal(np.abs(made.expr.decode().astype(np.float64) - array.astype(np.float64)), distances)


@pytest.mark.parametrize("dtype", DTYPES)
def test_channels_that_scales_make_the_same_are_lossless(dtype: type) -> None:
    pattern = np.array([-1.0, -0.5, 0.25, 1.0])
    array = (pattern[np.random.default_rng(0).integers(0, 4, (9, 30))] * 2.0 ** np.arange(-4, 5)[:, None]).astype(dtype)
    array[:, 0] = array[:, 1] = 2.0 ** np.arange(-4, 5)
    for mode in ("kmeans", "unique"):
        made = make(array, mode, scale_axis=0)
        assert made.sse == 0.0
        assert lut_of(made.expr).indices.nbits == 2
    with pytest.raises(UnquantizableError, match=r"'layer.weight' has values that are not exact in float"):
        make(sample((3, 20), dtype), "unique", scale_axis=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_scales_of_zeros_and_of_extremes_are_normal_numbers(dtype: type) -> None:
    info = np.finfo(dtype)
    array = sample((5, 16), dtype)
    array[0] = 0
    array[1] = np.linspace(-1, 1, 16) * float(info.max)
    array[2] = np.arange(16) * float(info.smallest_subnormal)
    made = make(array, nbits=4, scale_axis=0)
    assert isinstance(made.expr, Scale)
    assert np.all(np.asarray(made.expr.scale) >= info.tiny)
    decoded = made.expr.decode()
    assert np.isfinite(decoded).all()
    assert np.abs(decoded[0]).max() <= info.tiny
    assert made.sse < 0.02 * made.signal


def test_large_weights_are_solved_in_cells_almost_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    array = sample((64, 400), np.float32, 5)
    array[3, 3] = 1e6
    importance = np.random.default_rng(0).random((64, 1)) + 0.1
    for options in ({"scale_axis": 0}, {"importance": importance}, {"scale_axis": 1, "importance": importance}):
        exact = make(array, nbits=4, **options).sse
        with monkeypatch.context() as patch:
            patch.setattr(weighted, "EXACT_SIZE", 1000)
            patch.setattr(weighted, "CELLS", 4096)
            near = make(array, nbits=4, **options)
        assert near.sse != exact
        assert near.sse <= exact * 1.001
        assert near.sse == pytest.approx(error_of(array, near.expr.decode(), options.get("importance", 1.0)), rel=1e-9)
