"""The nearest of many centers for each of many points, compiled (numba, without the GIL).

Every point is compared with every center, many points at a time, in loops that become vector instructions. Up to 256
centers of a few coordinates that is quicker than bounds that rule centers out (Hamerly 2010), which were tried.

Distances are computed in float32 first, twice as many at a time. Where the two least lie farther apart than rounding
can move them, the nearest center is known; otherwise it is found in float64. So the result is that of float64.

``coordinates``: float64 (dim, at least size), of ``size`` points; ``best``: int32 (at least size,), filled with the
index of the nearest of ``centers``, float64 (k, dim), the lower one of equals.
"""

from __future__ import annotations

import numpy as np

from mil_palettize.algorithms.compiled.jit import compiled, inlined

TOGETHER = 256  # points that are compared together: they stay in the first-level cache
_DOUBTFUL = 16  # points of so many in doubt, from which on all are looked at in float64
_ROUNDING = 2.0**-24  # of a float32, relative


@inlined
def _distances(coordinates, size, centers, j, distances):  # type: ignore[no-untyped-def]
    """Fill the squared distances of the points from center j."""
    for p in range(size):
        difference = coordinates[0, p] - centers[j, 0]
        distances[p] = difference * difference
    for t in range(1, coordinates.shape[0]):
        for p in range(size):
            difference = coordinates[t, p] - centers[j, t]
            distances[p] += difference * difference


@inlined
def _weighted_distances(coordinates, factors, size, centers, j, distances):  # type: ignore[no-untyped-def]
    """``_distances`` with the weights of the coordinates in ``factors``."""
    for p in range(size):
        difference = coordinates[0, p] - centers[j, 0]
        distances[p] = factors[0, p] * difference * difference
    for t in range(1, coordinates.shape[0]):
        for p in range(size):
            difference = coordinates[t, p] - centers[j, t]
            distances[p] += factors[t, p] * difference * difference


@inlined
def _two_least(coordinates, size, centers, distances, least, second, best):  # type: ignore[no-untyped-def]
    """Fill the least and the second least distance, all of them and the arguments float32."""
    for p in range(size):
        least[p], second[p], best[p] = np.inf, np.inf, 0
    for j in range(centers.shape[0]):
        _distances(coordinates, size, centers, j, distances)
        index = np.int32(j)
        for p in range(size):
            distance, before = distances[p], least[p]
            nearer = distance < before
            second[p] = min(second[p], before if nearer else distance)
            best[p] = index if nearer else best[p]
            least[p] = distance if nearer else before


@inlined
def _in_doubt(least, second, dim, largest):  # type: ignore[no-untyped-def]
    """Whether rounding can have turned two distances round. ``largest``: absolute value of a coordinate.

    A difference of coordinates is off by at most 4 roundings of the largest, so a squared distance d by twice that
    times the sum of absolute differences, which is at most sqrt(dim * d), by its square for each coordinate, and by
    a rounding of d for each operation. False only where all are numbers.
    """
    difference = 4.0 * _ROUNDING * largest
    one = 2.0 * difference * np.sqrt(dim * second) + dim * difference * difference + (dim + 2.0) * _ROUNDING * second
    return not second - least > 2.2 * one


@compiled
def nearest_quickly(coordinates, size, centers, narrow, best):  # type: ignore[no-untyped-def]
    """Fill ``best``; returns false where too many points are in doubt. ``narrow``: the centers in float32."""
    dim = coordinates.shape[0]
    rounded, distances = np.empty((dim, TOGETHER), np.float32), np.empty(TOGETHER, np.float32)
    least, second = np.empty(TOGETHER, np.float32), np.empty(TOGETHER, np.float32)
    largest = 0.0
    for j in range(centers.shape[0]):
        for t in range(dim):
            largest = max(largest, abs(centers[j, t]))
    for t in range(dim):
        for p in range(size):
            rounded[t, p] = coordinates[t, p]
            largest = max(largest, abs(coordinates[t, p]))
    _two_least(rounded, size, narrow, distances, least, second, best)
    doubtful = 0
    for p in range(size):
        if not _in_doubt(np.float64(least[p]), np.float64(second[p]), dim, largest):
            continue
        doubtful += 1
        if doubtful > _DOUBTFUL:
            return False
        nearest = np.inf
        for j in range(centers.shape[0]):
            distance = 0.0
            for t in range(dim):
                difference = coordinates[t, p] - centers[j, t]
                distance += difference * difference
            if distance < nearest:
                nearest = distance
                best[p] = j
    return True


@compiled
def nearest(coordinates, factors, size, centers, best):  # type: ignore[no-untyped-def]
    """Fill ``best``. ``factors``: weights of the coordinates, as these are laid out, or empty for none."""
    distances, least = np.empty(TOGETHER), np.empty(TOGETHER)
    for p in range(size):
        least[p], best[p] = np.inf, 0
    for j in range(centers.shape[0]):
        if factors.size:
            _weighted_distances(coordinates, factors, size, centers, j, distances)
        else:
            _distances(coordinates, size, centers, j, distances)
        index = np.int32(j)
        for p in range(size):
            nearer = distances[p] < least[p]
            least[p] = distances[p] if nearer else least[p]
            best[p] = index if nearer else best[p]
