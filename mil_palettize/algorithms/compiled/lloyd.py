"""Lloyd's k-means of weighted vectors, compiled (numba, without the GIL, every sum in a fixed order).

``points``: float64 (n, dim); ``weights``: positive float64, (n,) for a number of each point or (n, dim) for one of each
coordinate, which is compiled apart; ``centers``: float64 (k, dim); ``codes``: int32 (n,), the index of each point's
center. ``masses``: sums of weights, (k,) or (k, dim); ``sums``: of weights times points, (k, dim).
"""

from __future__ import annotations

import numpy as np

from mil_palettize.algorithms.compiled.jit import compiled, inlined
from mil_palettize.algorithms.compiled.nearest import TOGETHER, nearest, nearest_quickly

STRIDE = 1.6  # centers move farther than to the mean: about half as many steps, and it leaves shallow minima


@inlined
def weight_of(weights, i, t):  # type: ignore[no-untyped-def]
    """The weight of coordinate t of point i; also the mass of a center's."""
    return weights[i] if weights.ndim == 1 else weights[i, t]


@inlined
def cost_of(points, weights, i, others, j):  # type: ignore[no-untyped-def]
    """The weighted squared distance of ``points[i]`` from ``others[j]``."""
    total = 0.0
    for t in range(points.shape[1]):
        difference = points[i, t] - others[j, t]
        if weights.ndim == 1:
            total += difference * difference
        else:
            total += weights[i, t] * difference * difference
    return total * weights[i] if weights.ndim == 1 else total


@inlined
def add_mass(masses, j, weights, i):  # type: ignore[no-untyped-def]
    """Add the weights of point i to the masses of center j."""
    if weights.ndim == 1:
        masses[j] += weights[i]
    else:
        for t in range(weights.shape[1]):
            masses[j, t] += weights[i, t]


@inlined
def is_used(masses, j):  # type: ignore[no-untyped-def]
    """Whether center j has points."""
    return masses[j] > 0.0 if masses.ndim == 1 else masses[j, 0] > 0.0


@compiled
def assign(points, weights, centers, codes, masses, sums):  # type: ignore[no-untyped-def]
    """Fill ``codes`` with the exactly nearest centers, ties to the lower; returns the weighted squared error.

    Adds the points to ``masses`` and ``sums`` of their centers.
    """
    n, dim = points.shape
    each = weights.ndim > 1
    coordinates, factors = np.empty((dim, TOGETHER)), np.empty((dim, TOGETHER if each else 0))
    narrow, best = centers.astype(np.float32), np.empty(TOGETHER, np.int32)
    error = 0.0
    for start in range(0, n, TOGETHER):
        size = min(TOGETHER, n - start)
        for p in range(size):
            for t in range(dim):
                coordinates[t, p] = points[start + p, t]
                if each:
                    factors[t, p] = weight_of(weights, start + p, t)
        if each or not nearest_quickly(coordinates, size, centers, narrow, best):
            nearest(coordinates, factors, size, centers, best)
        for p in range(size):
            i, j = start + p, best[p]
            codes[i] = j
            error += cost_of(points, weights, i, centers, j)
            add_mass(masses, j, weights, i)
            for t in range(dim):
                sums[j, t] += weight_of(weights, i, t) * points[i, t]
    return error


@compiled
def move(centers, masses, sums, stride):  # type: ignore[no-untyped-def]
    """Move centers by ``stride`` of the way to the means of their points; returns the sum of mass by squared way."""
    gain = 0.0
    for j in range(centers.shape[0]):
        if is_used(masses, j):
            for t in range(centers.shape[1]):
                mass = weight_of(masses, j, t)
                way = (sums[j, t] / mass - centers[j, t]) * stride
                gain += mass * way * way
                centers[j, t] += way
    return gain


@compiled
def _refill(points, weights, centers, codes, masses):  # type: ignore[no-untyped-def]
    """Move every center without points to the point that adds most to the error."""
    for j in range(len(masses)):
        if is_used(masses, j):
            continue
        far, most = -1, 0.0
        for i in range(points.shape[0]):
            value = cost_of(points, weights, i, centers, codes[i])
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
    sums = np.zeros(centers.shape)
    masses = np.zeros(len(centers)) if weights.ndim == 1 else np.zeros(centers.shape)
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
