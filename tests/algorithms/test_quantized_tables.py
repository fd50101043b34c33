"""Palettes whose tables are quantized, of numbers and of vectors."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from refined_palettes import ALLOWED, DTYPES, bits, by_quantiles, error_of, make, nearest_error, sample

from mil_palettize.algorithms.compiled import subset
from mil_palettize.algorithms.making import TooManyValuesError, UnquantizableError
from mil_palettize.expressions.weight_expr import Lut, Scale, lut_of

# Quantized tables


def every_position(m: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each of k chosen among m may be."""
    return np.arange(k), np.arange(m - k, m)


@pytest.mark.parametrize("seed", range(30))
def test_the_best_subset_is_the_best_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.unique(np.round(rng.standard_normal(int(rng.integers(1, 60))) * 4, int(rng.integers(0, 3))))
    weights = 10 ** rng.uniform(-2, 2, len(values))
    candidates = np.unique(np.round(rng.standard_normal(11) * 5, int(rng.integers(0, 3))))
    for k in range(1, len(candidates) + 1):
        chosen = np.empty(k, np.int64)
        error = subset.best_subset(values, weights, candidates, *every_position(len(candidates), k), chosen)
        assert np.all(np.diff(chosen) > 0)
        every = [nearest_error(values, weights, np.array(part)) for part in combinations(candidates, k)]
        assert error == pytest.approx(min(every), rel=1e-9, abs=1e-12)
        assert error == pytest.approx(nearest_error(values, weights, candidates[chosen]), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("seed", range(30))
def test_the_best_subset_inside_windows_is_the_best_of_these(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, candidates = np.unique(rng.standard_normal(50)), np.unique(rng.standard_normal(11))
    weights, m = rng.random(50) + 0.1, 11
    for k in range(1, m):
        ends = np.sort([np.sort(rng.choice(m, k, replace=False)) for _ in range(2)], axis=0)
        chosen = np.empty(k, np.int64)
        error = subset.best_subset(values, weights, candidates, ends[0], ends[1], chosen)
        parts = [np.array(part) for part in combinations(range(m), k)]
        inside = [part for part in parts if np.all((ends[0] <= part) & (part <= ends[1]))]
        assert np.all((ends[0] <= chosen) & (chosen <= ends[1]))
        assert error == pytest.approx(
            min(nearest_error(values, weights, candidates[part]) for part in inside), rel=1e-9
        )


@pytest.mark.parametrize("k", [2, 5, 16, 64])
@pytest.mark.parametrize("rounding", [np.float16, np.float64])
def test_the_best_subset_of_a_grid_is_that_of_the_plain_dynamic_program(k: int, rounding: type) -> None:
    rng = np.random.default_rng(k)
    candidates = (np.arange(-128, 128) * 0.0213).astype(rounding).astype(np.float64)
    values = np.unique(rng.standard_normal(300).astype(np.float16).astype(np.float64))
    weights = rng.random(len(values)) + 0.01
    squares = np.square(values[:, None] - candidates[None])
    below, above = values[:, None] <= candidates[None], values[:, None] > candidates[None]
    first = (weights[:, None] * squares * below).sum(axis=0)
    last = (weights[:, None] * squares * above).sum(axis=0)
    pairs = np.full((256, 256), np.inf)
    for a in range(256):
        inside = weights[:, None] * np.minimum(squares[:, [a]], squares) * above[:, [a]] * below
        pairs[a, a + 1 :] = inside.sum(axis=0)[a + 1 :]
    best = first
    for _ in range(k - 1):
        best = (best[:, None] + pairs).min(axis=0)
    chosen = np.empty(k, np.int64)
    assert subset.best_subset(
        values, weights, candidates, *every_position(len(candidates), k), chosen
    ) == pytest.approx((best + last).min(), rel=1e-11)


@pytest.mark.parametrize("kind", ["int8", "uint8"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_two_values_of_the_grid_are_better(kind: str, dtype: type) -> None:
    array = sample((6, 20), dtype, 1)
    made = make(array, nbits=1, lut_dtype=kind)
    inner = lut_of(made.expr).lut
    assert isinstance(inner, Scale)
    every = np.arange(256, dtype=np.uint8).view(kind)
    scale, offset = np.asarray(inner.scale).reshape(-1)[0], inner.offset
    zero = 0 if offset is None else int(np.asarray(offset).reshape(-1)[0])
    values = ((every.astype(np.float64) - zero) * float(scale)).astype(dtype).astype(np.float64)
    flat = array.astype(np.float64).reshape(-1)
    squares = np.square(flat[:, None] - values[None])
    least = min(float(np.minimum(squares[:, a], squares[:, b]).sum()) for a, b in combinations(range(256), 2))
    assert made.sse == pytest.approx(least, rel=1e-12)


def best_on_any_grid(array: np.ndarray, k: int, kind: str) -> float:
    """The least squared error of k entries ``code * scale`` in float16, over all partitions, scales and zero points."""
    x = np.sort(array.astype(np.float64).reshape(-1))
    every = np.arange(1, 0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    largest = np.abs(x).max()
    scales = every[(every >= largest / 600) & (every <= largest * 1.5)]
    least, greatest = (-128, 127) if kind == "int8" else (-255, 255)
    best = np.inf
    for cuts in combinations(range(1, len(x)), k - 1):
        total, low, high = np.zeros(len(scales)), np.zeros(len(scales)), np.zeros(len(scales))
        for run in np.split(x, cuts):
            near = np.rint(run.mean() / scales)
            codes = np.clip(near + np.array([[-1], [0], [1]]), least, greatest)
            squares = np.square(run - (codes * scales).astype(np.float16).astype(np.float64)[..., None]).sum(axis=-1)
            chosen = np.take_along_axis(codes, squares.argmin(axis=0)[None], axis=0)[0]
            low, high = np.minimum(low, chosen), np.maximum(high, chosen)
            total += squares.min(axis=0)
        best = min(best, float(total[high - low <= 255].min()))
    return best


@pytest.mark.parametrize("kind", ["int8", "uint8"])
@pytest.mark.parametrize("nbits", [1, 2])
@pytest.mark.parametrize("offset", [0.0, 0.1])
@pytest.mark.parametrize("count", [2, pytest.param(6, marks=pytest.mark.slow)])
def test_the_scale_of_few_values_is_the_best_of_all(kind: str, nbits: int, offset: float, count: int) -> None:
    rng = np.random.default_rng(nbits)
    for _ in range(count):
        spread = 0.05 * np.exp(rng.standard_normal())
        array = (rng.standard_normal((2, 5)) * spread + offset).astype(np.float16)
        assert make(array, nbits=nbits, lut_dtype=kind).sse <= best_on_any_grid(array, 1 << nbits, kind) * (1 + 1e-3)


@pytest.mark.parametrize("kind", ["int8", "uint8"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("nbits", [2, 8])
def test_a_table_of_its_own_is_as_good_as_alone(kind: str, dtype: type, nbits: int) -> None:
    """Groups of very different size do not share a scale."""
    array = (sample((6, 300), np.float32, 1) * 10.0 ** np.arange(-3, 3)[:, None]).astype(dtype)
    made = make(array, nbits=nbits, lut_dtype=kind, axis=0, group_size=2)
    alone = [make(part, nbits=nbits, lut_dtype=kind) for part in np.split(array, 3)]
    assert np.array_equal(made.expr.decode(), np.concatenate([part.expr.decode() for part in alone]))


@pytest.mark.parametrize("seed", range(4))
def test_no_scale_fits_the_codes_better(seed: int) -> None:
    """The scale of least squares, which the best of some given scales is not."""
    array = np.random.default_rng(seed).standard_normal((1, 200)).astype(np.float32)
    lut = lut_of((made := make(array, nbits=4, lut_dtype="int8")).expr)
    assert isinstance(lut.lut, Scale)
    codes = lut.lut.data.decode().reshape(-1).astype(float)[lut.indices.unpack()]
    best = float(np.sum(codes * array) / np.sum(codes * codes))
    assert made.sse <= error_of(array, codes * best) * (1 + 2e-6)


@pytest.mark.parametrize("kind", ["int8", "uint8"])
def test_eight_bits_have_the_best_step_of_all(kind: str) -> None:
    """All codes are entries then, and the error is that of the nearest multiples of the scale."""
    array = sample((4, 120), np.float16, 3)
    x = array.astype(np.float64).reshape(-1)
    every = np.arange(1, 0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    largest = np.abs(x).max()
    least = np.inf
    for scale in every[(every >= largest / 300) & (every <= largest / 60)]:
        steps = np.rint(x / scale)
        for zero in [128] if kind == "int8" else range(0, 256, 4):
            decoded = (np.clip(steps, -zero, 255 - zero) * scale).astype(np.float16).astype(np.float64)
            least = min(least, float(np.sum(np.square(x - decoded))))
    assert make(array, nbits=8, lut_dtype=kind).sse <= least * 1.02


def rounded_afterwards(table: np.ndarray, kind: str) -> np.ndarray:
    """Linear quantization of a table as it is usually done: over its whole range."""
    dtype, wide = table.dtype, table.astype(np.float64)
    if kind == "int8":
        scale = float(dtype.type(np.abs(wide).max() / 127))
        return (np.rint(wide / scale).clip(-128, 127) * scale).astype(dtype).astype(np.float64)
    low, high = min(wide.min(), 0.0), max(wide.max(), 0.0)
    scale = float(dtype.type((high - low) / 255))
    zero = np.rint(-low / scale)
    return ((np.rint(wide / scale) + zero).clip(0, 255) * scale - zero * scale).astype(dtype).astype(np.float64)


@pytest.mark.parametrize("nbits", ALLOWED)
@pytest.mark.parametrize("kind", ["int8", "uint8"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [0.0, 0.3])
def test_quantized_is_better_than_rounding_afterwards(nbits: int, kind: str, dtype: type, offset: float) -> None:
    array = (sample((8, 200), dtype, nbits) + offset).astype(dtype)
    for axis in (None, 0):
        groups = {} if axis is None else {"axis": 0, "group_size": 2}
        table = rounded_afterwards(lut_of(make(array, nbits=nbits, **groups).expr).table, kind)
        rows = np.split(array.astype(np.float64), table.shape[0])
        parts = zip(rows, table.reshape(len(rows), -1), strict=True)
        usual = sum(nearest_error(row.reshape(-1), np.ones(row.size), entries) for row, entries in parts)
        assert make(array, nbits=nbits, lut_dtype=kind, **groups).sse <= usual * (1 + 1e-9)


@pytest.mark.parametrize("kind", ["int8", "uint8"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("axis", [None, 1])
def test_quantized_unique_is_lossless_or_refused(kind: str, dtype: type, mask: bool, axis: int | None) -> None:
    rng = np.random.default_rng(1)
    step = float(dtype(0.0371))
    codes = rng.integers(-90, 38, (8, 12)) if kind == "int8" else rng.integers(-40, 200, (8, 12))
    array = (codes * step).astype(dtype)
    options: dict[str, Any] = {"lut_dtype": kind, "axis": axis, "group_size": None if axis is None else 6}
    if mask:
        kept = rng.random(array.shape) < 0.8
        array[~kept] = 0
        options["mask"] = bits(kept)
    made = make(array, "unique", **options)
    assert np.array_equal(made.expr.decode(), array)
    assert made.sse == 0.0
    array = np.where(np.arange(12) == 3, dtype(1 / 3), array).astype(dtype)
    with pytest.raises(UnquantizableError, match=f"'layer.weight' has .* that no {kind} look-up table holds exactly"):
        make(array, "unique", **options | {"mask": None})
    with pytest.raises(TooManyValuesError):
        make(np.arange(300, dtype=dtype), "unique", lut_dtype=kind)


@pytest.mark.parametrize("kind", ["int8", "uint8"])
def test_quantized_uniform_is_no_worse_than_rounding_afterwards(kind: str) -> None:
    array = sample((8, 100), np.float16)
    table = rounded_afterwards(lut_of(make(array, "uniform", nbits=4).expr).table, kind).reshape(-1)
    usual = nearest_error(array.astype(np.float64).reshape(-1), np.ones(array.size), table)
    assert make(array, "uniform", nbits=4, lut_dtype=kind).sse <= usual * (1 + 1e-9)


@pytest.mark.parametrize("kind", ["int8", "uint8"])
def test_quantized_custom_keeps_the_indices(kind: str) -> None:
    array = sample((8, 100), np.float16)
    plain, made = (make(array, "custom", lut_function=by_quantiles, lut_dtype=lut) for lut in (None, kind))
    assert np.array_equal(lut_of(plain.expr).indices.data, lut_of(made.expr).indices.data)
    assert made.sse <= plain.sse * 1.02


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["int8", "uint8"])
def test_quantized_tables_of_extremes_are_finite(dtype: type, kind: str) -> None:
    info = np.finfo(dtype)
    for scale in (float(info.max), float(info.smallest_subnormal) * 7, 0.0):
        array = (np.linspace(-1, 1, 64) * scale).astype(dtype).reshape(4, 16)
        for options in ({}, {"scale_axis": 0}, {"axis": 0, "group_size": 1}):
            made = make(array, nbits=4, lut_dtype=kind, **options)
            decoded = made.expr.decode()
            assert np.isfinite(decoded).all()
            assert made.sse == pytest.approx(error_of(array, decoded), rel=1e-9)
            assert made.sse <= 0.02 * made.signal


# Vectors with quantized tables


@pytest.mark.parametrize("kind", ["int8", "uint8"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("axis", "group_size"), [(0, None), (1, 8), (1, 4)])
def test_quantized_vectors(kind: str, dtype: type, axis: int, group_size: int | None) -> None:
    array = sample((16, 24), dtype, 2)
    options: dict[str, Any] = {"axis": axis, "group_size": group_size, "cluster_dim": 2, "nbits": 3}
    plain, made = make(array, **options), make(array, lut_dtype=kind, **options)
    assert isinstance(made.expr, Lut)
    assert isinstance(made.expr.lut, Scale)
    assert made.expr.lut.data.dtype == kind
    decoded = made.expr.decode()
    assert decoded.dtype == dtype
    assert made.sse == pytest.approx(error_of(array, decoded), rel=1e-9)
    assert made.signal == pytest.approx(plain.signal, rel=1e-12)
    assert plain.sse * 0.97 <= made.sse <= plain.sse * 1.03
    assert isinstance(plain.expr, Lut)
    table = plain.expr.table.astype(np.float64)
    half = np.asarray(made.expr.lut.scale, np.float64).max() / 2
    rounded = error_of(array, plain.expr.decode()) + array.size * half**2
    assert made.sse <= rounded
    assert table.shape == made.expr.lut.shape
    with ThreadPoolExecutor(3) as executor:
        again = make(array, lut_dtype=kind, pmap=executor.map, **options)
    assert again.expr.decode().tobytes() == decoded.tobytes()


@pytest.mark.parametrize(("kind", "low", "high"), [("int8", -100, 90), ("uint8", -40, 150)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_grid_that_holds_all_vectors_is_found(kind: str, low: int, high: int, dtype: type) -> None:
    """Its scale is not the one that spans the entries, and rounding to that one cannot be mended afterwards."""
    rng = np.random.default_rng(0)
    codes = rng.integers(low, high, (16, 2))
    codes[0] = low, high
    array = np.moveaxis(codes[rng.integers(0, 16, (12, 20))] * 2.0**-6, -1, 1).reshape(24, 20).astype(dtype)
    assert make(array, nbits=4, axis=0, cluster_dim=2, lut_dtype=kind).sse == 0.0


@pytest.mark.parametrize("kind", ["int8", "uint8"])
def test_quantized_unique_and_custom_vectors(kind: str) -> None:
    entries = np.array([[1.0, -3.0], [0.25, 2.0], [0.0, 0.5]], np.float32)
    chosen = np.random.default_rng(0).integers(0, 3, (5, 7))
    array = np.moveaxis(entries[chosen], -1, 1).reshape(10, 7)
    options: dict[str, Any] = {"axis": 0, "cluster_dim": 2, "lut_dtype": kind}
    assert np.array_equal(make(array, "unique", **options).expr.decode(), array)
    with pytest.raises(UnquantizableError):
        make(array * np.where(array == 2, np.float32(1.001), np.float32(1)), "unique", **options)

    def function(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.array([[0.501, 1.0], [-0.5, 3.0]]), np.arange(weight.size // 2) % 2

    made = make(array, "custom", lut_function=function, **options)
    assert made.sse == pytest.approx(error_of(array, made.expr.decode()), rel=1e-9)
    assert np.array_equal(lut_of(made.expr).indices.unpack().reshape(-1), np.arange(35) % 2)
    assert np.abs(lut_of(made.expr).table.reshape(-1)[:4] - [0.501, 1.0, -0.5, 3.0]).max() < 0.02
