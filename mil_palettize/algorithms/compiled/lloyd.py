"""Lloyd's k-means of weighted vectors, compiled (numba, without the GIL, every sum in a fixed order).

``points``: float64 (n, dim); ``weights``: float64 (n,), positive; ``centers``: float64 (k, dim); ``codes``: int32
(n,), the index of each point's center.

Every point is compared with every center, many points at a time, in loops that become vector instructions. Up to 256
centers of a few coordinates that is quicker than bounds that rule centers out (Hamerly 2010), which were tried.
"""

from __future__ import annotations

import numpy as np

from mil_palettize.algorithms.compiled.jit import compiled

STRIDE = 1.6  # centers move farther than to the mean: about half as many steps, and it leaves shallow minima
_BLOCK = 256  # points that are compared together: they stay in the first-level cache


@compiled
def squared_distance(points, i, others, j):  # type: ignore[no-untyped-def]
    """Of ``points[i]`` and ``others[j]``."""
    total = 0.0
    for t in range(points.shape[1]):
        difference = points[i, t] - others[j, t]
        total += difference * difference
    return total


@compiled
def _distances(coordinates, size, centers, j, distances):  # type: ignore[no-untyped-def]
    """Fill the squared distances of ``size`` points, given by coordinate (dim, at least size), from center j."""
    for p in range(size):
        difference = coordinates[0, p] - centers[j, 0]
        distances[p] = difference * difference
    for t in range(1, coordinates.shape[0]):
        for p in range(size):
            difference = coordinates[t, p] - centers[j, t]
            distances[p] += difference * difference


@compiled
def assign(points, weights, centers, codes, masses, sums):  # type: ignore[no-untyped-def]
    """Fill ``codes`` with the exactly nearest centers, ties to the lower; returns the weighted squared error.

    Adds the points to ``masses`` (k,) and ``sums`` (k, dim) of their centers. Loops over many points at a time become
    vector instructions, which makes comparing everything quicker than choosing what to compare.
    """
    n, dim = points.shape
    coordinates, distances = np.empty((dim, _BLOCK)), np.empty(_BLOCK)
    least, best = np.empty(_BLOCK), np.empty(_BLOCK, np.int64)
    error = 0.0
    for start in range(0, n, _BLOCK):
        size = min(_BLOCK, n - start)
        for p in range(size):
            for t in range(dim):
                coordinates[t, p] = points[start + p, t]
        least[:] = np.inf
        best[:] = 0
        for j in range(centers.shape[0]):
            _distances(coordinates, size, centers, j, distances)
            for p in range(size):
                nearer = distances[p] < least[p]
                least[p] = distances[p] if nearer else least[p]
                best[p] = j if nearer else best[p]
        for p in range(size):
            weight, j = weights[start + p], best[p]
            codes[start + p] = j
            error += weight * least[p]
            masses[j] += weight
            for t in range(dim):
                sums[j, t] += weight * points[start + p, t]
    return error


@compiled
def move(centers, masses, sums, stride):  # type: ignore[no-untyped-def]
    """Move centers by ``stride`` of the way to the means of their points; returns the sum of mass by squared way."""
    gain = 0.0
    for j in range(centers.shape[0]):
        if masses[j] > 0.0:
            for t in range(centers.shape[1]):
                way = (sums[j, t] / masses[j] - centers[j, t]) * stride
                gain += masses[j] * way * way
                centers[j, t] += way
    return gain


@compiled
def _refill(points, weights, centers, codes, masses):  # type: ignore[no-untyped-def]
    """Move every center without points to the point that adds most to the error."""
    for j in range(len(masses)):
        if masses[j] > 0.0:
            continue
        far, most = -1, 0.0
        for i in range(points.shape[0]):
            value = weights[i] * squared_distance(points, i, centers, codes[i])
            if value > most:
                far, most = i, value
        if far < 0:
            return
        codes[far] = j
        centers[j] = points[far]


@compiled
def lloyd(points, weights, centers, codes, steps, tolerance):  # type: ignore[no-untyped-def]
    """At most ``steps`` steps, until one gains less than ``tolerance`` of the error; returns the squared error.

    Moves ``centers`` to the means of their points, and fills ``codes``. Centers without points move to one far from its
    own center.
    """
    masses, sums = np.empty(len(centers)), np.empty(centers.shape)
    for _ in range(steps):
        masses[:] = 0.0
        sums[:] = 0.0
        error = assign(points, weights, centers, codes, masses, sums)
        gain = move(centers, masses, sums, STRIDE)
        if masses.min() == 0.0:
            _refill(points, weights, centers, codes, masses)
        elif gain <= tolerance * error:
            break
    masses[:] = 0.0
    sums[:] = 0.0
    assign(points, weights, centers, codes, masses, sums)
    move(centers, masses, sums, 1.0)
    return assign(points, weights, centers, codes, masses, sums)
