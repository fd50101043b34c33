"""The errors that k-means tells of every number of bits, and palettes beside coremltools' own."""

from __future__ import annotations

import numpy as np
import pytest
from made_palettes import make_one
from partitions import SAMPLES, brute_force

from mil_palettize.algorithms.distribution import Distribution, describe
from mil_palettize.algorithms.making import ArraySource, Palette
from mil_palettize.algorithms.scalar import kmeans
from mil_palettize.errors import AlgorithmError

ALLOWED = (1, 2, 3, 4, 6, 8)


def coremltools_error(array: np.ndarray, nbits: int, axis: int = 0, group_size: int = 0) -> float:
    passes = pytest.importorskip("coremltools.optimize.coreml._quantization_passes")
    params = passes.palettize_weights.grouped_channelwise_compress(array, "KMEANS", nbits, axis, group_size)
    decoded = passes.palettize_weights.decompress(params)
    return float(np.sum((array.astype(float) - decoded.astype(float)) ** 2))


def palette(array: np.ndarray, nbits: int, axis: int | None = None, group_size: int | None = None) -> Palette:
    source = ArraySource("w", array)
    return make_one(source, mode="kmeans", nbits=nbits, axis=axis, group_size=group_size)


@pytest.mark.parametrize("nbits", ALLOWED)
@pytest.mark.parametrize("kind", ["normal", "lattice", "offset", "outliers"])
def test_not_worse_than_coremltools_exact_path(kind: str, nbits: int) -> None:
    rng = np.random.default_rng(nbits)
    array = rng.standard_normal((100, 128)) * 0.02
    if kind == "lattice":
        array = np.round(array * 2000) / 2000
    elif kind == "offset":
        array = 100 + array * 10
    elif kind == "outliers":
        array[rng.random(array.shape) < 0.001] *= 1000
    half = array.astype(np.float16)
    assert palette(half, nbits).sse <= coremltools_error(half, nbits) * (1 + 1e-9)


@pytest.mark.parametrize(("dtype", "axis", "group_size"), [(np.float16, 0, 8), (np.float32, 1, 4), (np.float32, 0, 0)])
def test_not_worse_than_coremltools_sklearn_path(dtype: type, axis: int, group_size: int) -> None:
    array = np.random.default_rng(1).standard_normal((16, 40)).astype(dtype)
    ours = palette(array, 4, axis if group_size else None, group_size or None)
    assert ours.sse <= coremltools_error(array, 4, axis, group_size) * (1 + 1e-9)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("kind", SAMPLES)
def test_errors_by_brute_force(kind: str, half: bool) -> None:
    """Of one distribution, for every number of bits: the least error of tables that the weight's type can store."""
    rng = np.random.default_rng(7)
    dtype = np.dtype(np.float16 if half else np.float32)
    drawn = SAMPLES[kind](rng, 40)
    values = np.unique(drawn[np.abs(drawn) < 60_000].astype(dtype).astype(float))
    weights = rng.uniform(0.5, 4.0, len(values))
    candidates = every_half(values[0], values[-1]) if half else None
    least = brute_force(values, weights, 16, dtype.type, candidates)
    found = kmeans.errors(Distribution("w", values, weights, dtype, len(values), 1.0), (1, 2, 3, 4))
    allowance = 1e-12 * least[1] + 1e-13 * float(weights @ values**2)  # of rounding in sums
    for nbits, error in zip((1, 2, 3, 4), found, strict=True):
        assert abs(error - least[min(1 << nbits, len(values))]) <= allowance


def every_half(low: float, high: float) -> np.ndarray:
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(float)
    halves = np.concatenate([-halves[:0:-1], halves])
    return halves[(halves >= low) & (halves <= high)]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("kind", ["normal", "offset", "outliers"])
def test_errors_are_those_of_palettes(kind: str, dtype: type) -> None:
    array = np.random.default_rng(12).standard_normal((60, 500))
    if kind == "offset":
        array = 100 + array
    elif kind == "outliers":
        array[0, :5] *= 1000
    array = array.astype(dtype)
    found = kmeans.errors(describe(ArraySource("w", array)), ALLOWED)
    assert found == pytest.approx([palette(array, nbits).sse for nbits in ALLOWED], rel=1e-11)
    assert list(found) == sorted(found, reverse=True)


def test_errors_are_0_where_all_values_fit() -> None:
    array = np.array([-1.0, 0.5, 0.5, 3.0], np.float16)
    assert kmeans.errors(describe(ArraySource("w", array)), (1, 2, 8))[1:] == (0.0, 0.0)


def test_errors_of_other_dtypes_are_refused() -> None:
    whole = Distribution("w", np.arange(3.0), np.ones(3), np.dtype(np.int8), 3, 5.0)
    with pytest.raises(AlgorithmError, match="weight 'w' is int8; give one of float16 or float32"):
        kmeans.errors(whole, (1,))
