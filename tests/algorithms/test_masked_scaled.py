"""Palettes that are more than plain: masked, scaled by channel, weighted, of whole numbers, with a quantized table."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_palettes import make_one

from mil_palettize.algorithms.compiled import subset
from mil_palettize.algorithms.making import (
    ArraySource,
    NonFiniteError,
    Palette,
    TooManyValuesError,
    UnquantizableError,
)
from mil_palettize.algorithms.scalar import weighted_distribution as weighted
from mil_palettize.errors import AlgorithmError
from mil_palettize.expressions.packed import Packed
from mil_palettize.expressions.weight_expr import Lut, Scale, Sparse, lut_of

ALLOWED = (1, 2, 3, 4, 6, 8)
DTYPES = (np.float16, np.float32)


def make(array: np.ndarray, mode: str = "kmeans", **options: Any) -> Palette:
    if mode in ("unique", "custom"):
        options["nbits"] = None
    options.setdefault("nbits", 2)
    return make_one(ArraySource("layer.weight", array), mode=mode, **options)


def bits(mask: np.ndarray) -> Packed:
    return Packed.pack(mask.view(np.uint8), 1)


def error_of(array: np.ndarray, decoded: np.ndarray, weights: np.ndarray | float = 1.0) -> float:
    return float(np.sum(weights * np.square(array.astype(np.float64) - decoded.astype(np.float64))))


def sample(shape: tuple[int, ...], dtype: type, seed: int = 0) -> np.ndarray:
    """Channels of the first axis of very different size."""
    rng = np.random.default_rng(seed)
    spread = np.exp(rng.standard_normal((shape[0],) + (1,) * (len(shape) - 1)))
    return (rng.standard_normal(shape) * spread * 0.05).astype(dtype)


def best_partition(x: np.ndarray, weights: np.ndarray, k: int) -> float:
    """The least weighted squared error of all partitions of the sorted values into k runs."""
    order = np.argsort(x)
    x, weights = x[order], weights[order]
    least = np.inf
    for cuts in combinations(range(1, len(x)), k - 1):
        total = 0.0
        for run, mass in zip(np.split(x, cuts), np.split(weights, cuts), strict=True):
            total += float(np.sum(mass * np.square(run - np.average(run, weights=mass))))
        least = min(least, total)
    return least


def nearest_error(x: np.ndarray, weights: np.ndarray, entries: np.ndarray) -> float:
    return float(np.sum(weights * np.square(x[:, None] - entries[None]).min(axis=1)))


def by_quantiles(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A ``lut_function`` whose entries descend."""
    lut = np.rint(np.quantile(array, [1, 0.6, 0.3, 0])) if array.dtype == np.int32 else np.quantile(array, [1, 0.5, 0])
    return lut, np.abs(array.reshape(-1, 1) - lut[None]).argmin(axis=1)


# Every combination that is allowed


@st.composite
def requests(draw: st.DrawFn) -> tuple[np.ndarray, dict[str, Any]]:
    rank = draw(st.integers(1, 4))
    shape = tuple(draw(st.integers(1, 6)) for _ in range(rank))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    dtype = draw(st.sampled_from([np.float16, np.float32, np.int8, np.uint8]))
    floats = np.dtype(dtype).kind == "f"
    if floats:
        array = (rng.standard_normal(shape) * 10.0 ** rng.integers(-6, 4)).astype(dtype)
        if draw(st.booleans()):
            array = np.where(rng.random(shape) < 0.3, array.dtype.type(0), array)
    else:
        limits = np.iinfo(dtype)
        array = rng.integers(limits.min, limits.max + 1, shape).astype(dtype)
    options: dict[str, Any] = {"mode": draw(st.sampled_from(["kmeans", "uniform", "custom"]))}
    if options["mode"] == "custom":
        options["lut_function"] = by_quantiles
    else:
        options["nbits"] = draw(st.sampled_from(ALLOWED))
    if draw(st.booleans()):
        axis = draw(st.integers(0, rank - 1))
        sizes = [n for n in range(1, shape[axis] + 1) if shape[axis] % n == 0]
        options.update(axis=axis - draw(st.sampled_from([0, rank])), group_size=draw(st.sampled_from(sizes)))
    if draw(st.booleans()):
        mask = rng.random(shape) < draw(st.sampled_from([0.0, 0.2, 0.7, 1.0]))
        options["mask"] = bits(mask)
        if floats:
            array[~mask] = draw(st.sampled_from([0.0, np.nan]))
    if floats and draw(st.booleans()):
        options["scale_axis"] = draw(st.integers(-rank, rank - 1))
    if floats and draw(st.booleans()):
        options["lut_dtype"] = draw(st.sampled_from(["int8", "uint8"]))
    if draw(st.booleans()):
        blocks = tuple(draw(st.sampled_from([n for n in range(1, size + 1) if size % n == 0])) for size in shape)
        options["importance"] = 10.0 ** rng.uniform(-3, 3, blocks)
    return array, options


