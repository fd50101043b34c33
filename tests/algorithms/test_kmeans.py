"""The scalar k-means is the global optimum: against a brute-force dynamic program over all partitions."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from made_palettes import make_one
from numba import njit

from mil_palettize.algorithms.compiled import monge, solver
from mil_palettize.algorithms.distribution import Distribution, describe
from mil_palettize.algorithms.making import ArraySource, Palette
from mil_palettize.algorithms.scalar import kmeans
from mil_palettize.errors import AlgorithmError

ALLOWED = (1, 2, 3, 4, 6, 8)


@cache
def entered(inlined: Any) -> Any:
    """A way into a loop that is compiled for other loops only."""

    @njit
    def call(*arguments):  # type: ignore[no-untyped-def]
        return inlined(*arguments)

    return call


def brute_force(values: np.ndarray, weights: np.ndarray, most: int, candidates: np.ndarray | None = None) -> np.ndarray:
    """Smallest squared error of 0 .. ``most`` clusters, centers anywhere or among ``candidates``: O(k n**2)."""
    n = len(values)
    shifted = values - np.average(values, weights=weights)
    cost = np.full((n + 1, n + 1), np.inf)
    for j in range(n):
        if candidates is not None:
            squares = weights[j:, None] * (values[j:, None] - candidates[None]) ** 2
            cost[j, j + 1 :] = np.cumsum(squares, axis=0).min(axis=1)
            continue
        s0, s1 = np.cumsum(weights[j:]), np.cumsum(weights[j:] * shifted[j:])
        squares = weights[None, j:] * (shifted[None, j:] - (s1 / s0)[:, None]) ** 2
        cost[j, j + 1 :] = np.tril(squares).sum(axis=1)
    best = np.full(n + 1, np.inf)
    best[0] = 0.0
    errors = [np.inf]
    for _ in range(most):
        best = (best[:, None] + cost).min(axis=0)
        errors.append(best[n])
    return np.array(errors)


def nearest_error(values: np.ndarray, weights: np.ndarray, entries: np.ndarray) -> float:
    return float((weights * ((values[:, None] - entries[None]) ** 2).min(axis=1)).sum())


def optimal_centers(values: np.ndarray, weights: np.ndarray, half: bool, k: int) -> np.ndarray:
    centers = np.empty((1, k))
    solver.optimal_centers_of_groups(values, weights, np.array([0, len(values)]), half, centers, np.empty(1))
    return centers[0]


def sorted_error(values: np.ndarray, weights: np.ndarray, entries: np.ndarray) -> float:
    nearest = np.searchsorted((entries[1:] + entries[:-1]) / 2, values)
    return float((weights * (values - entries[nearest]) ** 2).sum())


def symmetric(rng: np.random.Generator, n: int) -> np.ndarray:
    half = rng.standard_normal(n // 2 + 1)
    return np.concatenate([half, -half])


def clumps(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.integers(0, 12, n) * 1000.0 + rng.integers(0, 6, n)


SAMPLES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "integer grid": lambda rng, n: rng.integers(-40, 40, n).astype(float),
    "constant gaps": lambda rng, n: np.arange(n) * 0.1,
    "symmetric": symmetric,
    "geometric": lambda rng, n: np.concatenate([-(2.0 ** np.arange(n // 2)), 2.0 ** np.arange(n // 2)]),
    "offset": lambda rng, n: 100 + rng.uniform(-0.01, 0.01, n),
    "heavy tails": lambda rng, n: rng.standard_cauchy(n) ** 3,
    "clumps": clumps,
    "half lattice": lambda rng, n: rng.standard_normal(n).astype(np.float16).astype(float),
}
WEIGHTS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "one": lambda rng, n: np.ones(n),
    "counts": lambda rng, n: rng.integers(1, 5, n).astype(float),
    "floats": lambda rng, n: rng.random(n) + 1e-3,
    "wide": lambda rng, n: 10 ** rng.uniform(-3, 3, n),
}


@pytest.mark.parametrize("kind", SAMPLES)
@pytest.mark.parametrize("weighting", WEIGHTS)
def test_no_partition_is_better(kind: str, weighting: str) -> None:
    rng = np.random.default_rng(sum(map(ord, kind + weighting)))
    for _ in range(60):
        values = np.unique(SAMPLES[kind](rng, int(rng.integers(4, 71))))
        n = len(values)
        if n < 3:
            continue
        weights = WEIGHTS[weighting](rng, n)
        optimum = brute_force(values, weights, n - 1)
        for k in {2, n - 1, *rng.integers(1, n, 6).tolist()}:
            centers = optimal_centers(values, weights, False, k)
            assert np.all(np.diff(centers) > 0)
            gap = (nearest_error(values, weights, centers) - optimum[k]) / optimum[1]
            assert abs(gap) <= 1e-12, (n, k, values.tolist(), weights.tolist())


@pytest.mark.parametrize("passes", [0, 1, 2])
def test_exact_when_the_search_is_cut_short(passes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layered program is exact from any bracket: the trivial one is a plain dynamic program over everything."""
    rng = np.random.default_rng(passes)
    for _ in range(40):
        values = np.unique(rng.integers(-60, 60, 70).astype(float))
        n = len(values)
        weights = rng.random(n) + 0.01
        optimum = brute_force(values, weights, n - 1)
        for k in (2, 5, n // 2, n - 1):
            bounds = np.zeros(k + 1, np.int32)
            few, many = np.array([0, n], np.int32), np.arange(n + 1, dtype=np.int32)
            counts = [1, n]
            s0, s1 = np.empty(n + 1), np.empty(n + 1)
            center, deviation, start = entered(monge.running_sums)(values, weights, s0, s1)
            for _ in range(passes):
                count, partition = _penalised(s0, s1, start, deviation * float(rng.random()) ** 4 / k, center)
                if counts[0] <= count < k:
                    counts[0], few = count, partition
                if k < count <= counts[1]:
                    counts[1], many = count, partition
            entered(solver._between)(s0, s1, start, k, center, False, few, counts[0], many, counts[1], bounds)
            centers = np.empty(k)
            entered(solver._centers)(s0, s1, deviation, center, False, bounds, centers)
            assert abs(nearest_error(values, weights, centers) - optimum[k]) <= 1e-12 * optimum[1]


def _penalised(s0: np.ndarray, s1: np.ndarray, start: float, penalty: float, center: float) -> tuple[int, np.ndarray]:
    n = len(s0) - 1
    best, parent, bounds = np.empty(n + 1), np.empty(n + 1, np.int32), np.empty(n + 1, np.int32)
    count = entered(monge.penalised)(s0, s1, start, penalty, center, False, best, parent, bounds)
    return count, bounds


def uneven(rng: np.random.Generator) -> np.ndarray:
    """Stretches of very different density: the widths of neighbouring clusters, in points, differ as much."""
    parts = [rng.random(int(rng.integers(1, 80))) * 10.0 ** rng.integers(-6, 3) for _ in range(int(rng.integers(2, 9)))]
    return np.unique(np.cumsum(np.concatenate(parts)))


def test_one_pass_finds_the_cheapest_penalised_partition() -> None:
    rng = np.random.default_rng(3)
    for _ in range(120):
        values = uneven(rng)
        n = len(values)
        weights = 10 ** rng.uniform(-2, 2, n)
        s0, s1 = np.empty(n + 1), np.empty(n + 1)
        center, deviation, start = entered(monge.running_sums)(values, weights, s0, s1)
        d0, d1 = (np.subtract.outer(s, s).T for s in (s0, s1))
        gain = np.divide(d1**2, d0, out=np.full_like(d0, -np.inf), where=np.triu(np.ones_like(d0), 1) > 0)
        for penalty in deviation * 10 ** rng.uniform(-9, 1, 6):
            least = np.full(n + 1, start)
            for i in range(1, n + 1):
                least[i] = (least[:i] - gain[:i, i]).min() + penalty
            count, bounds = _penalised(s0, s1, start, penalty, center)
            found = start + count * penalty - gain[bounds[:count], bounds[1 : count + 1]].sum()
            assert abs(found - least[n]) <= 1e-12 * deviation


def test_every_group_is_optimal_whatever_came_before() -> None:
    """The search begins where the group before ended, which may be like it or not."""
    rng = np.random.default_rng(4)
    samples = [np.unique(SAMPLES[kind](rng, 60)) for kind in SAMPLES for _ in range(3)]
    samples += [np.array([1.0, 2.0, 5.0]), np.unique(rng.standard_normal(60)) * 1e-9]
    for _ in range(8):
        order = rng.permutation(len(samples))
        values = np.concatenate([samples[i] for i in order])
        offsets = np.cumsum([0, *(len(samples[i]) for i in order)])
        k = int(rng.integers(2, 20))
        centers = np.empty((len(order), k))
        ones, errors = np.ones(len(values)), np.empty(len(order))
        solver.optimal_centers_of_groups(values, ones, offsets, False, centers, errors)
        for i, found in zip(order, centers, strict=True):
            ones = np.ones(len(samples[i]))
            least = brute_force(samples[i], ones, k)
            assert abs(nearest_error(samples[i], ones, found) - least[min(k, len(ones))]) <= 1e-12 * least[1]


def half_sample(rng: np.random.Generator, kind: int, n: int) -> np.ndarray:
    """Float16 values so close together that rounding the centers decides."""
    if kind == 0:
        patterns = np.unique(rng.integers(0x3C00, 0x3C00 + 3 * n, n)).astype(np.uint16)
        return patterns.view(np.float16).astype(float)
    if kind == 1:
        return np.unique(rng.integers(-30, 30, n)) * 2.0**-24
    if kind == 2:
        return np.unique(rng.standard_normal(n).astype(np.float16)).astype(float)
    return np.unique((65504 - 32 * rng.integers(0, 3 * n, n)).astype(np.float16)).astype(float)


@pytest.mark.parametrize("kind", range(4))
def test_no_float16_palette_is_better(kind: int) -> None:
    rng = np.random.default_rng(kind)
    for _ in range(60):
        values = half_sample(rng, kind, int(rng.integers(6, 40)))
        weights = rng.integers(1, 9, len(values)).astype(float)
        every = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(float)
        candidates = every[(every >= values[0]) & (every <= values[-1])]
        if len(candidates) > 3000:  # only those next to a possible mean matter: keep a neighbourhood of the values
            candidates = np.unique(np.concatenate([values, *_neighbours(values, weights)]))
        k = int(rng.integers(2, len(values)))
        optimum = brute_force(values, weights, k, candidates)
        centers = optimal_centers(values, weights, True, k)
        assert np.array_equal(centers, centers.astype(np.float16))
        assert nearest_error(values, weights, centers) <= optimum[k] + 1e-12 * optimum[1]


def _neighbours(values: np.ndarray, weights: np.ndarray) -> list[np.ndarray]:
    """Float16 values around every mean of consecutive values."""
    near = []
    for j in range(len(values)):
        means = np.cumsum(weights[j:] * values[j:]) / np.cumsum(weights[j:])
        half = means.astype(np.float16)
        near += [half, np.nextafter(half, np.float16(np.inf)), np.nextafter(half, np.float16(-np.inf))]
    return [part.astype(float) for part in near]


def test_rounding_to_float16_is_numpys() -> None:
    rng = np.random.default_rng(5)
    values = np.concatenate([rng.standard_normal(3000) * 10.0 ** rng.integers(-8, 5, 3000), [0.0, 65504.0, 2.0**-25]])
    values = values[np.abs(values) < 65504]
    assert [monge.half_of(value) for value in values] == values.astype(np.float16).astype(float).tolist()


def test_every_count_of_a_large_sample_lies_on_a_convex_curve() -> None:
    """Brute force is too slow here; a wrong optimum would break convexity or Lloyd's fixed point."""
    rng = np.random.default_rng(9)
    values, weights = np.unique(rng.standard_normal(20_000).astype(np.float16), return_counts=True)
    values, weights = values.astype(float), weights.astype(float)
    errors = []
    for k in range(1, 40):
        centers = optimal_centers(values, weights, False, k)
        nearest = np.searchsorted((centers[1:] + centers[:-1]) / 2, values)
        means = np.bincount(nearest, weights * values) / np.bincount(nearest, weights)
        np.testing.assert_allclose(means, centers, rtol=0, atol=1e-12)
        errors.append(nearest_error(values, weights, centers))
    steps = np.diff(errors)
    assert np.all(steps < 0)
    assert np.all(np.diff(steps) > 0)


def test_one_outlier_does_not_blur_the_rest() -> None:
    """The moments of the outlier are 1e9 times those of the rest, whose optimum must not notice."""
    rng = np.random.default_rng(2)
    rest = np.unique((rng.standard_normal(3000) * 0.02).astype(np.float16)).astype(float)
    alone = optimal_centers(rest, np.ones(len(rest)), False, 63)
    for outlier in (-65504.0, 65504.0):
        values = np.sort(np.append(rest, outlier))
        centers = optimal_centers(values, np.ones(len(values)), False, 64)
        kept = np.ones(len(values))
        assert nearest_error(values, kept, centers) <= nearest_error(rest, kept[1:], alone) * (1 + 1e-9)


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


@pytest.mark.parametrize("kind", ["normal", "heavy tails", "outliers", "offset"])
def test_cells_of_large_float32_are_within_1e_6(kind: str) -> None:
    rng = np.random.default_rng(11)
    array = rng.standard_normal(1_500_000)
    if kind == "heavy tails":
        array = rng.standard_t(2, array.size)
    elif kind == "outliers":
        array[:20] *= 1e4
    elif kind == "offset":
        array[: array.size // 2] = 100 + array[: array.size // 2] * 0.003
    source = ArraySource("w", array.astype(np.float32))
    distribution = describe(source)
    assert not distribution.exact
    values, counts = np.unique(source.array.astype(float), return_counts=True)
    for nbits in (1, 4, 8):
        exact = optimal_centers(values, counts.astype(float), False, 1 << nbits)
        near = kmeans.entries(distribution, nbits)
        assert sorted_error(values, counts, near) <= sorted_error(values, counts, exact) * (1 + 1e-6)


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
    least = brute_force(values, weights, 16, candidates)
    found = kmeans.errors(Distribution("w", values, weights, dtype, len(values), 1.0), (1, 2, 3, 4))
    allowance = 1e-12 * least[1] + 1e-13 * float(weights @ values**2)  # float32 rounds the optimal centers
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
