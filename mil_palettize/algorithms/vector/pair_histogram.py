"""A joint histogram of pairs: their k-means does not depend on how many there are."""

from __future__ import annotations

import numpy as np

from mil_palettize.algorithms.compiled.jit import compiled
from mil_palettize.algorithms.compiled.lloyd import add_mass, weight_of
from mil_palettize.algorithms.vector.vectors import VectorSet

_KEYS = 1 << 16  # upper halves of float32 patterns
_ASCENDING = np.concatenate([np.arange(_KEYS - 1, _KEYS // 2 - 1, -1), np.arange(_KEYS // 2)])


@compiled
def _count(points, weights, keys, bins, across, masses, sums):  # type: ignore[no-untyped-def]
    """Add pairs (n, 2) to the masses (cells,) or (cells, 2) and sums (cells, 2) of their cells, ``across`` of them in
    each direction; ``keys``: uint16 (n, 2)."""
    for i in range(points.shape[0]):
        cell = bins[keys[i, 0]] * across + bins[keys[i, 1]]
        add_mass(masses, cell, weights, i)
        sums[cell, 0] += weight_of(weights, i, 0) * points[i, 0]
        sums[cell, 1] += weight_of(weights, i, 1) * points[i, 1]


def cell_means(pairs: VectorSet, sample: np.ndarray, across: int) -> tuple[np.ndarray, np.ndarray]:
    """Means (n, 2) and weights of the occupied cells, (n,), or (n, 2) where those of coordinates differ; float64, n at
    most ``across**2``.

    Cells are products of bins in proportion to density**(1/3) of the coordinates of ``sample`` (m, 2), as steps of an
    optimal quantizer are: outliers do not make them coarse.
    """
    bins = _bins(sample, across)
    of_each = pairs.weights(np.arange(1)).shape[1:]

    def work(first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        masses, sums = np.zeros((across**2, *of_each)), np.zeros((across**2, 2))
        for _, points, weights in pairs.windows(first, last):
            _count(points, weights, _keys(points), bins, across, masses, sums)
        return masses, sums

    parts = pairs.over_spans(work)
    masses, sums = sum(part[0] for part in parts), sum(part[1] for part in parts)
    used = masses.reshape(len(sums), -1)[:, 0] > 0
    return sums[used] / masses[used].reshape(-1, *(of_each or (1,))), masses[used]


def _keys(points: np.ndarray) -> np.ndarray:
    return (points.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def _bins(sample: np.ndarray, across: int) -> np.ndarray:
    """The bin of each key, int64; bins ascend with the values."""
    counts = np.bincount(_keys(sample).reshape(-1), minlength=_KEYS)[_ASCENDING]
    with np.errstate(invalid="ignore"):  # patterns of NaN
        values = (_ASCENDING.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    used = np.flatnonzero(counts)
    share = np.zeros(_KEYS)
    share[used] = np.cbrt(values[used + 1] - values[used]) ** 2 * np.cbrt(counts[used])
    share[~np.isfinite(share)] = 0.0  # next to infinity
    total = np.cumsum(share)
    bins = np.empty(_KEYS, np.int64)
    bins[_ASCENDING] = np.minimum(total / max(total[-1], 1e-300) * across, across - 1)
    return bins
