"""Indices and errors by what an entry decodes to: its product with a scale, rounded once to the weight's dtype."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mil_palettize.algorithms.compiled.assignment import CELLS, assign_weighted, guide, nearest_sorted, position
from mil_palettize.algorithms.compiled.counting import PATTERNS, RUN
from mil_palettize.algorithms.compiled.jit import compiled, inlined
from mil_palettize.algorithms.compiled.monge import HALF, stored
from mil_palettize.algorithms.distribution import Distribution
from mil_palettize.algorithms.scalar.counted_elements import Elements
from mil_palettize.algorithms.source import frozen


@dataclass(frozen=True)
class Fit:
    """How well a table fits its elements.

    ``error``: weighted sum of ``(w - decoded)**2``; ``signal``: of ``w**2``. ``cross`` and ``power``: float64, one per
    channel, sums of ``w * t`` and ``t**2`` with ``t`` the element's entry, for scales of least squares; 0 for entries
    that are nearest without a scale.
    """

    error: float
    signal: float
    cross: np.ndarray
    power: np.ndarray


@inlined
def _decoded(entry, scale, half):  # type: ignore[no-untyped-def]
    """The product as float16 or float32 (exact products of these are float64)."""
    product = entry * scale
    if not half:
        return np.float64(np.float32(product))
    value = stored(product, HALF)
    return value if abs(value) <= 65504.0 else np.copysign(np.inf, value)


@inlined
def _nearest(value, scale, table, used, half, low):  # type: ignore[no-untyped-def]
    """The entry that decodes nearest to ``value``, ties to the lower: a walk for the rounding from the entry ``low``,
    which is nearest to the quotient."""
    distance = abs(value - _decoded(table[low], scale, half))
    while low + 1 < used:
        other = abs(value - _decoded(table[low + 1], scale, half))
        if not other < distance:
            break
        low, distance = low + 1, other
    while low > 0:
        other = abs(value - _decoded(table[low - 1], scale, half))
        if other > distance:
            break
        low, distance = low - 1, other
    return low


@inlined
def _certain(scales, table, used, half, middles, low, high):  # type: ignore[no-untyped-def]
    """Fill ``low`` and ``high``: a quotient between these of an entry has it as its nearest, whatever rounding does.

    Both entries beside a middle move by at most half a unit in the last place, and by that of a subnormal number.
    """
    unit = 2.0**-10 if half else 2.0**-23  # twice what is needed, for what is lost in quotients
    least, most = scales.min(), scales.max()
    lost = (2.0**-24 if half else 2.0**-149) / least
    largest = max(abs(table[0]), abs(table[used - 1]))
    if largest * most > (65472.0 if half else 3.4e38):
        lost = np.inf  # an entry may decode to an infinity
    for i in range(used):
        low[i], high[i] = -np.inf, np.inf
        if i > 0:
            low[i] = middles[i - 1] + max(abs(table[i - 1]), abs(table[i])) * unit + lost
        if i + 1 < used:
            high[i] = middles[i] - max(abs(table[i]), abs(table[i + 1])) * unit - lost


@compiled
def _fit(values, channels, weights, scales, table, used, half, indices, cross, power):  # type: ignore[no-untyped-def]
    """Fill ``indices`` with nearest entries, where ``used`` is not 0; add to ``cross`` and ``power``.

    Returns the error and the signal. Each run is summed from zero: a long sum of equal terms rounds the same way.
    """
    error, signal = 0.0, 0.0
    middles, first = np.full(len(table) - 1, np.inf), np.empty(CELLS * len(table) + 1, np.uint8)
    low, high = np.empty(len(table)), np.empty(len(table))
    for i in range(used - 1):
        middles[i] = (table[i] + table[i + 1]) * 0.5
    lowest, cells_per_value = guide(middles, max(used, 1), first)
    if used:
        _certain(scales, table, used, half, middles, low, high)
    inverses = 1.0 / scales
    channel, scale, inverse, crossed, powered = 0, scales[0], inverses[0], cross[0], power[0]
    for start in range(0, len(values), RUN):
        run_error, run_signal = 0.0, 0.0
        for i in range(start, min(start + RUN, len(values))):
            value = np.float64(values[i])
            if len(channels) and channels[i] != channel:
                cross[channel], power[channel] = crossed, powered
                channel = channels[i]
                scale, inverse, crossed, powered = scales[channel], inverses[channel], cross[channel], power[channel]
            weight = weights[i] if len(weights) else 1.0
            index = np.int64(indices[i])
            if used:
                quotient = value * inverse
                index = position(quotient, middles, first, lowest, cells_per_value)
                if not low[index] < quotient < high[index]:
                    index = _nearest(value, scale, table, used, half, index)
                indices[i] = index
            entry = table[index]
            difference = value - _decoded(entry, scale, half)
            run_error += weight * difference * difference
            run_signal += weight * value * value
            crossed += weight * value * entry
            powered += weight * entry * entry
        error += run_error
        signal += run_signal
    cross[channel], power[channel] = crossed, powered
    return error, signal


@compiled
def _look_up(patterns, table, indices):  # type: ignore[no-untyped-def]
    """Fill ``indices`` with the ``table`` entries (uint8) of uint8 or uint16 patterns."""
    for i in range(len(patterns)):
        indices[i] = table[patterns[i]]


def fit_patterns(
    elements: Elements, distribution: Distribution, table: np.ndarray, used: int, indices: np.ndarray
) -> Fit:
    """Assign elements of at most 16 bits, without scales, to the first ``used`` (distinct, ascending) entries.

    ``distribution``: of these elements, exact. By a table from pattern to index, of which only the patterns that occur
    are filled.
    """
    nearest = np.empty(len(distribution.values), np.uint8)
    error = nearest_sorted(distribution.values, distribution.weights, table, used, nearest)
    patterns = elements.patterns
    of_patterns = np.empty(1 << 8 * patterns.itemsize, np.uint8)
    of_patterns[distribution.values.astype(elements.stored.dtype).view(patterns.dtype)] = nearest
    if elements.stored.dtype == np.float16:
        of_patterns[PATTERNS // 2] = of_patterns[0]
    _look_up(frozen(patterns), of_patterns, indices)
    return Fit(float(error), distribution.signal, np.zeros(1), np.zeros(1))


def fit(elements: Elements, scales: np.ndarray, table: np.ndarray, used: int, half: bool, indices: np.ndarray) -> Fit:
    """Assign the elements to the first ``used`` (distinct, ascending) entries, or with 0 take ``indices`` as they are.

    ``scales`` and ``table``: float64 numbers of the weight's dtype. ``half``: that is float16.
    """
    cross, power = np.zeros(len(scales)), np.zeros(len(scales))
    values, channels, weights = frozen(elements.values), frozen(elements.channels), frozen(elements.weights)
    table = np.ascontiguousarray(table)
    if used and len(scales) == 1 and scales[0] == 1.0:
        error, signal = assign_weighted(values, weights, table, used, indices)
        return Fit(float(error), float(signal), cross, power)
    error, signal = _fit(values, channels, weights, scales, table, used, half, indices, cross, power)
    return Fit(float(error), float(signal), cross, power)