def spread(importance: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    for axis, size in enumerate(shape):
        importance = np.repeat(importance, size // importance.shape[axis], axis=axis)
    return importance


@settings(max_examples=400, deadline=None)
@given(requests())
def test_the_expression_decodes_to_what_is_reported(case: tuple[np.ndarray, dict[str, Any]]) -> None:
    array, options = case
    before = array.copy()
    array.flags.writeable = False
    made = make(array, **options)
    assert array.tobytes() == before.tobytes()
    decoded = made.expr.decode()
    assert decoded.shape == array.shape
    assert decoded.dtype == array.dtype
    assert np.isfinite(decoded).all()
    weights = np.ones(array.shape)
    if "importance" in options:
        weights = spread(options["importance"], array.shape)
    expr, counted = made.expr, array
    if "mask" in options:
        assert isinstance(expr, Sparse)
        assert expr.mask is options["mask"]
        mask = expr.dense_mask()
        assert not decoded[~mask].any()
        assert not lut_of(expr).indices.unpack()[~mask].any()
        expr, counted, weights = expr.data, np.where(mask, array, array.dtype.type(0)), weights * mask
    if "scale_axis" in options:
        assert isinstance(expr, Scale)
        axis = options["scale_axis"] % array.ndim
        assert expr.scale.shape == tuple(size if i == axis else 1 for i, size in enumerate(array.shape))
        assert np.all(expr.scale >= np.finfo(array.dtype).tiny)
        assert np.isfinite(expr.scale).all()
        assert expr.offset is None
        expr = expr.data
    assert isinstance(expr, Lut)
    if "lut_dtype" in options:
        assert isinstance(expr.lut, Scale)
        assert expr.lut.data.dtype == options["lut_dtype"]
        assert expr.lut.scale.shape == (*expr.groups, 1, 1)
        assert (expr.lut.offset is None) == (options["lut_dtype"] == "int8")
    groups = [1] * array.ndim
    if "axis" in options:
        groups[options["axis"]] = array.shape[options["axis"]] // options["group_size"]
    assert expr.groups == tuple(groups)
    assert made.sse == pytest.approx(error_of(counted, decoded, weights), rel=1e-9, abs=1e-290)
    assert made.signal == pytest.approx(error_of(counted, np.zeros(1), weights), rel=1e-9, abs=1e-290)


@settings(max_examples=60, deadline=None)
@given(requests())
def test_threads_and_layout_do_not_matter(case: tuple[np.ndarray, dict[str, Any]]) -> None:
    array, options = case
    first = make(array, **options)
    with ThreadPoolExecutor(3) as executor:
        second = make(np.asfortranarray(array), pmap=executor.map, **options)
    assert first.expr.decode().tobytes() == second.expr.decode().tobytes()
    assert lut_of(first.expr).indices.data.tobytes() == lut_of(second.expr).indices.data.tobytes()
    assert lut_of(first.expr).table.tobytes() == lut_of(second.expr).table.tobytes()
    assert (first.sse, first.signal) == (second.sse, second.signal)


@pytest.mark.parametrize("mode", ["kmeans", "uniform", "unique"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{}, {"scale_axis": 0}, {"lut_dtype": "int8"}, {"importance": np.ones((1, 1))}])
def test_nan_and_infinity_are_refused_where_they_count(mode: str, dtype: type, options: dict[str, Any]) -> None:
    array = np.ones((4, 6), dtype)
    array[1, 2], array[3, 3], array[0, 0] = np.nan, -np.inf, np.inf
    mask = np.ones((4, 6), bool)
    mask[0, 0] = False
    with pytest.raises(NonFiniteError, match=r"'layer.weight' has 1 NaN and 1 infinite"):
        make(array, mode, mask=bits(mask), **options)
    mask[1, 2] = mask[3, 3] = False
    assert make(array, mode, mask=bits(mask), **options).sse <= 1e-4


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
def test_the_scale_of_few_values_is_the_best_of_all(kind: str, nbits: int, offset: float) -> None:
    rng = np.random.default_rng(nbits)
    for _ in range(6):
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


# Requests


WRONG: list[tuple[type, dict[str, Any], str]] = [
    (np.int8, {"lut_dtype": "int8"}, "is int8, whose tables have no lut_dtype; leave it out"),
    (np.uint8, {"scale_axis": 0}, "is uint8, whose tables have no scale_axis; leave it out"),
    (np.float16, {"lut_dtype": "int4"}, r"lut_dtype is 'int4'; use one of \['int8', 'uint8'\]"),
    (np.float16, {"scale_axis": 2}, "has 2 axes; scale_axis 2 is none of them"),
    (np.float16, {"mask": Packed(np.zeros(2, np.uint8), 1, (16,))}, r"has a mask of 1 bits and shape \[16\]"),
    (np.float16, {"mask": Packed(np.zeros(4, np.uint8), 2, (4, 4))}, "has a mask of 2 bits"),
    (np.int8, {"cluster_dim": 2, "axis": 0}, "int8 needs scalars, but cluster_dim is 2"),
    (np.float16, {"cluster_dim": 2, "axis": 0, "scale_axis": 0}, "scale_axis needs scalars, but cluster_dim is 2"),
    (np.float16, {"cluster_dim": 2, "axis": 0, "importance": np.ones((1, 1))}, "importance needs scalars"),
    (np.float16, {"cluster_dim": 2, "axis": 0, "mask": Packed(np.zeros(2, np.uint8), 1, (4, 4))}, "mask needs scalars"),
]


@pytest.mark.parametrize(("dtype", "options", "message"), WRONG)
def test_wrong_requests(dtype: type, options: dict[str, Any], message: str) -> None:
    with pytest.raises(AlgorithmError, match=f"weight 'layer.weight'.*{message}") as caught:
        make(np.ones((4, 4), dtype), **options)
    assert "\n" not in str(caught.value)


FUNCTION_FAULTS: list[tuple[dict[str, Any], Callable[[np.ndarray], Any]]] = [
    ({"scale_axis": 0}, lambda w: ([0.0], np.zeros(w.size - 1, int))),
    ({"lut_dtype": "int8"}, lambda w: ([np.inf], np.zeros(w.size, int))),
]


@pytest.mark.parametrize(("options", "function"), FUNCTION_FAULTS)
def test_functions_are_checked(options: dict[str, Any], function: Callable[[np.ndarray], Any]) -> None:
    with pytest.raises(AlgorithmError, match=r"'layer.weight': lut_function returned"):
        make(np.ones((4, 4), np.float16), "custom", lut_function=function, **options)


def test_functions_see_the_values_divided_by_the_scales() -> None:
    array = sample((3, 8), np.float16)
    mask = np.random.default_rng(0).random(array.shape) < 0.6
    mask[:, np.abs(array.astype(np.float64)).argmax(axis=1)] = True
    seen = []

    def function(weight: np.ndarray) -> tuple[list[float], np.ndarray]:
        seen.append(weight.copy())
        return [0.5], np.zeros(weight.size, int)

    scaled = array / np.abs(array).max(axis=1, keepdims=True)
    make(array, "custom", lut_function=function, scale_axis=0)
    make(array, "custom", lut_function=function, scale_axis=0, mask=bits(mask))
    assert np.array_equal(seen[0], scaled)
    assert np.array_equal(seen[1], scaled[mask])
