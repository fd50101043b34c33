"""Sorting float32 rows, compiled (numba, without the GIL): by digits of their bit patterns where rows are long.

Bounds: places are running counts of the row's own digits, below its length.
"""

from __future__ import annotations

import numpy as np

from mil_palettize.algorithms.compiled.jit import compiled, inlined

_DIGIT = 11  # bits: three digits make a pattern, and their counts fit into a first-level cache
_LONG = 2048  # elements from which on digits are quicker than comparisons


def sorted_rows(rows: np.ndarray) -> np.ndarray:
    """A copy of float32 ``rows`` (groups, size) with each row ascending; -0.0 before 0.0, NaNs at either end."""
    if rows.shape[1] < _LONG:
        return np.sort(rows, axis=1)
    ordered = np.array(rows, np.float32, order="C")
    keys, others = np.empty(rows.shape[1], np.uint32), np.empty(rows.shape[1], np.uint32)
    sort_by_digits(ordered.view(np.uint32), keys, others)
    return ordered


@inlined
def _places(counts):  # type: ignore[no-untyped-def]
    """Turn how often each digit occurs into where the first of each goes."""
    total = 0
    for digit in range(len(counts)):
        count = counts[digit]
        counts[digit] = total
        total += count


@compiled
def sort_by_digits(rows, keys, others):  # type: ignore[no-untyped-def]
    """Sort each row of float32 patterns (uint32) in place, by the value; ``keys``, ``others``: room for a row."""
    size = rows.shape[1]
    sign, digit = np.uint32(1 << 31), np.uint32((1 << _DIGIT) - 1)
    second, third = np.uint32(_DIGIT), np.uint32(2 * _DIGIT)
    for row in range(rows.shape[0]):
        low, middle, high = (
            np.zeros(1 << _DIGIT, np.int64),
            np.zeros(1 << _DIGIT, np.int64),
            np.zeros(1 << _DIGIT, np.int64),
        )
        for i in range(size):
            pattern = rows[row, i]
            key = ~pattern if pattern & sign else pattern | sign  # as unsigned numbers, keys ascend as the values do
            keys[i] = key
            low[key & digit] += 1
            middle[(key >> second) & digit] += 1
            high[key >> third] += 1
        _places(low)
        _places(middle)
        _places(high)
        for i in range(size):
            place = keys[i] & digit
            others[low[place]] = keys[i]
            low[place] += 1
        for i in range(size):
            place = (others[i] >> second) & digit
            keys[middle[place]] = others[i]
            middle[place] += 1
        for i in range(size):
            place = keys[i] >> third
            rows[row, high[place]] = keys[i] & ~sign if keys[i] & sign else ~keys[i]
            high[place] += 1
