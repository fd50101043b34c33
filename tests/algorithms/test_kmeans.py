"""The scalar k-means is the global optimum: against a brute-force dynamic program over all partitions."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest
from numba import njit
from partitions import SAMPLES, WEIGHTS, brute_force, costs, nearest_error
from slow_cases import slow_where

from mil_palettize.algorithms.compiled import monge, solver
from mil_palettize.algorithms.distribution import describe
from mil_palettize.algorithms.making import ArraySource, NonFiniteError
from mil_palettize.algorithms.scalar import kmeans

ALLOWED = (1, 2, 3, 4, 6, 8)


@cache
def entered(inlined: Any) -> Any:
    """A way into a loop that is compiled for other loops only."""

    @njit
    def call(*arguments):  # type: ignore[no-untyped-def]
        return inlined(*arguments)

    return call


def optimal_centers(values: np.ndarray, weights: np.ndarray, half: bool, k: int) -> np.ndarray:
    centers = np.empty((1, k))
    solver.optimal_centers_of_groups(values, weights, np.array([0, len(values)]), half, 0, centers, np.empty(1))
    return centers[0]


def sorted_error(values: np.ndarray, weights: np.ndarray, entries: np.ndarray) -> float:
    nearest = np.searchsorted((entries[1:] + entries[:-1]) / 2, values)
    return float((weights * (values - entries[nearest]) ** 2).sum())


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
            assert np.all(np.diff(centers) >= 0)
            assert np.array_equal(centers, centers.astype(np.float32))
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
            entered(solver._between)(s0, s1, start, k, center, monge.SINGLE, few, counts[0], many, counts[1], bounds)
            centers = np.empty(k)
            entered(solver._centers)(s0, s1, deviation, center, monge.SINGLE, bounds, centers)
            assert abs(nearest_error(values, weights, centers) - optimum[k]) <= 1e-12 * optimum[1]


def _penalised(s0: np.ndarray, s1: np.ndarray, start: float, penalty: float, center: float) -> tuple[int, np.ndarray]:
    n = len(s0) - 1
    best, parent, bounds = np.empty(n + 1), np.empty(n + 1, np.int32), np.empty(n + 1, np.int32)
    count = entered(monge.penalised)(s0, s1, start, penalty, center, monge.SINGLE, best, parent, bounds)
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
        cost = costs(values, weights, np.float32)
        for penalty in deviation * 10 ** rng.uniform(-9, 1, 6):
            least = np.zeros(n + 1)
            for i in range(1, n + 1):
                least[i] = (least[:i] + cost[:i, i]).min() + penalty
            count, bounds = _penalised(s0, s1, start, penalty, center)
            found = count * penalty + cost[bounds[:count], bounds[1 : count + 1]].sum()
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
        solver.optimal_centers_of_groups(values, ones, offsets, False, 0, centers, errors)
        for i, found in zip(order, centers, strict=True):
            ones = np.ones(len(samples[i]))
            least = brute_force(samples[i], ones, k)
            assert abs(nearest_error(samples[i], ones, found) - least[min(k, len(ones))]) <= 1e-12 * least[1]


def close_sample(rng: np.random.Generator, kind: str, n: int) -> tuple[np.ndarray, type]:
    """Values so close together that rounding the centers decides, and the dtype of the table."""
    half, single = np.float16, np.float32
    if kind == "half, next to each other":
        return np.unique(rng.integers(0x3C00, 0x3C00 + 3 * n, n)).astype(np.uint16).view(half).astype(float), half
    if kind == "half, subnormal":
        return np.unique(rng.integers(-30, 30, n)) * 2.0**-24, half
    if kind == "half, normal":
        return np.unique(rng.standard_normal(n).astype(half)).astype(float), half
    if kind == "half, largest":
        return np.unique((65504 - 32 * rng.integers(0, 3 * n, n)).astype(half)).astype(float), half
    if kind == "single, next to each other":
        return np.unique(rng.integers(0x3F7FFFF0, 0x3F7FFFF0 + 3 * n, n)).astype(np.uint32).view(single), single
    return np.unique((100 + rng.standard_normal(n) * 2e-5).astype(single)), single


KINDS = ["half, next to each other", "half, subnormal", "half, normal", "half, largest", "single, next to each other"]


@pytest.mark.parametrize("kind", [*KINDS, "single, 100"])
def test_no_table_of_the_dtype_is_better(kind: str) -> None:
    rng = np.random.default_rng(len(kind))
    for _ in range(60):
        close, dtype = close_sample(rng, kind, int(rng.integers(6, 40)))
        values = close.astype(float)
        if len(values) < 3:
            continue
        weights = rng.integers(1, 9, len(values)).astype(float)
        if dtype is np.float16:
            every = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(float)
        else:
            first, last = (int(np.float32(end).view(np.uint32)) for end in (values[0], values[-1]))
            every = np.arange(first, last + 1, dtype=np.uint32).view(np.float32).astype(float)
        candidates = every[(every >= values[0]) & (every <= values[-1])]
        if len(candidates) > 3000:  # only those next to a possible mean matter: keep a neighbourhood of the values
            candidates = np.unique(np.concatenate([values, *_neighbours(values, weights)]))
        k = int(rng.integers(2, len(values)))
        optimum = brute_force(values, weights, k, candidates=candidates)
        centers = optimal_centers(values, weights, dtype is np.float16, k)
        assert np.array_equal(centers, centers.astype(dtype))
        assert nearest_error(values, weights, centers) <= optimum[k] + 1e-12 * optimum[1]


def _neighbours(values: np.ndarray, weights: np.ndarray) -> list[np.ndarray]:
    """Float16 values around every mean of consecutive values."""
    near = []
    for j in range(len(values)):
        means = np.cumsum(weights[j:] * values[j:]) / np.cumsum(weights[j:])
        half = means.astype(np.float16)
        near += [half, np.nextafter(half, np.float16(np.inf)), np.nextafter(half, np.float16(-np.inf))]
    return [part.astype(float) for part in near]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_rounding_is_numpys(dtype: type) -> None:
    rng, info = np.random.default_rng(5), np.finfo(dtype)
    least, largest = float(info.smallest_subnormal), float(info.max)
    powers = 2.0 ** rng.uniform(np.log2(least) - 2, np.log2(largest), 3000)
    values = np.concatenate([powers * rng.choice([-1.0, 1.0], 3000), [0.0, largest, least / 2, 1.5 * float(info.tiny)]])
    rounding = monge.HALF if dtype == np.float16 else monge.SINGLE
    rounded = [entered(monge.stored)(value, rounding) for value in values]
    assert rounded == values.astype(dtype).astype(float).tolist()


LARGE: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "normal": lambda rng: rng.standard_normal(1200),
    "tiny beside 65504": lambda rng: np.append(rng.standard_normal(2500) * 1e-5, 65504.0),
    "tiny beside -65504": lambda rng: np.append(rng.standard_normal(2500) * 1e-5, -65504.0),
    "small": lambda rng: rng.standard_normal(4000) * 0.02,
    "offset": lambda rng: 100 + rng.standard_normal(3000) * 8,
    "heavy tails": lambda rng: np.clip(rng.standard_cauchy(2500) ** 3, -65504, 65504),
    "clumps": lambda rng: rng.integers(-40, 40, 3000) + rng.standard_normal(3000) * 1e-2,
}


@pytest.mark.parametrize(
    ("kind", "weighted"),
    slow_where(
        lambda kind, weighted: weighted and kind in ("small", "offset", "clumps"), product(LARGE, (False, True))
    ),
)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_table_is_the_best_of_its_dtype(kind: str, weighted: bool, dtype: type) -> None:
    """Against the dynamic program over every partition, whose clusters have the best center of the dtype."""
    rng = np.random.default_rng(9)
    values, counts = np.unique(LARGE[kind](rng).astype(np.float16), return_counts=True)
    if dtype is np.float32:
        values, counts = np.unique(LARGE[kind](rng)[-1000:].astype(np.float32), return_counts=True)
    values, weights = values.astype(float), counts.astype(float)
    if weighted:
        weights *= 10.0 ** rng.uniform(-4, 0, len(values))
    assert len(values) > 150
    optimum = brute_force(values, weights, 24, dtype)
    for k in (2, 3, 7, 16, 24):
        found = nearest_error(values, weights, optimal_centers(values, weights, dtype is np.float16, k))
        assert found == pytest.approx(optimum[k], rel=1e-9), k


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


@pytest.mark.parametrize("kind", ["normal", "heavy tails", "outliers", "offset"])
def test_cells_of_large_float32_are_within_1e_6(kind: str) -> None:
    rng = np.random.default_rng(11)
    array = rng.standard_normal(2_400_000 if kind == "offset" else 1_500_000)
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


def test_repeated_values_are_counted_whatever_the_size() -> None:
    """Tight clusters, in which cells of bit patterns would not be narrow: all values are kept."""
    rng = np.random.default_rng(12)
    middles = rng.standard_normal(200) * 10.0 ** rng.integers(-3, 3, 200)
    known = (middles[:, None] * (1 + 1e-6 * rng.standard_normal((200, 60)))).astype(np.float32)
    known.flat[:2] = -0.0, 0.0
    array = rng.choice(known.reshape(-1), (1 << 20) + 999)
    found = describe(ArraySource("w", array))
    values, counts = np.unique(array.astype(float) + 0.0, return_counts=True)
    assert found.exact
    assert np.array_equal(found.values, values)
    assert np.array_equal(found.weights, counts)
    assert not np.signbit(found.values[found.values == 0.0]).any()
    array[7] = np.nan
    with pytest.raises(NonFiniteError, match="1 NaN and 0 infinite"):
        describe(ArraySource("w", array))
