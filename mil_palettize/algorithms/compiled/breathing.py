"""Breathing k-means (Fritzke 2020), compiled: centers are added where the error is large and as many taken away where
they are worth least, as long as that helps. It leaves the local optima that Lloyd's steps end in.

Arguments as in ``lloyd``.
"""

from __future__ import annotations

import numpy as np

from mil_palettize.algorithms.compiled.jit import compiled
from mil_palettize.algorithms.compiled.lloyd import cost_of, lloyd, weight_of

_TOLERANCE = 1e-3  # of Lloyd's steps in between
_GAIN = 1e-5  # part of the error that a breath has to gain


@compiled
def _spreads(points, weights, centers, codes, spreads):  # type: ignore[no-untyped-def]
    """Fill ``spreads`` (k, dim) with the squared error of each center in each coordinate."""
    spreads[:] = 0.0
    for i in range(points.shape[0]):
        j = codes[i]
        for t in range(points.shape[1]):
            difference = points[i, t] - centers[j, t]
            spreads[j, t] += weight_of(weights, i, t) * difference * difference


@compiled
def _add_centers(points, weights, centers, codes, wider):  # type: ignore[no-untyped-def]
    """Fill ``wider`` (more than k) with the centers, those of the largest errors twice: apart along the coordinate of
    their largest spread."""
    k, dim = centers.shape
    spreads, masses = np.empty((k, dim)), np.zeros((k, dim))
    _spreads(points, weights, centers, codes, spreads)
    for i in range(points.shape[0]):
        for t in range(dim):
            masses[codes[i], t] += weight_of(weights, i, t)
    errors = np.zeros(k)
    for j in range(k):
        errors[j] = spreads[j].sum()
    wider[:k] = centers
    order = np.argsort(-errors)
    for new in range(k, len(wider)):
        old = order[new - k]
        widest = np.argmax(spreads[old])
        way = np.sqrt(spreads[old, widest] / masses[old, widest]) if masses[old, widest] > 0.0 else 0.0
        wider[new] = centers[old]
        wider[new, widest] += way
        wider[old, widest] -= way


@compiled
def _take_away(points, weights, wider, codes, centers):  # type: ignore[no-untyped-def]
    """Fill ``centers`` (k, dim) with those of ``wider`` whose points are not near another one; of two neighbours only
    one goes."""
    many, k = len(wider), len(centers)
    near = np.empty((many, 2), np.int64)  # the nearest neighbours of each center
    for j in range(many):
        first, second = np.inf, np.inf
        near[j] = j
        for other in range(many):
            if other != j:
                distance = 0.0
                for t in range(wider.shape[1]):
                    distance += (wider[j, t] - wider[other, t]) ** 2
                if distance < first:
                    first, second = distance, first
                    near[j, 1], near[j, 0] = near[j, 0], other
                elif distance < second:
                    second = distance
                    near[j, 1] = other
    worth = np.zeros(many)
    for i in range(points.shape[0]):
        j, least = codes[i], np.inf
        for other in range(many):
            if other != j:
                least = min(least, cost_of(points, weights, i, wider, other))
        worth[j] += least - cost_of(points, weights, i, wider, j)
    order = np.argsort(worth)
    gone, frozen = np.zeros(many, np.bool_), np.zeros(many, np.bool_)
    left = many - k
    for position in range(2 * many):  # the second time round neighbours go as well
        j = order[position % many]
        if left == 0:
            break
        if not gone[j] and (position >= many or not frozen[j]):
            gone[j] = True
            frozen[near[j, 0]] = True
            frozen[near[j, 1]] = True
            left -= 1
    filled = 0
    for j in range(many):
        if not gone[j]:
            centers[filled] = wider[j]
            filled += 1


@compiled
def breathe(points, weights, centers, codes, most, steps):  # type: ignore[no-untyped-def]
    """Improve ``centers``; returns the squared error. ``most``: centers of the first breath, fewer after each that did
    not help; ``steps``: of Lloyd after each change, at most."""
    best = lloyd(points, weights, centers, codes, steps, _TOLERANCE)
    k, count = len(centers), min(most, len(centers))
    tried, tried_codes = np.empty(centers.shape), np.empty(len(codes), np.int32)
    while count > 0:
        wider = np.empty((k + count, centers.shape[1]))
        _add_centers(points, weights, centers, codes, wider)
        lloyd(points, weights, wider, tried_codes, steps, _TOLERANCE)
        _take_away(points, weights, wider, tried_codes, tried)
        error = lloyd(points, weights, tried, tried_codes, steps, _TOLERANCE)
        if error < best * (1.0 - _GAIN):
            best = error
            centers[:] = tried
            codes[:] = tried_codes
        else:
            count //= 2
    return best
