"""The sorted distinct values of a weight with how often each occurs: all that a scalar algorithm sees."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mil_palettize.algorithms.compiled.counting import (
    ASCENDING,
    HALF_VALUES,
    MARKS,
    PATTERNS,
    RUN,
    SINGLE,
    cell_means,
    count_buckets,
    count_cells,
    count_distinct,
    count_marks,
    count_patterns,
    distinct_patterns,
    distinct_sorted,
    sums_of_squares,
)
from mil_palettize.algorithms.compiled.sorting import sorted_rows
from mil_palettize.algorithms.source import NonFiniteError, Source, frozen, raise_non_finite, recut

DISTINCT = 1 << 20  # distinct float32 values up to which all are kept, whatever the size of the weight
CELLS = 1 << 20  # about as many cells where there are more
FEW_HALVES = 1 << 15  # float16 elements up to which only the patterns that occur are looked at

__all__ = ["Distribution", "NonFiniteError", "describe"]


@dataclass(frozen=True)
class Distribution:
    """A weighted sample of finite values.

    ``values``: float64, ascending, distinct, -0.0 merged into 0.0; the first and last are the true extremes.
    ``weights``: float64, positive; counts here, importances are as good. ``dtype``: of the weight. ``size``: its
    elements. ``signal``: sum of its squares. ``exact``: false where a value may be the mean of a narrow cell of values;
    the weight then has more than ``DISTINCT`` different ones. ``name``: for messages.
    """

    name: str
    values: np.ndarray
    weights: np.ndarray
    dtype: np.dtype
    size: int
    signal: float
    exact: bool = True

    @property
    def low(self) -> float:
        return float(self.values[0])

    @property
    def high(self) -> float:
        return float(self.values[-1])


def describe(source: Source) -> Distribution:
    """The distribution of a whole weight.

    Exact for float16, and for float32 of at most ``DISTINCT`` different values; else in cells. Raises
    ``NonFiniteError``.
    """
    if source.dtype == np.float16:
        return _describe_half(source)
    size = int(np.prod(source.shape, dtype=np.int64))
    if size <= DISTINCT:
        return _describe_sorted(source, size)
    return _describe_distinct(source) or _describe_cells(source, size)


def _exact(source: Source, values: np.ndarray, weights: np.ndarray) -> Distribution:
    if not (np.isfinite(values[0]) and np.isfinite(values[-1])):
        raise_non_finite(source)
    signal = np.empty(1)
    sums_of_squares(values, weights, np.array([0, len(values)]), signal)
    return Distribution(source.name, values, weights, source.dtype, int(weights.sum()), float(signal[0]))


def _describe_half(source: Source) -> Distribution:
    if math.prod(source.shape) <= FEW_HALVES:
        return _describe_few_halves(source)
    counts = np.zeros(PATTERNS, np.int64)
    for window in source.windows():
        count_patterns(frozen(window.view(np.uint16)), counts)
    counts[0] += counts[PATTERNS // 2]
    counts[PATTERNS // 2] = 0
    present = ASCENDING[counts[ASCENDING] > 0]
    return _exact(source, HALF_VALUES[present], counts[present].astype(np.float64))


def _describe_few_halves(source: Source) -> Distribution:
    rows = frozen(source.read().reshape(1, -1).view(np.uint16))
    values, weights, patterns = np.empty(rows.size + 1), np.empty(rows.size + 1), np.empty(rows.size + 1, np.uint16)
    offsets = np.empty(2, np.int64)
    distinct_patterns(rows, HALF_VALUES, values, weights, patterns, offsets)
    return _exact(source, values[: offsets[1]].copy(), weights[: offsets[1]].copy())


def _describe_sorted(source: Source, size: int) -> Distribution:
    rows = sorted_rows(source.read().reshape(1, -1))
    values, weights, offsets = np.empty(size), np.empty(size), np.empty(2, np.int64)
    distinct_sorted(rows, values, weights, offsets)
    return _exact(source, values[: offsets[1]], weights[: offsets[1]])


def _describe_distinct(source: Source) -> Distribution | None:
    """Exactly, or None as soon as more than ``DISTINCT`` different values have been seen."""
    if _surely_more(source):
        return None
    slots, found = 1 << (2 * DISTINCT - 1).bit_length(), 0
    keys, counts = np.empty(slots, np.uint32), np.zeros(slots, np.int64)
    for window in source.windows():
        found = count_distinct(frozen(window), keys, counts, found, DISTINCT)
        if found > DISTINCT:
            return None
    used = np.flatnonzero(counts)
    values = keys[used].view(np.float32).astype(np.float64)
    order = np.argsort(values)
    return _exact(source, values[order], counts[used][order].astype(np.float64))


def _surely_more(source: Source) -> bool:
    """Whether there are more than ``DISTINCT`` different values, where a quick look tells."""
    marks, found = np.zeros(MARKS // 8, np.uint8), 0
    for window in source.windows():
        found = count_marks(frozen(window), marks, found, DISTINCT)
        if found > DISTINCT:
            return True
    return False


def _describe_cells(source: Source, size: int) -> Distribution:
    buckets = np.zeros(PATTERNS, np.int64)
    low, high = np.inf, -np.inf
    for window in source.windows():
        count_buckets(frozen(window.view(np.uint32)), buckets)
        low, high = np.minimum(low, window.min()), np.maximum(high, window.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise_non_finite(source)
    base, shift, cells = cell_layout(buckets, CELLS)
    first_base, first_shift = base[ASCENDING], shift[ASCENDING]  # of all buckets; counting moves ``base``
    sums, signal = np.zeros((cells, 2)), 0.0
    for window in recut(source.windows(), RUN):
        signal = count_cells(frozen(window), base, shift, sums, signal)
    single = np.flatnonzero(np.repeat(first_shift == SINGLE, np.diff(first_base, append=cells)))
    sums[single] = np.sort(sums[single], axis=0)  # of one element each, in the order in which they came
    values, weights = np.empty(cells + 2), np.empty(cells + 2)
    filled = cell_means(sums, float(low), float(high), values, weights)
    return Distribution(source.name, values[:filled], weights[:filled], source.dtype, size, signal, exact=False)


def cell_layout(buckets: np.ndarray, total: int) -> tuple[np.ndarray, np.ndarray, int]:
    """First cell and shift of every bucket of upper 16 bits, and the number of cells: about ``total``.

    High-resolution theory: an optimal quantizer has steps in proportion to density**(-1/3), so cells in that
    proportion are everywhere the same fraction of a step, whatever the range and the outliers; that is
    ``width**(2/3) * count**(1/3)`` cells per bucket, rounded up to a power of two, at most one per float32. A bucket
    entitled to a cell per element has just that, so that outliers stay apart and leave the cells to the rest.
    """
    used = buckets > 0
    edges = np.flatnonzero(used).astype(np.uint32) << np.uint32(16)
    last = (edges | np.uint32(0xFFFF)).view(np.float32).astype(np.float64)
    width = np.abs(last - edges.view(np.float32).astype(np.float64))
    share = np.cbrt(width) ** 2 * np.cbrt(buckets[used])
    counts = buckets[used]
    parts = _divided(float(total), share, np.minimum(counts, PATTERNS).astype(np.float64))
    bits = np.ceil(np.log2(parts)).astype(np.int64)
    single = parts >= counts
    sizes, shift = np.zeros(PATTERNS, np.int64), np.zeros(PATTERNS, np.uint8)
    sizes[used] = np.where(single, counts, 1 << bits)
    shift[used] = np.where(single, SINGLE, 16 - bits)
    base = np.zeros(PATTERNS, np.int64)
    base[ASCENDING] = np.cumsum(sizes[ASCENDING]) - sizes[ASCENDING]
    return base, shift, int(sizes.sum())


def _divided(total: float, share: np.ndarray, most: np.ndarray) -> np.ndarray:
    """``total`` in proportion to ``share``, none above its ``most``; what those leave goes to the others."""
    parts = np.minimum(share * (total / share.sum()), most)
    full = parts >= most
    while full.any() and not full.all():
        rest = (total - most[full].sum()) / share[~full].sum()
        parts[~full] = np.minimum(share[~full] * rest, most[~full])
        grown = full | (parts >= most)
        if (grown == full).all():
            break
        full = grown
    return np.maximum(parts, 1.0)


def merged(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ascending distinct values with the sums of their weights; quick where they ascend nearly everywhere already."""
    order = np.argsort(values, kind="stable")
    values, weights = values[order], weights[order]
    first = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    return values[first], np.add.reduceat(weights, first)
