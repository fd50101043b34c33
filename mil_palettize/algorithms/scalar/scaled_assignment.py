"""Indices and errors by what an entry decodes to: its product with a scale, rounded once to the weight's dtype."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mil_palettize.algorithms.compiled.assignment import CELLS, assign_weighted, guide, position
from mil_palettize.algorithms.compiled.counting import RUN
from mil_palettize.algorithms.compiled.jit import compiled
from mil_palettize.algorithms.compiled.monge import HALF, stored
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


@compiled
def _decoded(entry, scale, half):  # type: ignore[no-untyped-def]
    """The product as float16 or float32 (exact products of these are float64)."""
    product = entry * scale
    if not half:
        return np.float64(np.float32(product))
    value = stored(product, HALF)
    return value if abs(value) <= 65504.0 else np.copysign(np.inf, value)


@compiled
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


@compiled
def _fit(values, channels, weights, scales, table, used, half, indices, cross, power):  # type: ignore[no-untyped-def]
    """Fill ``indices`` with nearest entries, where ``used`` is not 0; add to ``cross`` and ``power``.

    Returns the error and the signal. Each run is summed from zero: a long sum of equal terms rounds the same way.
    """
    error, signal = 0.0, 0.0
    middles, first = np.full(len(table) - 1, np.inf), np.empty(CELLS * len(table) + 1, np.uint8)
    for i in range(used - 1):
        middles[i] = (table[i] + table[i + 1]) * 0.5
    lowest, cells_per_value = guide(middles, max(used, 1), first)
    for start in range(0, len(values), RUN):
        run_error, run_signal = 0.0, 0.0
        for i in range(start, min(start + RUN, len(values))):
            value = np.float64(values[i])
            channel = channels[i] if len(channels) else 0
            weight = weights[i] if len(weights) else 1.0
            if used:
                near = position(value / scales[channel], middles, first, lowest, cells_per_value)
                indices[i] = _nearest(value, scales[channel], table, used, half, near)
            entry = table[indices[i]]
            difference = value - _decoded(entry, scales[channel], half)
            run_error += weight * difference * difference
            run_signal += weight * value * value
            cross[channel] += weight * value * entry
            power[channel] += weight * entry * entry
        error += run_error
        signal += run_signal
    return error, signal


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
