"""Fewer points that stand for many, compiled (numba, without the GIL, every sum in a fixed order).

Half of a point's chance is its share in the weight, half its share in the variance, so that outliers and tails have
their points; weights make up for that (lightweight coresets: Bachem, Lucic, Krause 2018).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from mil_palettize.algorithms.compiled.jit import compiled
from mil_palettize.algorithms.compiled.seeding import stratified

# Points, float64 (n, dim), and positive weights, (n,) or for each coordinate (n, dim).
Windows = Iterable[tuple[np.ndarray, np.ndarray]]


@compiled
def _add(points, weights, sums):  # type: ignore[no-untyped-def]
    """Add weighted points to ``sums`` (dim,); returns their weight."""
    total = 0.0
    for i in range(points.shape[0]):
        total += weights[i]
        for t in range(points.shape[1]):
            sums[t] += weights[i] * points[i, t]
    return total


@compiled
def _square(points, i, mean):  # type: ignore[no-untyped-def]
    total = 0.0
    for t in range(points.shape[1]):
        total += (points[i, t] - mean[t]) ** 2
    return total


@compiled
def _variance(points, weights, mean):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(points.shape[0]):
        total += weights[i] * _square(points, i, mean)
    return total


@compiled
def _draw(points, weights, mean, by_weight, by_square, picks, below, drawn):  # type: ignore[no-untyped-def]
    """Fill ``drawn`` (n,) with what multiplies weights: 0 but for points whose chances hold some of the sorted
    ``picks``.

    ``below``: the sum of the chances before these points; returns it with theirs.
    """
    position = np.searchsorted(picks, below)
    for i in range(points.shape[0]):
        chance = weights[i] * (by_weight + by_square * _square(points, i, mean))
        below += chance
        times = 0
        while position < len(picks) and picks[position] < below:
            position += 1
            times += 1
        drawn[i] = times / chance
    return below


def coreset(windows: Callable[[], Windows], dim: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """At most ``size`` of the points and their new weights, of the shape they had; always the same.

    Goes over ``windows()`` three times. The points are not all the same.
    """
    total, variance, sums = 0.0, 0.0, np.zeros(dim)
    for points, weights in windows():
        total += _add(points, _of_points(weights), sums)
    mean = sums / total
    for points, weights in windows():
        variance += _variance(points, _of_points(weights), mean)
    picks = np.empty(size)
    stratified(2.0, picks)
    chosen, new_weights, below = [], [], 0.0
    for points, weights in windows():
        drawn = np.empty(len(points))
        below = _draw(points, _of_points(weights), mean, 1 / total, 1 / variance, picks, below, drawn)
        kept = drawn > 0
        chosen.append(points[kept])
        new_weights.append((weights[kept].T * drawn[kept]).T)
    return np.concatenate(chosen), np.ascontiguousarray(np.concatenate(new_weights))


def _of_points(weights: np.ndarray) -> np.ndarray:
    """(n,): means over coordinates."""
    return weights if weights.ndim == 1 else weights.mean(axis=1)
