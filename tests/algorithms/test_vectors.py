"""Palettes of vectors: layout, nearest entries, and errors, judged by coremltools' own decoder and k-means."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from coremltools.optimize import _utils as coremltools_utils
from coremltools.optimize.coreml._quantization_passes import palettize_weights
from made_palettes import make_one
from slow_cases import slow_where

from mil_palettize.algorithms.making import (
    ArraySource,
    NonFiniteError,
    Palette,
    TooManyValuesError,
)
from mil_palettize.algorithms.registry import ALGORITHMS
from mil_palettize.algorithms.vector import kmeans as vector_kmeans
from mil_palettize.algorithms.vector import vectors
from mil_palettize.errors import AlgorithmError

ALLOWED = (1, 2, 3, 4, 6, 8)
DTYPES = (np.float16, np.float32)
VECTOR_ALGORITHMS = [name for name, algorithm in ALGORITHMS.items() if algorithm.has_vectors]


def make(array: np.ndarray, mode: str = "kmeans", nbits: int | None = None, **options: Any) -> Palette:
    if mode == "kmeans" and nbits is None:
        nbits = 3
    options.setdefault("axis", 0)
    options.setdefault("cluster_dim", 2)
    return make_one(ArraySource("layer.weight", array), mode=mode, nbits=nbits, **options)


def weight(shape: tuple[int, ...], dtype: type, seed: int = 0, heavy: bool = False) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return ((rng.standard_t(3, shape) if heavy else rng.standard_normal(shape)) * 0.02).astype(dtype)


def judged(made: Palette) -> np.ndarray:
    """Decoded by coremltools."""
    expr = made.expr
    return coremltools_utils.lut_to_dense(expr.indices.unpack(), expr.lut, expr.vector_axis)


def squared_error(array: np.ndarray, decoded: np.ndarray) -> float:
    return float(np.sum((array.astype(float) - decoded.astype(float)) ** 2))


def tables_of_positions(made: Palette) -> np.ndarray:
    """The table of every index: float64 (*indices.shape, entries, dim)."""
    table = made.expr.lut.astype(float)
    for axis, size in enumerate(made.expr.indices.shape):
        table = np.repeat(table, size // table.shape[axis], axis=axis)
    return table


def check(array: np.ndarray, made: Palette, axis: int, dim: int, groups: int) -> None:
    """Shapes, both decoders, the reported error, and that every index is the nearest entry, ties to the lower."""
    expr, rank = made.expr, array.ndim
    assert expr.vector_axis == axis % rank
    assert expr.groups == tuple(groups if i == axis % rank else 1 for i in range(rank))
    assert expr.lut.dtype == array.dtype
    decoded = expr.decode()
    assert decoded.shape == array.shape
    assert np.array_equal(decoded, judged(made))
    assert made.sse == pytest.approx(squared_error(array, decoded), rel=1e-10, abs=1e-300)
    assert made.signal == pytest.approx(np.sum(array.astype(float) ** 2), rel=1e-12)
    parts = coremltools_utils.reshape_weight_for_vector_lut(array, dim, axis % rank).astype(float)
    tables = tables_of_positions(made)
    distances = np.zeros(tables.shape[:-1])
    for t in range(dim):
        distances += (parts[..., None, t] - tables[..., t]) ** 2
    assert np.array_equal(expr.indices.unpack(), distances.argmin(axis=-1))


LAYOUTS = [((24,), 0), ((12, 7), 0), ((7, 12), 1), ((7, 12), -1), ((12, 3, 5), 0), ((3, 12, 5), 1), ((3, 5, 12), 2)]
LAYOUTS += [((12, 3, 2, 4), 0), ((3, 12, 2, 4), 1), ((3, 2, 12, 4), 2), ((3, 2, 4, 12), 3), ((3, 2, 4, 12), -1)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "axis"), LAYOUTS)
@pytest.mark.parametrize(("dim", "group_size"), [(2, None), (3, None), (4, 4), (2, 6), (12, None)])
def test_layout(dtype: type, shape: tuple[int, ...], axis: int, dim: int, group_size: int | None) -> None:
    array = weight(shape, dtype)
    groups = 1 if group_size is None else shape[axis] // group_size
    made = make(array, axis=axis, cluster_dim=dim, group_size=group_size, nbits=2)
    check(array, made, axis, dim, groups)
    lossless = make(array, "unique", axis=axis, cluster_dim=dim, group_size=group_size)
    check(array, lossless, axis, dim, groups)
    assert np.array_equal(judged(lossless), array)


@pytest.mark.parametrize("nbits", ALLOWED)
@pytest.mark.parametrize("dim", [2, 3, 4, 8])
def test_ties_go_to_the_lower_entry(nbits: int, dim: int) -> None:
    """A lattice has many vectors halfway between two entries."""
    array = np.random.default_rng(nbits).integers(-3, 4, (24 * dim, 40)).astype(np.float16)
    made = make(array, nbits=nbits, cluster_dim=dim)
    check(array, made, 0, dim, 1)
    table = made.expr.lut.reshape(-1, dim)
    assert np.array_equal(np.unique(table, axis=0), table[: len(np.unique(table, axis=0))])


CASES = [(shape, dim, nbits) for shape, dim in (((64, 64), 2), ((128, 96), 4)) for nbits in ALLOWED]
CASES += [((512, 300), 2, 4), ((512, 300), 2, 6), ((256, 256), 4, 6), ((96, 64), 8, 4), ((96, 64), 3, 3)]


@pytest.mark.parametrize(
    ("shape", "dim", "nbits", "heavy"),
    slow_where(
        lambda shape, dim, nbits, heavy: shape == (512, 300) or (nbits + heavy) % 3 == 0,
        [(*case, heavy) for case in CASES for heavy in (False, True)],
    ),
)
def test_error_is_not_above_coremltools(shape: tuple[int, ...], dim: int, nbits: int, heavy: bool) -> None:
    dtype = np.float16 if (nbits + heavy) % 2 else np.float32
    array = weight(shape, dtype, nbits, heavy)
    theirs = palettize_weights.grouped_channelwise_compress(array, "KMEANS", nbits, 0, 0, None, dim)
    error = squared_error(array, palettize_weights.decompress(theirs).astype(dtype))
    assert make(array, nbits=nbits, cluster_dim=dim).sse <= error


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("dim", "nbits"), [(2, 1), (2, 4), (4, 3), (4, 6)])
def test_error_in_groups_is_not_above_coremltools(axis: int, dim: int, nbits: int) -> None:
    array = weight((64, 128), np.float32, nbits)
    theirs = palettize_weights.grouped_channelwise_compress(array, "KMEANS", nbits, axis, 16, None, dim)
    made = make(array, nbits=nbits, cluster_dim=dim, axis=axis, group_size=16)
    assert theirs.lut.shape == made.expr.lut.shape
    assert theirs.indices.shape == made.expr.indices.shape
    assert theirs.vector_axis == made.expr.vector_axis
    assert made.sse <= squared_error(array, palettize_weights.decompress(theirs).astype(np.float32))


def best_of_two(points: np.ndarray) -> float:
    """The smallest squared error of two clusters, by trying every assignment."""
    n = len(points)
    best = np.inf
    for sides in itertools.product((False, True), repeat=n - 1):
        side = np.array([False, *sides])
        parts = [part for part in (points[side], points[~side]) if len(part)]
        best = min(best, sum(np.sum((part - part.mean(axis=0)) ** 2) for part in parts))
    return float(best)


@pytest.mark.parametrize("kind", ["normal", "lattice", "heavy", "offset"])
@pytest.mark.parametrize("dim", [2, 3, 4])
def test_two_entries_of_a_few_vectors_are_optimal(kind: str, dim: int) -> None:
    """No promise, as k-means of vectors is NP-hard: about one such problem in a thousand is missed, by 0.1 %."""
    rng = np.random.default_rng(dim)
    for n in (3, 4, 5, 6, 7, 8) * 3:
        points = {
            "normal": rng.standard_normal((n, dim)),
            "lattice": rng.integers(-2, 3, (n, dim)),
            "heavy": rng.standard_cauchy((n, dim)),
            "offset": 10 + rng.standard_normal((n, dim)),
        }[kind].astype(np.float32)
        optimum = best_of_two(points.astype(float))
        made = make(points.T.copy(), nbits=1, cluster_dim=dim)
        assert made.sse <= optimum * (1 + 1e-6) + 1e-12


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The paths of large weights, reached by lowering the limits."""
    monkeypatch.setattr(vector_kmeans, "_SAMPLE", 1500)
    monkeypatch.setattr(vector_kmeans, "_PAIRS", 1500)
    monkeypatch.setattr(vectors, "WINDOW", 256)


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [2, 4])
def test_large_weights(dtype: type, dim: int) -> None:
    array = weight((64, 60 * dim), dtype, heavy=True)
    array[3, 3], array[40, 7] = 20.0, -1e-7
    for axis in (0, 1):
        made = make(array, axis=axis, cluster_dim=dim, nbits=4)
        check(array, made, axis, dim, 1)
        theirs = palettize_weights.grouped_channelwise_compress(array, "KMEANS", 4, axis, 0, None, dim)
        assert made.sse <= 1.03 * squared_error(array, palettize_weights.decompress(theirs).astype(dtype))


