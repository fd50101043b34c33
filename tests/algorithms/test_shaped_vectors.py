"""Palettes of vectors with scales, masks, importance and quantized tables: held against brute force and limits."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from made_palettes import make_one
from sklearn.cluster import KMeans
from slow_cases import slow_where

from mil_palettize.algorithms.making import ArraySource, NonFiniteError, Palette
from mil_palettize.errors import AlgorithmError
from mil_palettize.expressions.packed import Packed, mask_of_vectors
from mil_palettize.expressions.weight_expr import Scale, Sparse, lut_of

DTYPES = (np.float16, np.float32)


def make(array: np.ndarray, mode: str = "kmeans", nbits: int | None = 3, **options: Any) -> Palette:
    options = {"axis": 0, "cluster_dim": 2} | options
    return make_one(ArraySource("layer.weight", array), mode=mode, nbits=nbits, **options)


def weight(shape: tuple[int, ...], dtype: type, seed: int = 0) -> np.ndarray:
    """Channels along the first axis differ in size."""
    rng = np.random.default_rng(seed)
    sizes = np.geomspace(0.2, 3, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    return (rng.standard_normal(shape) * rng.permutation(sizes) * 0.1).astype(dtype)


def error_of(array: np.ndarray, decoded: np.ndarray, importance: np.ndarray | float = 1.0) -> float:
    return float(np.sum(importance * (array.astype(np.float64) - decoded.astype(np.float64)) ** 2))


def rows(array: np.ndarray, dim: int) -> np.ndarray:
    """Vectors along the first of two axes, (n, dim)."""
    return array.reshape(len(array) // dim, dim, -1).transpose(0, 2, 1).reshape(-1, dim)


def two_clusters(n: int) -> list[np.ndarray]:
    return [np.array([False, *sides]) for sides in itertools.product((False, True), repeat=n - 1)]


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("kind", ["normal", "lattice", "heavy"])
def test_importance_of_a_few_vectors_is_met_optimally(kind: str, dim: int) -> None:
    """Every element has a weight of its own; all assignments are tried. No promise: few are missed, by little."""
    rng, missed = np.random.default_rng(dim), []
    for n in (3, 5, 7) * 4:
        points = {
            "normal": rng.standard_normal((n, dim)),
            "lattice": rng.integers(-2, 3, (n, dim)),
            "heavy": rng.standard_cauchy((n, dim)),
        }[kind].astype(np.float32)
        weights = np.exp(rng.standard_normal((n, dim)) * 1.5)
        wide, optimum = points.astype(np.float64), np.inf
        for side in two_clusters(n):
            error = 0.0
            for part in (side, ~side):
                if part.any():
                    mean = np.sum(weights[part] * wide[part], 0) / np.sum(weights[part], 0)
                    error += float(np.sum(weights[part] * (wide[part] - mean) ** 2))
            optimum = min(optimum, error)
        made = make(points.T.copy(), nbits=1, cluster_dim=dim, importance=weights.T.copy())
        assert made.sse == pytest.approx(error_of(points.T, made.expr.decode(), weights.T), rel=1e-9, abs=1e-12)
        if made.sse > optimum * (1 + 1e-6) + 1e-12:
            missed.append(made.sse / optimum)
    assert len(missed) <= 2
    assert max(missed, default=1.0) <= 1.02


def best_scaled(array: np.ndarray, importance: np.ndarray) -> float:
    """Four channels, vectors of two: every assignment of two entries, scales and entries fitted in turn."""
    wide, best = array.astype(np.float64), np.inf
    parts = wide.reshape(2, 2, -1)  # rows, elements, positions
    weights = importance.reshape(parts.shape)
    for side in two_clusters(parts.shape[0] * parts.shape[2]):
        codes = side.astype(int).reshape(2, -1)
        for first in (np.abs(parts).max(axis=2), np.sqrt(np.mean(parts**2, axis=2))):
            scales = first.copy()
            for _ in range(10):
                entries = np.zeros((2, 2))
                for j, t in itertools.product(range(2), range(2)):
                    on = codes == j
                    power = float(np.sum((weights[:, t] * scales[:, t, None] ** 2)[on]))
                    cross = float(np.sum((weights[:, t] * parts[:, t] * scales[:, t, None])[on]))
                    entries[j, t] = cross / power if power else 0.0
                found = entries[codes].transpose(0, 2, 1)
                power, cross = np.sum(weights * found**2, 2), np.sum(weights * found * parts, 2)
                scales = np.where((power > 0) & (cross > 0), cross / np.where(power > 0, power, 1), scales)
            best = min(best, float(np.sum(weights * (parts - found * scales[:, :, None]) ** 2)))
    return best


@pytest.mark.parametrize("weighted", [False, True])
def test_scales_of_a_few_vectors_are_near_the_best(weighted: bool) -> None:
    """No promise: scales and entries are fitted in turn. In the median of some it is the best there is."""
    rng = np.random.default_rng(3)
    ratios = []
    for _ in range(8):
        array = (rng.standard_normal((4, 3)) * np.array([[3], [0.1], [1], [0.5]])).astype(np.float32)
        importance = np.exp(rng.standard_normal((4, 3))) if weighted else np.ones((4, 3))
        given = {"importance": importance} if weighted else {}
        made = make(array, nbits=1, scale_axis=0, **given)
        assert made.sse == pytest.approx(error_of(array, made.expr.decode(), importance), rel=1e-9, abs=1e-12)
        ratios.append(made.sse / best_scaled(array, importance))
    assert np.median(ratios) <= 1.02
    assert max(ratios) <= 1.6


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("axis", "scale_axis", "group_size"), [(0, 0, None), (1, 0, None), (0, 0, 8), (0, 1, None)])
@pytest.mark.parametrize("lut_dtype", slow_where(lambda dtype: dtype == "uint8", [None, "int8", "uint8"]))
def test_scales(dtype: type, axis: int, scale_axis: int, group_size: int | None, lut_dtype: str | None) -> None:
    """The error told is that of what is decoded, entries are the nearest, and scales are worth their bytes."""
    array = weight((16, 48), dtype)
    if scale_axis:
        array = np.ascontiguousarray(array.T)
    options: dict[str, Any] = {"axis": axis, "group_size": group_size}
    plain = make(array, **options)
    made = make(array, scale_axis=scale_axis, lut_dtype=lut_dtype, **options)
    assert isinstance(made.expr, Scale)
    assert made.expr.dtype == dtype
    decoded = made.expr.decode()
    assert made.sse == pytest.approx(error_of(array, decoded), rel=1e-9)
    assert made.signal == pytest.approx(float(np.sum(array.astype(np.float64) ** 2)), rel=1e-9)
    assert made.sse < 0.95 * plain.sse
    scales = np.broadcast_to(np.asarray(made.expr.scale, np.float64), array.shape)
    table = lut_of(made.expr).table.astype(np.float64)
    if axis == 0 and group_size is None:  # nearest of all
        points, factors, entries = rows(array.astype(np.float64), 2), rows(scales, 2), table.reshape(-1, 2)
        least = np.min(np.sum((points[:, None] - entries[None] * factors[:, None]) ** 2, axis=2), axis=1)
        assert made.sse <= least.sum() * (1 + (2e-3 if dtype == np.float16 else 1e-6))
    with ThreadPoolExecutor(3) as executor:
        again = make(array, scale_axis=scale_axis, lut_dtype=lut_dtype, pmap=executor.map, **options)
    assert again.expr.decode().tobytes() == decoded.tobytes()


def test_scales_of_least_squares() -> None:
    """For the entries as they are no other scales have less error, but for what another round would win."""
    array = weight((16, 200), np.float32, 1)
    made = make(array, nbits=4, scale_axis=0)
    assert isinstance(made.expr, Scale)
    entries = made.expr.data.decode().astype(np.float64)
    best = np.sum(array * entries, 1, keepdims=True) / np.sum(entries**2, 1, keepdims=True)
    assert error_of(array, entries * best) >= made.sse * 0.995


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_was_scaled_by_its_largest_is_lossless(dtype: type) -> None:
    rng = np.random.default_rng(2)
    table = np.array([[1, 0.5], [-0.25, 1], [0.5, 0.5], [1, -1]], dtype)
    array = table[rng.integers(0, 4, (8, 64))].transpose(0, 2, 1).reshape(16, 64)
    array = (array * 2.0 ** rng.integers(-3, 3, (16, 1))).astype(dtype)
    for mode, nbits in (("unique", None), ("kmeans", 2)):
        made = make(array, mode, nbits, scale_axis=0)
        assert np.array_equal(made.expr.decode(), array)
        assert made.sse == 0.0
        assert lut_of(made.expr).indices.nbits == 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("axis", "group_size"), [(0, None), (1, None), (0, 8), (1, 8)])
@pytest.mark.parametrize("options", [{}, {"lut_dtype": "uint8"}, {"scale_axis": 0}, {"mode": "unique", "nbits": None}])
def test_masks(dtype: type, axis: int, group_size: int | None, options: dict[str, Any]) -> None:
    rng = np.random.default_rng(5)
    array = weight((16, 48), dtype)
    if options.get("mode") == "unique":
        array = np.round(array).astype(dtype)
    shape = tuple(size // 2 if i == axis else size for i, size in enumerate(array.shape))
    kept = rng.random(shape) < 0.4
    kept[:4] = False  # groups without any
    mask = Packed.pack(kept.astype(np.uint8), 1)
    dense = np.repeat(kept, 2, axis=axis)
    array[~dense] = np.nan  # counts for nothing
    made = make(array, axis=axis, group_size=group_size, mask=mask, **options)
    assert isinstance(made.expr, Sparse)
    decoded = made.expr.decode()
    assert not decoded[~dense].view(np.uint16).any()
    assert made.sse == pytest.approx(error_of(array[dense], decoded[dense]), rel=1e-9, abs=1e-300)
    if options.get("mode") == "unique":
        assert np.array_equal(decoded[dense], array[dense])
    else:  # as good as a palette of the same vectors alone
        assert made.sse < 0.3 * made.signal
    array[dense] = np.inf
    with pytest.raises(NonFiniteError):
        make(array, axis=axis, group_size=group_size, mask=mask, **options)


def test_a_mask_of_everything_changes_nothing() -> None:
    array = weight((16, 64), np.float16)
    mask = Packed.pack(np.ones((8, 64), np.uint8), 1)
    plain, masked = make(array, lut_dtype="int8"), make(array, lut_dtype="int8", mask=mask)
    assert masked.expr.decode().tobytes() == plain.expr.decode().tobytes()
    assert (masked.sse, masked.signal) == (plain.sse, plain.signal)


def test_masks_of_elements_as_masks_of_vectors() -> None:
    elements = np.random.default_rng(0).random((6, 4, 5)) < 0.3
    for dim, axis in ((2, 0), (3, 0), (4, 1), (5, 2), (1, 1)):
        found = mask_of_vectors(Packed.pack(elements.astype(np.uint8), 1), dim, axis).unpack().astype(bool)
        parts = [np.moveaxis(elements, axis, 0)[i::dim] for i in range(dim)]
        assert np.array_equal(np.moveaxis(found, axis, 0), np.logical_or.reduce(parts))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("options", [{}, {"scale_axis": 0}, {"lut_dtype": "int8"}, {"mask": True}])
def test_custom_keeps_its_indices(axis: int, options: dict[str, Any]) -> None:
    """Entries by the first element of each vector, which the function sees divided by the scales."""
    seen: list[np.ndarray] = []

    def function(part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen.append(part.copy())
        first = part.reshape(len(part) // 2, 2, -1)[:, 0].reshape(-1)
        return np.array([[-0.5, -0.25], [0.5, 0.25]]), (first > 0).astype(int)

    array = weight((8, 12), np.float32)
    kept = np.ones((4, 12) if axis == 0 else (8, 6), bool)
    if options.get("mask"):
        kept = np.random.default_rng(1).random(kept.shape) < 0.5
        array[~np.repeat(kept, 2, axis=axis)] = 0
        options = {"mask": Packed.pack(kept.astype(np.uint8), 1)}
    made = make(array, "custom", None, axis=axis, lut_function=function, **options)
    assert len(seen) == 1
    assert seen[0].size == 2 * kept.sum()
    positive = np.moveaxis(np.moveaxis(array, axis, 0)[::2] > 0, 0, axis)
    assert np.array_equal(lut_of(made.expr).indices.unpack().astype(bool), positive & kept)
    dense = np.repeat(kept, 2, axis=axis)
    assert made.sse == pytest.approx(error_of(array[dense], made.expr.decode()[dense]), rel=1e-9)
    if "scale_axis" in options:
        assert np.abs(seen[0]).max() == pytest.approx(1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_extremes_are_finite(dtype: type) -> None:
    info = np.finfo(dtype)
    for scale in (float(info.max), float(info.smallest_subnormal) * 7, 0.0):
        array = (np.linspace(-1, 1, 64) * scale).astype(dtype).reshape(8, 8)
        for options in ({"scale_axis": 0}, {"lut_dtype": "int8"}, {"scale_axis": 0, "lut_dtype": "int8"}):
            made = make(array, nbits=4, **options)
            decoded = made.expr.decode()
            assert np.isfinite(decoded).all()
            assert made.sse == pytest.approx(error_of(array, decoded), rel=1e-9)
            assert made.sse <= 0.1 * made.signal


def test_wrong_requests() -> None:
    array = np.ones((4, 4), np.float16)
    with pytest.raises(AlgorithmError, match=r"shape \[4, 4\]; a mask has 1 bit for every vector of 2 along 0"):
        make(array, mask=Packed.pack(np.ones((4, 4), np.uint8), 1))
    with pytest.raises(AlgorithmError, match="importance has an element 0"):
        make(array, importance=np.zeros((1, 1)))


# How good the optimum of plain vectors is


@pytest.mark.parametrize(("nbits", "dim"), [(4, 2), (6, 2), (8, 2), (6, 4)])
def test_not_above_the_best_of_twelve(nbits: int, dim: int) -> None:
    """Of scikit-learn's restarts, each to its end."""
    array = np.random.default_rng(nbits).standard_normal((96, 128)).astype(np.float32)
    points = rows(array.astype(np.float64), dim)
    best = KMeans(1 << nbits, n_init=12, random_state=0, tol=1e-6, max_iter=300).fit(points).inertia_
    assert make(array, nbits=nbits, cluster_dim=dim).sse <= best * (1 + 1e-6)
