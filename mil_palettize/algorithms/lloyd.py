"""Lloyd's k-means of weighted vectors, compiled (numba, without the GIL, every sum in a fixed order).

``points``: float64 (n, dim), ``weights``: float64 (n,), positive; ``centers``: float64 (k, dim); ``codes``: int32 (n,),
the index of each point's center.

The nearest center is found by walking outwards from a guess: a center nearer to a point than the guess at distance r
lies within 2 r of the guess (triangle inequality), so only the first few of the guess's neighbours are compared.
"""

from __future__ import annotations

import numpy as np

from .compiled import compiled

_REACH = 4.0 * (1.0 + 1e-9)  # of squared distances: (2 r)**2, and room for rounding


@compiled
def _distance(points, i, centers, j):  # type: ignore[no-untyped-def]
    """Squared."""
    total = 0.0
    for t in range(points.shape[1]):
        difference = points[i, t] - centers[j, t]
        total += difference * difference
    return total


@compiled
def find_neighbours(centers, order, gaps):  # type: ignore[no-untyped-def]
    """Sort the other centers by their squared distance from each: ``order`` int32, ``gaps`` float64, (k, k - 1).

    ``order`` holds some permutation on entry, the nearer to the result the faster.
    """
    for j in range(order.shape[0]):
        for m in range(order.shape[1]):
            other = order[j, m]
            gap = _distance(centers, j, centers, other)
            place = m
            while place > 0 and gaps[j, place - 1] > gap:
                gaps[j, place] = gaps[j, place - 1]
                order[j, place] = order[j, place - 1]
                place -= 1
            gaps[j, place] = gap
            order[j, place] = other


@compiled
def first_order(k):  # type: ignore[no-untyped-def]
    """A permutation to start ``find_neighbours`` from."""
    order = np.empty((k, k - 1), np.int32)
    for j in range(k):
        for m in range(k - 1):
            order[j, m] = m + (m >= j)
    return order


@compiled
def _nearest(points, i, centers, order, gaps, guess, least, reach):  # type: ignore[no-untyped-def]
    """The nearest center of point i and its squared distance."""
    best = guess
    origin = guess
    second = np.inf
    m = 0
    while m < order.shape[1] and gaps[origin, m] <= reach * least:
        j = order[origin, m]
        value = _distance(points, i, centers, j)
        m += 1
        if value < least:
            second = least
            best = origin = j
            least = value
            m = 0
        else:
            second = min(second, value)
            if value == least and j < best:
                best = j
    second = np.sqrt(second)
    if m < order.shape[1]:
        second = min(second, np.sqrt(gaps[origin, m]) - np.sqrt(least))
    return best, least, second


