"""Compiled loops (numba, without the GIL) that turn arrays into sorted distinct values and their counts.

A float16 is counted by its bit pattern. A float32 is sorted (``sorting``), or counted in cells of its bit pattern.

Bounds: patterns are uint16 and index tables of 65,536; distinct values of a row are at most its elements, for which
callers make room. Only :func:`count_cells` indexes by what an earlier pass over a file has found, and checks it.
"""

from __future__ import annotations

import numpy as np

from mil_palettize.algorithms.compiled.jit import compiled, inlined

PATTERNS = 1 << 16
RUN = 4096  # elements treated together: their indices stay in the first-level cache; a multiple of 8
SINGLE = 255  # in place of a shift: every element by itself
NEAR = 13  # cells, as a power of two, whose sums are in a second-level cache together
MARKS = 1 << 23  # bits that distinct values are marked in: few enough for a second-level cache
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
def count_buckets(bits, buckets):  # type: ignore[no-untyped-def]
    """Add the upper 16 bits of float32 patterns (uint32) to the int64 histogram ``buckets`` of 65,536 bins."""
    for i in range(len(bits)):
        buckets[bits[i] >> np.uint32(16)] += 1


@compiled
def count_marks(window, marks, found, most):  # type: ignore[no-untyped-def]
    """Mark float32 values in a small table of bits, uint8 (``MARKS // 8``,); returns how many are set.

    So many values at least are distinct, ``found`` of them before. Gives up, and returns more than ``most``, as soon
    as there are more. -0.0 counts as 0.0.
    """
    patterns = window.view(np.uint32)
    for i in range(len(window)):
        pattern = patterns[i] if window[i] != 0.0 else np.uint32(0)
        place = ((pattern * np.uint32(0x9E3779B1)) >> np.uint32(8)) & np.uint32(MARKS - 1)
        bit = np.uint8(1) << np.uint8(place & np.uint32(7))
        before = marks[place >> np.uint32(3)]
        if not before & bit:
            found += 1
            if found > most:
                return found
            marks[place >> np.uint32(3)] = before | bit
    return found


@compiled
def count_distinct(window, keys, counts, found, most):  # type: ignore[no-untyped-def]
    """Count float32 values in a hash table of their bit patterns; returns how many are distinct, ``found`` before.

    ``keys`` (uint32) and ``counts`` (int64, 0 where a slot is free): a power of two of slots, at least twice ``most``.
    Gives up, and returns more than ``most``, as soon as there are more. -0.0 counts as 0.0.
    """
    patterns = window.view(np.uint32)
    last = np.uint32(len(keys) - 1)
    for i in range(len(window)):
        pattern = patterns[i] if window[i] != 0.0 else np.uint32(0)
        slot = ((pattern * np.uint32(0x9E3779B1)) >> np.uint32(8)) & last
        while counts[slot] and keys[slot] != pattern:
            slot = (slot + np.uint32(1)) & last
        if counts[slot] == 0:
            found += 1
            if found > most:
                return found
            keys[slot] = pattern
        counts[slot] += 1
    return found


@compiled
def sums_of_squares(values, weights, offsets, sums):  # type: ignore[no-untyped-def]
    """Weighted sum of squares of each group ``offsets[g] .. offsets[g + 1] - 1``, in order."""
    for group in range(len(sums)):
        total = 0.0
        for i in range(offsets[group], offsets[group + 1]):
            total += weights[i] * values[i] * values[i]
        sums[group] = total


@inlined
def cell_of(pattern, base, shift):  # type: ignore[no-untyped-def]
    """The cell of a float32 pattern; moves ``base`` where elements have cells of their own. See ``count_cells``."""
    bucket = pattern >> np.uint32(16)
    if shift[bucket] == SINGLE:
        cell = base[bucket]
        base[bucket] += 1
        return cell
    low = pattern & np.uint32(0xFFFF)
    if bucket >= 32768:
        low = np.uint32(0xFFFF) - low
    return base[bucket] + np.int64(low >> shift[bucket])


@compiled
def count_cells(window, base, shift, sums, signal):  # type: ignore[no-untyped-def]
    """Add float32 values to cells: to ``sums``, float64 (n, 2), how many and their sum; returns the sum of squares,
    continued from ``signal``: windows but the last hold whole runs, for sums that do not depend on them.

    The upper 16 bits of a pattern name a bucket, whose first cell is ``base``; the lower 16, shifted right by
    ``shift``, a cell. Where ``shift`` is ``SINGLE`` every element has a cell of its own, and ``base`` moves on to the
    next. Elements are brought together by the neighbourhood of their cells first, so that the sums that are at work fit
    into a second-level cache; those of one cell stay in the order of the window.

    Values that were not there when the cells were laid out are left out where no cell is theirs: the file has changed,
    which the caller's source finds at its end.
    """
    size = len(window)
    cells, gathered, values = np.empty(size, np.int32), np.empty(size, np.int32), np.empty(size, np.float32)
    bits = window.view(np.uint32)
    for i in range(size):
        cells[i] = min(cell_of(bits[i], base, shift), len(sums))  # the last for those without one
    ends = np.zeros((len(sums) >> NEAR) + 2, np.int64)
    for i in range(size):
        ends[(cells[i] >> NEAR) + 1] += 1
    for i in range(1, len(ends)):
        ends[i] += ends[i - 1]
    for start in range(0, size, RUN):
        part = 0.0  # each run is summed from zero: a long sum of equal terms rounds the same way every time
        for i in range(start, min(start + RUN, size)):
            near = cells[i] >> NEAR
            place = ends[near]
            ends[near] += 1
            gathered[place] = cells[i]
            values[place] = window[i]
            value = np.float64(window[i])
            part += value * value
        signal += part
    for i in range(size):
        if gathered[i] < len(sums):
            sums[gathered[i], 0] += 1.0
            sums[gathered[i], 1] += values[i]
    return signal


@compiled
def cell_means(sums, low, high, values, weights):  # type: ignore[no-untyped-def]
    """Fill ``values`` with the means of ascending occupied cells, and ``weights`` with their counts; returns how many.

    One element each of the extremes ``low`` and ``high`` stands for itself, so that there is room for two more. Cells
    of the same mean become one. Changes ``sums``.
    """
    first, last = 0, len(sums) - 1
    while sums[first, 0] == 0.0:
        first += 1
    while sums[last, 0] == 0.0:
        last -= 1
    sums[first, 0] -= 1.0
    sums[first, 1] -= low
    sums[last, 0] -= 1.0
    sums[last, 1] -= high
    values[0], weights[0] = low, 1.0
    filled = 1
    for cell in range(first, last + 1):
        if sums[cell, 0] > 0.0:
            mean = min(max(sums[cell, 1] / sums[cell, 0], low), high)
            if mean != values[filled - 1]:
                values[filled], weights[filled] = mean, 0.0
                filled += 1
            weights[filled - 1] += sums[cell, 0]
    if high != values[filled - 1]:
        values[filled], weights[filled] = high, 0.0
        filled += 1
    weights[filled - 1] += 1.0
    return filled
