"""Palettes of values that count unequally, and of whole numbers."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from refined_palettes import DTYPES, best_partition, error_of, make, nearest_error, sample

from mil_palettize.errors import AlgorithmError
from mil_palettize.expressions.weight_expr import lut_of

# Importance


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("dtype", DTYPES)
def test_importance_is_minimised_over_all_partitions(seed: int, dtype: type) -> None:
    rng = np.random.default_rng(seed)
    array = rng.standard_normal((4, 3)).astype(dtype)
    importance = 10 ** rng.uniform(-2, 2, (2, 3))
    weights = np.repeat(importance, 2, axis=0)
    made = make(array, importance=importance)
    optimum = best_partition(array.astype(np.float64).reshape(-1), weights.reshape(-1), 4)
    rounding = float(np.sum(weights)) * float(np.finfo(dtype).eps) ** 2 * 16
    assert optimum * (1 - 1e-9) <= made.sse <= optimum * (1 + 1e-9) + rounding + 2 * np.sqrt(optimum * rounding)


@pytest.mark.parametrize("dtype", [*DTYPES, np.uint8])
def test_equal_importance_changes_nothing(dtype: type) -> None:
    array = np.abs(sample((6, 50), np.float32) * 300).astype(dtype)
    plain, made = make(array), make(array, importance=np.full((1, 50), 3.0))
    assert np.array_equal(lut_of(plain.expr).table, lut_of(made.expr).table)
    assert made.sse == pytest.approx(3 * plain.sse, rel=1e-9)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("lightest", [1e-16, 1e-30])
def test_importance_of_any_range(seed: int, lightest: float) -> None:
    """Sixteen orders of magnitude are exact; beyond, what running sums lose is bounded by their precision."""
    rng = np.random.default_rng(seed)
    array = np.unique(rng.integers(-200, 200, 11)).astype(np.float16)
    importance = 10 ** rng.uniform(np.log10(lightest), 0, len(array))
    made = make(array, importance=importance)
    flat = array.astype(np.float64)
    optimum = best_partition(flat, importance, 4)
    rounding = importance.sum() * (np.spacing(np.abs(array).max()).astype(float) / 2) ** 2
    lost = 2.0**-50 * importance.sum() * np.ptp(flat) ** 2 if lightest < 1e-16 else 1e-9 * optimum
    assert made.sse <= optimum + rounding + 2 * np.sqrt(rounding * optimum) + lost
    assert made.sse == pytest.approx(error_of(array, made.expr.decode(), importance), rel=1e-9)


@pytest.mark.parametrize(
    ("importance", "message"),
    [
        (np.ones((4, 4), int), "importance is int64; use positive floats"),
        (np.ones(4), r"importance has shape \[4\]; each of its sizes divides"),
        (np.ones((3, 1)), r"importance has shape \[3, 1\]; each of its sizes divides"),
        (np.array([[1.0], [0.0]]), "importance has an element 0.0; all are positive"),
        (np.array([[1.0, np.nan]]), "importance has an element nan"),
    ],
)
def test_wrong_importance(importance: np.ndarray, message: str) -> None:
    with pytest.raises(AlgorithmError, match=f"'layer.weight' of shape .*{message}"):
        make(np.ones((4, 4), np.float16), importance=importance)


# Whole numbers


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("weighting", [False, True])
def test_whole_numbers_are_the_best_of_all_tables(seed: int, dtype: type, weighting: bool) -> None:
    rng = np.random.default_rng(seed)
    low = int(rng.choice([np.iinfo(dtype).min, np.iinfo(dtype).max - 13, 3]))
    array = rng.integers(low, low + 14, (4, 9)).astype(dtype)
    weights = 10 ** rng.uniform(-1, 1, (4, 9)) if weighting else np.ones((4, 9))
    made = make(array, importance=weights if weighting else None)
    flat, mass = array.astype(np.float64).reshape(-1), weights.reshape(-1)
    every = combinations(range(low, low + 14), 4)
    optimum = min(nearest_error(flat, mass, np.array(entries, float)) for entries in every)
    assert made.sse == pytest.approx(optimum, rel=1e-9)
    assert lut_of(made.expr).table.dtype == dtype


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_all_whole_numbers_fit_into_eight_bits(dtype: type) -> None:
    array = np.arange(256).astype(np.uint8).view(dtype).reshape(16, 16)
    for mode in ("unique", "kmeans", "uniform"):
        assert np.array_equal(make(array, mode, nbits=8).expr.decode(), array)
    assert lut_of(make(array[:1], "unique").expr).indices.nbits == 4


@pytest.mark.parametrize("entry", [0.5, 128, -129, np.nan])
def test_entries_of_whole_numbers_are_checked(entry: float) -> None:
    seen = []

    def function(weight: np.ndarray) -> tuple[list[float], np.ndarray]:
        seen.append(weight.dtype)
        return [0, entry], np.zeros(weight.size, int)

    with pytest.raises(AlgorithmError, match=rf"lut_function returned a lut with entry {entry}.*from -128 to 127"):
        make(np.ones((4, 4), np.int8), "custom", lut_function=function)
    assert seen == [np.int32]