@compiled
def random(state):  # type: ignore[no-untyped-def]
    """The next of a fixed sequence in [0, 1) (splitmix64); ``state``: uint64 (1,)."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return np.float64(z >> np.uint64(11)) * 2.0**-53


@compiled
def _draw(masses, total, state):  # type: ignore[no-untyped-def]
    """An index with probability in proportion to ``masses``."""
    left = random(state) * total
    last = 0
    for i in range(len(masses)):
        if masses[i] > 0.0:
            last = i
            left -= masses[i]
            if left < 0.0:
                break
    return last


@compiled
def seed(points, weights, state, trials, centers):  # type: ignore[no-untyped-def]
    """Greedy k-means++ (Arthur, Vassilvitskii 2007): fill ``centers`` with points far from each other."""
    n, k = points.shape[0], centers.shape[0]
    total = 0.0
    for i in range(n):
        total += weights[i]
    centers[0] = points[_draw(weights, total, state)]
    least = np.empty(n)
    masses = np.empty(n)
    chosen = np.empty(n)
    tried = np.empty(n)
    total = 0.0
    for i in range(n):
        least[i] = _distance(points, i, centers, 0)
        masses[i] = weights[i] * least[i]
        total += masses[i]
    for j in range(1, k):
        smallest = np.inf
        for _ in range(trials):
            candidate = _draw(masses, total, state)
            potential = 0.0
            for i in range(n):
                tried[i] = min(least[i], _distance(points, i, points, candidate))
                potential += weights[i] * tried[i]
            if potential < smallest:
                smallest = potential
                centers[j] = points[candidate]
                chosen, tried = tried, chosen
        least, chosen = chosen, least
        total = 0.0
        for i in range(n):
            masses[i] = weights[i] * least[i]
            total += masses[i]


@compiled
def merge(centers, masses, k):  # type: ignore[no-untyped-def]
    """Ward: merge pairs until k remain, at the front."""
    n = len(masses)
    near = np.zeros(n, np.int32)
    cost = np.full(n, np.inf)
    for i in range(n):
        for j in range(i + 1, n):
            value = _distance(centers, i, centers, j) * (masses[i] * masses[j] / (masses[i] + masses[j]))
            if value < cost[i]:
                cost[i], near[i] = value, j
    # near[i] > i
    while n > k:
        a = 0
        for i in range(1, n):
            if cost[i] < cost[a]:
                a = i
        b = np.int64(near[a])
        mass = masses[a] + masses[b]
        for t in range(centers.shape[1]):
            centers[a, t] = (masses[a] * centers[a, t] + masses[b] * centers[b, t]) / mass
        masses[a] = mass
        n -= 1
        centers[b] = centers[n]
        masses[b] = masses[n]
        cost[n] = np.inf
        # entries pointing to a, b or n are stale
        for i in range(n):
            if i == a or i == b or near[i] == a or near[i] == b or near[i] == n:
                cost[i] = np.inf
                for j in range(i + 1, n):
                    value = _distance(centers, i, centers, j) * (masses[i] * masses[j] / (masses[i] + masses[j]))
                    if value < cost[i]:
                        cost[i], near[i] = value, j
            else:
                for j in (a, b):
                    if j > i and j < n:
                        value = _distance(centers, i, centers, j) * (masses[i] * masses[j] / (masses[i] + masses[j]))
                        if value < cost[i]:
                            cost[i], near[i] = value, j


@compiled
def lloyd(points, weights, centers, codes, steps, tolerance, reach, omega, log):  # type: ignore[no-untyped-def]
    n, dim = points.shape
    k = len(centers)
    order = first_order(k)
    gaps = np.empty((k, k - 1))
    upper = np.full(n, np.inf)
    lower = np.full(n, -np.inf)
    masses, sums = np.zeros(k), np.zeros((k, dim))
    shift = np.zeros(k)
    most = 0.0
    errors = 0.0
    done = 0
    visits = 0
    codes[:] = -1
    for s in range(steps):
        done = s
        find_neighbours(centers, order, gaps)
        for i in range(n):
            a = codes[i]
            if a >= 0:
                upper[i] += shift[a]
                lower[i] -= most
                bound = max(lower[i], 0.5 * np.sqrt(gaps[a, 0]))
                if upper[i] <= bound:
                    continue
                least = _distance(points, i, centers, a)
                upper[i] = np.sqrt(least)
                if upper[i] <= bound:
                    continue
            else:
                a = 0
                least = _distance(points, i, centers, a)
            best, least, second = _nearest(points, i, centers, order, gaps, a, least, reach)
            visits += 1
            upper[i] = np.sqrt(least)
            lower[i] = second
            old = codes[i]
            if best != old:
                codes[i] = best
                masses[best] += weights[i]
                for t in range(dim):
                    sums[best, t] += weights[i] * points[i, t]
                if old >= 0:
                    masses[old] -= weights[i]
                    for t in range(dim):
                        sums[old, t] -= weights[i] * points[i, t]
            if s == 0:
                errors += weights[i] * least
        gain = 0.0
        most = 0.0
        for j in range(k):
            moved = 0.0
            if masses[j] > 0.0:
                for t in range(dim):
                    d = (sums[j, t] / masses[j] - centers[j, t]) * omega
                    moved += d * d
                    centers[j, t] += d
            gain += masses[j] * moved
            shift[j] = np.sqrt(moved)
            most = max(most, shift[j])
        log[s] = gain / errors
        if gain < tolerance * errors:
            break
    return done, visits / n


@compiled
def total(points, weights, centers, codes):
    k = len(centers)
    order = first_order(k)
    gaps = np.empty((k, k - 1))
    find_neighbours(centers, order, gaps)
    e = 0.0
    for i in range(len(points)):
        a = codes[i]
        b, l, s = _nearest(points, i, centers, order, gaps, a, _distance(points, i, centers, a), 4.00001)
        codes[i] = b
        e += l * weights[i]
    return e
