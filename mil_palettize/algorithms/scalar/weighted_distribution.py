"""Distributions of elements that do not all count the same: by importance, or by the scale of their channel.

With a scale ``s`` an element ``w`` is stored as an entry ``t`` near ``x = w / s``, and ``(w - t * s)**2`` is
``s**2 * (x - t)**2``: the best table is that of the values ``x`` with weights ``s**2``.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from mil_palettize.algorithms.compiled.counting import HALF_VALUES, PATTERNS, RUN, cell_of
from mil_palettize.algorithms.compiled.jit import compiled
from mil_palettize.algorithms.distribution import Distribution, cell_layout, describe, merged
from mil_palettize.algorithms.scalar.counted_elements import Elements
from mil_palettize.algorithms.source import ArraySource, frozen

EXACT_SIZE = 1 << 18  # elements up to which all distinct values are kept
CELLS = 1 << 18  # at most
PER_ENTRY = 1 << 12  # cells for each entry of the table: boundaries between cells alone cost 4 / PER_ENTRY**2 at most
_SAMPLE = 1 << 12
_LEAST = 1e-300  # relative weight; one that is lost in rounding still has to be positive


def distribution_of(
    name: str, dtype: np.dtype, elements: Elements, scales: np.ndarray | None, nbits: int
) -> Distribution:
    """The distribution of at least one element, divided by the scales (float64, one per channel) where there are any.

    ``nbits``: of the table it is for.

    Exact for float16, int8 and uint8 without scales, up to ``EXACT_SIZE`` elements, and of few distinct values; in
    cells of true weighted means otherwise (float32 whose elements count the same: as ``describe`` has it). The
    solver's running sums keep 2**-52 (2e-16) of the sum of all weights: what is lost of a smaller one (1e-30 beside 1)
    can cost that part of the sum of all weights times the squared range, and no more.
    """
    if scales is not None:
        return _general(name, dtype, elements, scales, nbits)
    if dtype.kind == "f" and not elements.weights.size:
        return describe(ArraySource(name, elements.stored))
    if dtype == np.float32:
        return _general(name, dtype, elements, np.ones(1), nbits)
    return _counted(name, dtype, elements)


def quotients(elements: Elements, scales: np.ndarray) -> np.ndarray:
    """Values divided by their scales, float64 (n,)."""
    divisors = scales[elements.channels] if elements.channels.size else scales[0]
    return elements.values / divisors + 0.0


def _counted(name: str, dtype: np.dtype, elements: Elements) -> Distribution:
    """By the sum of weights of every pattern of a dtype of at most 16 bits."""
    values = values_of_patterns(dtype)
    if elements.weights.size:
        masses = np.zeros(len(values))
        _add_weights(frozen(elements.patterns), frozen(elements.weights), masses)
    else:
        masses = np.bincount(elements.patterns, minlength=len(values)).astype(np.float64)
    if dtype == np.float16:  # 0.0 stands for -0.0 too
        masses[0] += masses[PATTERNS // 2]
        masses[PATTERNS // 2] = 0.0
    used = np.flatnonzero(masses)
    used = used[np.argsort(values[used])]
    return _made(name, dtype, elements, values[used], masses[used])


@cache
def values_of_patterns(dtype: np.dtype) -> np.ndarray:
    """float64, of every pattern of the bits of float16, int8 or uint8."""
    if dtype == np.float16:
        return HALF_VALUES
    return np.arange(1 << 8, dtype=np.uint8).view(dtype).astype(np.float64)


def _made(
    name: str, dtype: np.dtype, elements: Elements, values: np.ndarray, weights: np.ndarray, exact: bool = True
) -> Distribution:
    signal = float(np.sum(weights * values * values))
    return Distribution(name, values + 0.0, weights, dtype, len(elements.stored), signal, exact)


def _general(name: str, dtype: np.dtype, elements: Elements, scales: np.ndarray, nbits: int) -> Distribution:
    relative = scales / scales.max()
    size = len(elements.values)
    first = Elements(elements.stored[:_SAMPLE], elements.channels[:_SAMPLE], elements.weights)
    if size > EXACT_SIZE and len(np.unique(quotients(first, scales))) > _SAMPLE // 4:
        return _in_cells(name, dtype, elements, scales, relative, min(CELLS, PER_ENTRY << nbits))
    weights = np.square(relative)[elements.channels] if elements.channels.size else np.ones(size)
    if elements.weights.size:
        weights *= elements.weights
    values, inverse = np.unique(quotients(elements, scales), return_inverse=True)
    return _made(name, dtype, elements, values, np.bincount(inverse, np.maximum(weights, _LEAST)))


def _in_cells(
    name: str, dtype: np.dtype, elements: Elements, scales: np.ndarray, relative: np.ndarray, most: int
) -> Distribution:
    """In about ``most`` cells."""
    values, channels, weights = frozen(elements.values), frozen(elements.channels), frozen(elements.weights)
    buckets, ends = np.zeros(PATTERNS, np.int64), np.zeros(2, np.int64)
    _count_buckets(values, channels, scales, buckets, ends)
    base, shift, cells = cell_layout(buckets, most)
    moments = np.zeros((cells + 2, 2))
    _fill_cells(values, channels, weights, scales, np.maximum(relative * relative, _LEAST), ends, base, shift, moments)
    masses, sums = moments[moments[:, 0] > 0.0].T
    return _made(name, dtype, elements, *merged(sums / masses, masses), exact=False)


@compiled
def _add_weights(patterns, weights, masses):  # type: ignore[no-untyped-def]
    """Add the weight of every pattern to ``masses``."""
    for i in range(len(patterns)):
        masses[patterns[i]] += max(weights[i], _LEAST)


@compiled
def _quotients(values, channels, scales, start, out):  # type: ignore[no-untyped-def]
    """Fill ``out`` with values from ``start`` on, divided by their scales; returns how many."""
    count = min(len(out), len(values) - start)
    for i in range(count):
        channel = channels[start + i] if len(channels) else 0
        out[i] = values[start + i] / scales[channel] + 0.0
    return count


@compiled
def _count_buckets(values, channels, scales, buckets, ends):  # type: ignore[no-untyped-def]
    """Count the upper 16 bits of the quotients as float32; ``ends``: positions of the least and the greatest."""
    x, single = np.empty(RUN), np.empty(RUN, np.float32)
    low, high = np.inf, -np.inf
    for start in range(0, len(values), RUN):
        count = _quotients(values, channels, scales, start, x)
        for i in range(count):
            single[i] = x[i]
            if x[i] < low:
                low = x[i]
                ends[0] = start + i
            if x[i] > high:
                high = x[i]
                ends[1] = start + i
        bits = single.view(np.uint32)
        for i in range(count):
            buckets[bits[i] >> np.uint32(16)] += 1


@compiled
def _fill_cells(values, channels, weights, scales, squares, ends, base, shift, moments):  # type: ignore[no-untyped-def]
    """Add weights (times ``squares``, one per channel) and weighted quotients to the rows of their cells.

    For the cells see ``counting.count_cells``; the ends go to the last two. Both sums of a cell lie next to each other:
    cells come in no order.
    """
    x, single = np.empty(RUN), np.empty(RUN, np.float32)
    bits = single.view(np.uint32)
    for start in range(0, len(values), RUN):
        count = _quotients(values, channels, scales, start, x)
        for i in range(count):
            single[i] = x[i]
        for i in range(count):
            if start + i == ends[0]:
                cell = len(moments) - 2
            elif start + i == ends[1]:
                cell = len(moments) - 1
            else:
                cell = cell_of(bits[i], base, shift)
            weight = squares[channels[start + i]] if len(channels) else squares[0]
            if len(weights):
                weight = max(weight * weights[start + i], _LEAST)
            moments[np.uintp(cell), 0] += weight
            moments[np.uintp(cell), 1] += weight * x[i]
