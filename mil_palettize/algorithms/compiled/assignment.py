"""Nearest entries and packed indices, compiled (numba, without the GIL).

The nearest entry is found by comparing with midpoints of neighbouring entries, ties to the lower entry. The midpoint of
two float16 values is exact in float64. Only ``used`` (distinct) entries take part, never the repeats that fill a table.

Bounds: an index is at most ``used - 1`` whatever the value, NaN included, which compares false with everything; callers
slice ``packed`` by the number of elements of the window.
"""

from __future__ import annotations

import numpy as np

from mil_palettize.algorithms.compiled.counting import PATTERNS, RUN
from mil_palettize.algorithms.compiled.jit import compiled, inlined

CELLS = 16  # for each entry of a table, into which a value is sorted before it is compared with thresholds


@compiled
def nearest_sorted(values, weights, lut, used, indices):  # type: ignore[no-untyped-def]
    """Fill ``indices`` (uint8) for ascending float64 values; returns their weighted squared error."""
    total = 0.0
    index = 0
    for i in range(len(values)):
        while index + 1 < used and values[i] > (lut[index] + lut[index + 1]) * 0.5:
            index += 1
        indices[i] = index
        total += weights[i] * (values[i] - lut[index]) ** 2
    return total


@inlined
def _thresholds(lut, used, thresholds):  # type: ignore[no-untyped-def]
    """The greatest float32 not above each midpoint (then comparing float32 is exact); infinity beyond ``used``."""
    for i in range(len(thresholds)):
        thresholds[i] = np.inf
        if i + 1 < used:
            middle = (lut[i] + lut[i + 1]) * 0.5
            near = np.float32(middle)
            thresholds[i] = np.nextafter(near, np.float32(-np.inf)) if near > middle else near


@inlined
def _cell(value, low, scale, cells):  # type: ignore[no-untyped-def]
    """Which of ``cells`` equal parts from ``low`` on a value lies in; does not decrease with the value."""
    place = (np.float64(value) - low) * scale
    place = place if place > 0.0 else 0.0  # NaN too: its conversion could be any number
    return int(place if place < cells - 1.0 else cells - 1.0)


@inlined
def _guide(thresholds, used, first):  # type: ignore[no-untyped-def]
    """Fill ``first``: values of cell c have indices ``first[c] .. first[c + 1]``. Gives ``low`` and ``scale``.

    So many thresholds lie in cells before c, and are less than what lies in it, whatever rounding does.
    """
    cells = len(first) - 1
    low = np.float64(thresholds[0]) if used > 1 else 0.0
    width = np.float64(thresholds[used - 2]) - low if used > 2 else 0.0
    scale = cells / width if width > 0.0 else 0.0
    for cell in range(cells + 1):
        first[cell] = 0
    for i in range(used - 1):
        first[_cell(thresholds[i], low, scale, cells) + 1] += 1
    for cell in range(cells):
        first[cell + 1] += first[cell]
    return low, scale


@inlined
def _nearest_single(values, thresholds, lut, first, low, scale, indices):  # type: ignore[no-untyped-def]
    """Fill ``indices`` for float32 values by binary search in their cell; returns the squared error."""
    error = 0.0
    cells = len(first) - 1
    for i in range(len(values)):
        value = values[i]
        cell = _cell(value, low, scale, cells)
        index, last = np.int64(first[cell]), np.int64(first[cell + 1])
        while index < last:
            middle = (index + last) >> 1
            if value > thresholds[middle]:
                index = middle + 1
            else:
                last = middle
        indices[i] = index
        difference = np.float64(value) - lut[index]
        error += difference * difference
    return error


