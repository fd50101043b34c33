"""First centers for Lloyd's k-means, compiled (numba, without the GIL): k-means++, and Ward's merging of many centers.

``points``, ``weights``, ``centers``: as in ``lloyd``. Random numbers are a fixed sequence.
"""

from __future__ import annotations

import numpy as np

from mil_palettize.algorithms.compiled.jit import compiled, inlined
from mil_palettize.algorithms.compiled.lloyd import add_mass, cost_of, is_used, weight_of


@compiled
def uniform(state):  # type: ignore[no-untyped-def]
    """The next number in [0, 1) of splitmix64 (Steele, Lea, Flood 2014); ``state``: uint64 (1,)."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.float64((z ^ (z >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53


@compiled
def stratified(total, picks):  # type: ignore[no-untyped-def]
    """Fill ``picks`` with ascending float64 in [0, total), one at random of each equal share, always the same."""
    state = np.zeros(1, np.uint64)
    for i in range(len(picks)):
        picks[i] = min((i + uniform(state)) / len(picks), 1.0 - 2.0**-53) * total


@compiled
def _draw(masses, total, state):  # type: ignore[no-untyped-def]
    """An index with probability in proportion to ``masses``."""
    left = uniform(state) * total
    last = 0
    for i in range(len(masses)):
        if masses[i] > 0.0:
            last = i
            left -= masses[i]
            if left < 0.0:
                break
    return last


@compiled
def scatter(points, weights, state, trials, centers):  # type: ignore[no-untyped-def]
    """Greedy k-means++ (Arthur, Vassilvitskii 2007): each next center is the best of ``trials`` points, drawn with
    probability in proportion to what they add to the error with the centers so far."""
    n = points.shape[0]
    least, tried, chosen = np.empty(n), np.empty(n), np.empty(n)
    for i in range(n):
        least[i] = weight_of(weights, i, 0)
    centers[0] = points[_draw(least, least.sum(), state)]
    for i in range(n):
        least[i] = cost_of(points, weights, i, centers, 0)
    for j in range(1, centers.shape[0]):
        total = least.sum()
        smallest = np.inf
        for _ in range(trials):
            candidate = _draw(least, total, state)
            potential = 0.0
            for i in range(n):
                tried[i] = min(least[i], cost_of(points, weights, i, points, candidate))
                potential += tried[i]
            if potential < smallest:
                smallest = potential
                centers[j] = points[candidate]
                chosen, tried = tried, chosen
        least, chosen = chosen, least


@inlined
def _merging(centers, masses, i, j):  # type: ignore[no-untyped-def]
    """What merging two centers adds to the squared error (Ward 1963)."""
    total = 0.0
    for t in range(centers.shape[1]):
        one, other = weight_of(masses, i, t), weight_of(masses, j, t)
        difference = centers[i, t] - centers[j, t]
        total += difference * difference * (one * other / (one + other))
    return total


@compiled
def _partner(centers, masses, i):  # type: ignore[no-untyped-def]
    """The center whose merging with center i adds least to the squared error, and how much."""
    near, cost = i, np.inf
    for j in range(len(masses)):
        if j != i and is_used(masses, j):
            value = _merging(centers, masses, i, j)
            if value < cost:
                near, cost = j, value
    return near, cost


@compiled
def merge(centers, masses, kept):  # type: ignore[no-untyped-def]
    """Merge the cheapest pair of centers until ``len(kept)`` remain, and write them to ``kept``.

    A stored cost is a lower bound where the partner has changed since: merging never makes a third center cheaper.
    """
    n = len(masses)
    near, cost = np.empty(n, np.int64), np.full(n, np.inf)
    version, seen = np.zeros(n, np.int64), np.zeros(n, np.int64)
    left = 0
    for i in range(n):
        if is_used(masses, i):
            left += 1
            near[i], cost[i] = _partner(centers, masses, i)
    while left > len(kept):
        a = np.argmin(cost)
        b = near[a]
        if seen[a] == version[b]:
            for t in range(centers.shape[1]):
                one, other = weight_of(masses, a, t), weight_of(masses, b, t)
                centers[a, t] = (one * centers[a, t] + other * centers[b, t]) / (one + other)
            add_mass(masses, a, masses, b)
            masses[b] = 0.0
            cost[b] = np.inf
            version[a] += 1
            version[b] += 1
            left -= 1
        near[a], cost[a] = _partner(centers, masses, a)
        seen[a] = version[near[a]]
    filled = 0
    for i in range(n):
        if is_used(masses, i):
            kept[filled] = centers[i]
            filled += 1
    for i in range(filled, len(kept)):
        kept[i] = kept[max(filled - 1, 0)]