def same(first: Palette, second: Palette) -> bool:
    return (
        first.expr.lut.tobytes() == second.expr.lut.tobytes()
        and first.expr.indices.data.tobytes() == second.expr.indices.data.tobytes()
        and (first.sse, first.signal) == (second.sse, second.signal)
    )


def check_same_bytes(mode: str, array: np.ndarray, **options: Any) -> None:
    first = make(array, mode, **options)
    with ThreadPoolExecutor(3) as executor:
        assert same(first, make(array, mode, pmap=executor.map, **options))
    read_only = np.asfortranarray(array)
    read_only.flags.writeable = False
    assert same(first, make(read_only, mode, **options))


def halves(part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A ``lut_function``: one entry for vectors of a positive first coordinate, one for the others."""
    points = coremltools_utils.reshape_weight_for_vector_lut(part, 2, 0)
    lut = np.array([[-1.0, -0.5], [1.0, 0.5]], part.dtype)
    return lut, (points[..., 0] > 0).astype(np.uint8).reshape(-1)


@pytest.mark.parametrize("mode", VECTOR_ALGORITHMS)
@pytest.mark.parametrize(("axis", "group_size"), [(0, None), (1, None), (0, 4), (1, 2)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bytes_for_any_threads_and_layout(mode: str, axis: int, group_size: int | None, dtype: type) -> None:
    array = np.round(weight((16, 24, 3), dtype) * 100) / dtype(100)
    check_same_bytes(mode, array, axis=axis, group_size=group_size, lut_function=halves)


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("dim", [2, 4])
def test_same_bytes_of_large_weights(dim: int) -> None:
    check_same_bytes("kmeans", weight((64, 60 * dim), np.float16), cluster_dim=dim, nbits=4)


@pytest.mark.parametrize("mode", ["kmeans", "unique"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("group_size", [None, 8])
def test_few_vectors_are_kept_and_fillers_unused(mode: str, dtype: type, group_size: int | None) -> None:
    known = np.array([[-2.0, 1.0], [-0.0, 3.0], [0.0, 3.0], [0.0, 65504.0], [6e-8, 6e-8]], dtype)
    picks = np.random.default_rng(0).integers(0, 5, (8, 40))
    array = known[picks].transpose(0, 2, 1).reshape(16, 40)
    made = make(array, mode, nbits=4 if mode == "kmeans" else None, group_size=group_size)
    assert np.array_equal(judged(made), array)
    assert made.sse == 0.0
    for table in made.expr.lut.reshape(-1, made.expr.lut.shape[-2], 2):
        assert len(table) == (16 if mode == "kmeans" else 4)
        assert np.array_equal(table[:4], known[[0, 1, 4, 3]][[0, 1, 3, 2]])
        assert not np.signbit(table[1, 0])
        assert np.all(table[4:] == table[3])
    assert made.expr.indices.unpack().max() == 3


@pytest.mark.parametrize("dtype", DTYPES)
def test_unique_takes_the_bits_of_the_worst_group_up_to_256(dtype: type) -> None:
    array = np.zeros((4, 300), dtype)
    array[2, :17] = np.arange(17)
    assert make(array, "unique", group_size=2).expr.indices.nbits == 6
    assert make(array[:2], "unique").expr.indices.nbits == 1
    array[3, :256] = np.arange(256)
    assert np.array_equal(judged(make(array, "unique", group_size=2)), array)
    array[3, 256] = 256
    with pytest.raises(TooManyValuesError, match=r"'layer.weight' has more than 256 distinct vectors .* by 8 bits"):
        make(array, "unique", group_size=2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("nbits", [1, 4, 8])
def test_extremes(dtype: type, nbits: int) -> None:
    info = np.finfo(dtype)
    rng = np.random.default_rng(nbits)
    for scale in (float(info.max), float(info.smallest_subnormal) * 7):
        array = (rng.uniform(-1, 1, (32, 64)) * scale).astype(dtype)
        array[0, :8], array[1, :8] = info.max, -info.max
        made = make(array, nbits=nbits)
        assert np.isfinite(made.expr.lut).all()
        check(array, made, 0, 2, 1)
        assert made.sse < 0.7 * made.signal
    for value in (0.0, -3.5, float(info.max)):
        constant = np.full((4, 16), value, dtype)
        assert np.array_equal(make(constant, nbits=nbits).expr.decode(), constant)


@pytest.mark.parametrize("mode", VECTOR_ALGORITHMS)
@pytest.mark.parametrize("group_size", [None, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_non_finite(mode: str, group_size: int | None, dtype: type) -> None:
    array = weight((4, 64), dtype)
    array[0, 3] = array[3, 9] = np.nan
    array[1, 5], array[2, 1] = np.inf, -np.inf
    with pytest.raises(NonFiniteError, match=r"'layer.weight' has 2 NaN and 2 infinite"):
        make(array, mode, group_size=group_size, lut_function=halves)


@pytest.mark.parametrize(("shape", "axis"), [((8, 6), 0), ((6, 8), 1), ((3, 8, 5), 1), ((3, 5, 8), -1)])
def test_custom_sees_what_coremltools_shows_it(shape: tuple[int, ...], axis: int) -> None:
    """The same calls in the same order, and the same weight from what they return."""
    seen: list[np.ndarray] = []

    def function(part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen.append(part.copy())
        return halves(part)

    array = weight(shape, np.float32)
    channel_axis = axis % len(shape)
    theirs = palettize_weights.grouped_channelwise_compress(array, "CUSTOM", None, channel_axis, 4, function, 2)
    shown, seen[:] = list(seen), []
    made = make(array, "custom", axis=axis, group_size=4, lut_function=function)
    assert len(seen) == len(shown) == 2
    assert all(np.array_equal(ours, other) for ours, other in zip(seen, shown, strict=True))
    assert np.array_equal(judged(made), palettize_weights.decompress(theirs))
    assert np.array_equal(made.expr.decode(), judged(made))
    assert made.sse == pytest.approx(squared_error(array, judged(made)), rel=1e-12)


CUSTOM_FAULTS: list[tuple[Callable[[np.ndarray], Any], str]] = [
    (lambda w: (np.zeros(4), np.zeros(w.size // 2, int)), r"a lut of float64\[4\]; .* of shape \(entries, 2\)"),
    (lambda w: (np.zeros((4, 3)), np.zeros(w.size // 2, int)), r"a lut of float64\[4, 3\]; .* of shape \(entries, 2\)"),
    (lambda w: (np.zeros((257, 2)), np.zeros(w.size // 2, int)), "a lut of 257 entries; it may have 1 to 256"),
    (lambda w: ([[0.0, 1.0], [1e5, 0.0]], np.zeros(w.size // 2, int)), "entry 1 = .*not finite as float16"),
    (lambda w: (np.zeros((4, 2)), np.zeros(w.size, int)), "returned 64 indices for 32 vectors"),
    (lambda w: (np.zeros((4, 2)), np.full(w.size // 2, 4)), "index 4 for a lut of 4 entries"),
]


@pytest.mark.parametrize(("function", "message"), CUSTOM_FAULTS)
def test_custom_faults_are_named(function: Callable[[np.ndarray], Any], message: str) -> None:
    with pytest.raises(AlgorithmError, match=f"weight 'layer.weight': lut_function .*{message}"):
        make(np.zeros((8, 8), np.float16), "custom", lut_function=function)


REQUEST_FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"mode": "uniform", "nbits": 4}, r"Vector palettization \(cluster_dim > 1\) doesn't support UNIFORM mode\."),
    ({"mode": "median"}, "no palettization mode 'median'"),
    ({"nbits": 5}, "mode 'kmeans' with nbits 5"),
    ({"mode": "unique", "nbits": 4}, "mode 'unique' chooses nbits itself"),
    ({"cluster_dim": 0}, "cluster_dim is 0"),
    ({"axis": None}, "cluster_dim 2 needs an axis"),
    ({"axis": 2}, "has 2 axes; axis 2"),
    ({"group_size": 4}, "6 channels along axis 0 cannot be split into groups of 4"),
    ({"group_size": 3}, "3 channels .* cannot be split into vectors of 2"),
    ({"cluster_dim": 4}, "6 channels .* cannot be split into vectors of 4"),
]


@pytest.mark.parametrize(("request_", "message"), REQUEST_FAULTS)
def test_wrong_requests(request_: dict[str, Any], message: str) -> None:
    with pytest.raises(AlgorithmError, match=f"'layer.weight'.*{message}"):
        make(np.zeros((6, 4), np.float16), **request_)


@pytest.mark.parametrize("mode", ALGORITHMS)
def test_one_element_is_a_scalar(mode: str) -> None:
    """``cluster_dim=1`` changes nothing."""
    array = np.round(weight((8, 24), np.float16) * 100) / np.float16(100)
    nbits = None if mode in ("unique", "custom") else 4

    def function(part: np.ndarray) -> tuple[list[float], np.ndarray]:
        return [-0.02, 0.02], (part.reshape(-1) > 0).astype(int)

    for group_size in (None, 4):
        options = {"axis": 0, "group_size": group_size, "lut_function": function, "nbits": nbits}
        source = ArraySource("layer.weight", array)
        plain = make_one(source, mode=mode, **options)
        assert same(plain, make(array, mode, cluster_dim=1, **options))
        assert plain.expr.vector_axis is None