@inlined
def _pack(indices, nbits, packed):  # type: ignore[no-untyped-def]
    """Write uint8 indices below ``2**nbits`` without gaps, least significant bit first, into ``packed`` bytes."""
    n = len(indices)
    if nbits == 8:
        for i in range(n):
            packed[i] = indices[i]
        return
    whole = n // 8
    if nbits == 4:
        for i in range(whole * 4):
            packed[i] = indices[2 * i] | (indices[2 * i + 1] << 4)
    else:
        for i in range(whole):
            word = np.uint64(0)
            for j in range(8):
                word |= np.uint64(indices[8 * i + j]) << np.uint64(j * nbits)
            for j in range(nbits):
                packed[i * nbits + j] = (word >> np.uint64(8 * j)) & np.uint64(0xFF)
    word = np.uint64(0)
    for j in range(whole * 8, n):
        word |= np.uint64(indices[j]) << np.uint64((j - whole * 8) * nbits)
    for j in range(whole * nbits, len(packed)):
        packed[j] = word & np.uint64(0xFF)
        word >>= np.uint64(8)


@compiled
def encode_patterns(window, table, nbits, packed):  # type: ignore[no-untyped-def]
    """Packed ``table[pattern]`` (uint8, 65,536 entries) of uint16 patterns."""
    indices = np.empty(RUN, np.uint8)
    for start in range(0, len(window), RUN):
        stop = min(start + RUN, len(window))
        for i in range(start, stop):
            indices[i - start] = table[window[i]]
        _pack(indices[: stop - start], nbits, packed[start * nbits // 8 : (stop * nbits + 7) // 8])


@compiled
def encode_single(window, lut, used, nbits, packed, error):  # type: ignore[no-untyped-def]
    """Packed nearest entries of float32 values; returns the squared error, continued from ``error``.

    Each run is summed from zero: one long sum of equal terms would round the same way every time. Windows but the last
    hold whole runs, for sums that do not depend on them.
    """
    indices = np.empty(RUN, np.uint8)
    thresholds, first = np.empty(len(lut) - 1, np.float32), np.empty(CELLS * len(lut) + 1, np.uint8)
    _thresholds(lut, used, thresholds)
    low, scale = _guide(thresholds, used, first)
    for start in range(0, len(window), RUN):
        stop = min(start + RUN, len(window))
        error += _nearest_single(window[start:stop], thresholds, lut, first, low, scale, indices)
        _pack(indices[: stop - start], nbits, packed[start * nbits // 8 : (stop * nbits + 7) // 8])
    return error


@compiled
def pack_indices(indices, nbits, packed):  # type: ignore[no-untyped-def]
    """Pack uint8 indices below ``2**nbits``, least significant bit first."""
    _pack(indices, nbits, packed)


@compiled
def assign_patterns(rows, values, weights, patterns, offsets, luts, used, indices, errors):  # type: ignore[no-untyped-def]
    """Nearest entries of each row of uint16 patterns (groups, size), and each row's squared error.

    ``values`` .. ``offsets``: as filled by ``distinct_patterns``.
    """
    table = np.zeros(PATTERNS, np.uint8)
    nearest = np.empty(PATTERNS, np.uint8)
    for row in range(rows.shape[0]):
        first, last = offsets[row], offsets[row + 1]
        errors[row] = nearest_sorted(values[first:last], weights[first:last], luts[row], used[row], nearest)
        for i in range(first, last):
            table[patterns[i]] = nearest[i - first]
        table[32768] = table[0]
        for i in range(rows.shape[1]):
            indices[row, i] = table[rows[row, i]]


@compiled
def assign_single(rows, luts, used, indices, errors):  # type: ignore[no-untyped-def]
    """Nearest entries of each row of float32 values (groups, size), and each row's squared error."""
    thresholds, first = np.empty(luts.shape[1] - 1, np.float32), np.empty(CELLS * luts.shape[1] + 1, np.uint8)
    for row in range(rows.shape[0]):
        _thresholds(luts[row], used[row], thresholds)
        low, scale = _guide(thresholds, used[row], first)
        errors[row] = 0.0
        for start in range(0, rows.shape[1], RUN):
            stop = min(start + RUN, rows.shape[1])
            part = rows[row, start:stop]
            errors[row] += _nearest_single(part, thresholds, luts[row], first, low, scale, indices[row, start:stop])
