"""How well a table of vectors fits the vectors it stands for, by what its entries decode to."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mil_palettize.algorithms.compiled.lloyd import assign
from mil_palettize.algorithms.quantized_grid import Grid
from mil_palettize.algorithms.vector.counted_vectors import CountedVectors


@dataclass(frozen=True, eq=False)
class Table:
    """``values``: what the entries are, float64 (entries, dim), numbers that the table's dtype holds. ``grid`` and
    ``codes`` (int64, of the same shape): of a quantized table."""

    values: np.ndarray
    grid: Grid | None = None
    codes: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Fit:
    """``indices``: uint8, of each vector. ``error``: sum of importance times ``(w - decoded)**2``, ``signal`` of
    importance times ``w**2``. ``means`` and ``masses``, (entries, dim): of the vectors of each entry, the entry itself
    and 0 where it has none. ``cross`` and ``power``, (channels,): sums of importance times ``w * entry`` and
    ``entry**2`` for scales of least squares, empty without scales."""

    table: Table
    indices: np.ndarray
    error: float
    signal: float
    means: np.ndarray
    masses: np.ndarray
    cross: np.ndarray
    power: np.ndarray


def fit(vectors: CountedVectors, table: Table, given: np.ndarray | None = None) -> Fit:
    """The entries nearest to the vectors (divided by their scales, before products are rounded), ties to the lower; or
    with ``given`` indices (uint8)."""
    distinct, of_distinct = np.unique(table.values, axis=0, return_index=True)
    one = vectors.weights(np.arange(0))
    masses, sums = np.zeros((len(distinct), *one.shape[1:])), np.zeros(distinct.shape)
    indices = np.empty(vectors.count, np.uint8) if given is None else given
    channels = 0 if vectors.scales is None else len(vectors.scales)
    cross, power = np.zeros(channels), np.zeros(channels)
    errors, signals = [], []
    for start, points, weights in vectors.windows(0, vectors.count):
        part = slice(start, start + len(points))
        if given is None:
            nearest = np.empty(len(points), np.int32)
            assign(points, weights, distinct, nearest, masses, sums)
            indices[part] = of_distinct[nearest]
        chosen = table.values[indices[part]]
        error, signal = _add(vectors, part, chosen, cross, power)
        errors.append(error)
        signals.append(signal)
    means, of_each = table.values.copy(), np.zeros(table.values.shape)
    of_coordinates = masses if masses.ndim == 2 else np.repeat(masses[:, None], vectors.dim, axis=1)
    used = of_coordinates[:, 0] > 0
    means[of_distinct[used]] = sums[used] / of_coordinates[used]
    of_each[of_distinct] = of_coordinates
    return Fit(table, indices, math.fsum(errors), math.fsum(signals), means, of_each, cross, power)


def _add(
    vectors: CountedVectors, part: slice, chosen: np.ndarray, cross: np.ndarray, power: np.ndarray
) -> tuple[float, float]:
    """Error and signal of some vectors with these entries; adds to ``cross`` and ``power``."""
    picks = np.arange(part.start, part.stop)
    elements = vectors.elements[part].astype(np.float64)
    importance = 1.0 if vectors.importance is None else vectors.importance[part]
    difference = elements - vectors.decoded(chosen, picks)
    if len(cross):
        cross += vectors.per_channel(importance * elements * chosen, picks)
        power += vectors.per_channel(importance * chosen * chosen, picks)
    return float(np.sum(importance * difference * difference)), float(np.sum(importance * elements * elements))
