"""Compiled loops (numba, without the GIL) that turn arrays into sorted distinct values and their counts.

A float16 is counted by its bit pattern. A float32 is sorted, or counted in cells of its bit pattern.

Bounds: patterns are uint16 and index tables of 65,536; distinct values of a row are at most its elements, for which
callers make room. Only :func:`count_cells` indexes by what an earlier pass over a file has found, and checks it.
"""

from __future__ import annotations

import numpy as np

from mil_palettize.algorithms.compiled.jit import compiled

PATTERNS = 1 << 16
RUN = 4096  # elements treated together: their indices stay in the first-level cache; a multiple of 8
SINGLE = 255  # in place of a shift: every element by itself
_BLOCK = 8  # patterns that are cleared and searched together

# All patterns from the most negative value (NaNs outside) to the most positive one; -0.0 comes just before 0.0.
ASCENDING = np.concatenate([np.arange(PATTERNS - 1, PATTERNS // 2 - 1, -1), np.arange(PATTERNS // 2)]).astype(np.uint16)
HALF_VALUES = np.arange(PATTERNS, dtype=np.uint16).view(np.float16).astype(np.float64)  # of each pattern


@compiled
def count_patterns(patterns, counts):  # type: ignore[no-untyped-def]
    """Add the uint16 ``patterns`` to the int64 histogram ``counts`` of 65,536 bins."""
    for i in range(len(patterns)):
        counts[patterns[i]] += 1


@compiled
def distinct_patterns(rows, half_values, values, weights, patterns, offsets):  # type: ignore[no-untyped-def]
    """Sorted distinct float16 values of each row of uint16 patterns (groups, size).

    Row g fills ``offsets[g] .. offsets[g + 1] - 1`` of values, weights (counts) and patterns; 0.0 stands for -0.0 too.
    The arrays have room for one element more than that.
    """
    counts = np.zeros(65536, np.int32)
    touched = np.zeros(65536 // _BLOCK, np.bool_)
    filled = 0
    offsets[0] = 0
    for row in range(rows.shape[0]):
        for i in range(rows.shape[1]):
            pattern = rows[row, i]
            counts[pattern] += 1
            touched[pattern // _BLOCK] = True
        counts[0] += counts[32768]
        counts[32768] = 0
        touched[0] = True
        for position in range(len(touched)):
            negative = position < len(touched) // 2
            block = len(touched) - 1 - position if negative else position - len(touched) // 2
            if not touched[block]:
                continue
            touched[block] = False
            for i in range(_BLOCK):
                pattern = block * _BLOCK + (_BLOCK - 1 - i if negative else i)
                values[filled] = half_values[pattern]  # kept only if it occurs: no branch to mispredict
                weights[filled] = counts[pattern]
                patterns[filled] = pattern
                filled += counts[pattern] != 0
                counts[pattern] = 0
        offsets[row + 1] = filled


@compiled
def distinct_sorted(rows, values, weights, offsets):  # type: ignore[no-untyped-def]
    """Distinct float32 values of each sorted row (groups, size), laid out as by ``distinct_patterns``."""
    filled = 0
    offsets[0] = 0
    for row in range(rows.shape[0]):
        for i in range(rows.shape[1]):
            if i == 0 or rows[row, i] != rows[row, i - 1]:
                values[filled] = rows[row, i] + 0.0
                weights[filled] = 0.0
                filled += 1
            weights[filled - 1] += 1.0
        offsets[row + 1] = filled


@compiled
def sums_of_squares(values, weights, offsets, sums):  # type: ignore[no-untyped-def]
    """Weighted sum of squares of each group ``offsets[g] .. offsets[g + 1] - 1``, in order."""
    for group in range(len(sums)):
        total = 0.0
        for i in range(offsets[group], offsets[group + 1]):
            total += weights[i] * values[i] * values[i]
        sums[group] = total


@compiled
def count_cells(window, base, shift, counts, sums, signal):  # type: ignore[no-untyped-def]
    """Add float32 bit patterns (uint32) to cells; returns the sum of squares, continued from ``signal``.

    The upper 16 bits name a bucket, whose first cell is ``base``; the lower 16, shifted right by ``shift``, a cell.
    Where ``shift`` is ``SINGLE`` every element has a cell of its own, and ``base`` moves on to the next. Windows but
    the last hold whole runs, for sums that do not depend on them. Values that were not there when the cells were laid
    out are left out where no cell is theirs: the file has changed, which the caller's source finds at its end.
    """
    floats = window.view(np.float32)
    for start in range(0, len(window), RUN):
        part = 0.0  # each run is summed from zero: a long sum of equal terms rounds the same way every time
        for i in range(start, min(start + RUN, len(window))):
            bucket = window[i] >> np.uint32(16)
            low = window[i] & np.uint32(0xFFFF)
            if bucket >= 32768:
                low = np.uint32(0xFFFF) - low
            if shift[bucket] == SINGLE:
                cell = base[bucket]
                base[bucket] += 1
            else:
                cell = base[bucket] + (low >> shift[bucket])
            if cell >= len(counts):
                continue
            value = np.float64(floats[i])
            counts[cell] += 1
            sums[cell] += value
            part += value * value
        signal += part
    return signal
