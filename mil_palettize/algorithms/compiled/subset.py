"""The best few of many candidates as entries of a palette: an exact dynamic program, compiled (numba, without the GIL).

Points between two chosen candidates that follow each other go to the nearer one. That cost of a pair is Monge
(Hassin, Tamir 1991, k-medians on a line), so the best predecessor grows with the candidate and with the number of
chosen ones, and only those between its two neighbours' are looked at (Knuth 1971, Yao 1980).
"""

from __future__ import annotations

import math

import numpy as np

from mil_palettize.algorithms.compiled.jit import compiled


@compiled
def _first_above(values, bound, low, high):  # type: ignore[no-untyped-def]
    """The first position from ``low`` to ``high`` whose value is above ``bound``."""
    while low < high:
        middle = (low + high) >> 1
        if values[middle] > bound:
            high = middle
        else:
            low = middle + 1
    return low


@compiled
def _to(candidate, first, last, s0, s1):  # type: ignore[no-untyped-def]
    """Cost of the points ``first .. last - 1`` at a candidate, without their own squares."""
    return candidate * (candidate * (s0[last] - s0[first]) - 2.0 * (s1[last] - s1[first]))


@compiled
def _pair(values, candidates, at, near, a, b, s0, s1):  # type: ignore[no-untyped-def]
    """Cost of the points between the neighbours a < b.

    ``near``: where those above the middle of a pair begin, by ``a + b``: all pairs of one sum have nearly the same
    middle when candidates lie at equal distances but for rounding.
    """
    bound = (candidates[a] + candidates[b]) * 0.5
    middle = min(max(near[a + b], at[a]), at[b])
    while middle < at[b] and values[middle] <= bound:
        middle += 1
    while middle > at[a] and values[middle - 1] > bound:
        middle -= 1
    return _to(candidates[a], at[a], middle, s0, s1) + _to(candidates[b], middle, at[b], s0, s1)


@compiled
def _layers(values, candidates, at, near, s0, s1, low, high, previous, argument):  # type: ignore[no-untyped-def]
    """Fill ``argument`` (k, m), the best predecessor of each candidate as the chosen one number j.

    ``low``, ``high``: see ``best_subset``. ``previous`` (m,): costs with one chosen, in the end with k.
    """
    k, m = argument.shape[0], len(candidates)
    every = np.all(high - low == m - k)  # else the best predecessor may grow with j or not
    current = np.empty(m)
    for j in range(1, k):
        last = high[j - 1]
        for b in range(m):
            current[b] = math.inf
        for b in range(high[j], low[j] - 1, -1):
            argument[j, b] = low[j - 1]
            first = max(argument[j - 1, b], low[j - 1]) if every else low[j - 1]
            last = min(last, b - 1)
            for a in range(first, last + 1):
                value = previous[a] + _pair(values, candidates, at, near, a, b, s0, s1)
                if value < current[b]:
                    current[b] = value
                    argument[j, b] = a
            last = argument[j, b] if current[b] < math.inf else last
        for b in range(m):
            previous[b] = current[b]


@compiled
def best_subset(values, weights, candidates, low, high, chosen):  # type: ignore[no-untyped-def]
    """Fill ``chosen`` (int64) with the positions of the best ``len(chosen)`` candidates as entries, ascending.

    ``values``, ``weights``: sorted distinct float64, weights positive. ``candidates``: ascending distinct float64, at
    least as many as are chosen. Number j of the k chosen is one of ``low[j] .. high[j]`` (int64): both ascend, and lie
    in ``j .. len(candidates) - k + j``; with these ends all are looked at. Returns the weighted squared error.
    """
    n, m, k = len(values), len(candidates), len(chosen)
    if k == m:
        for a in range(m):
            chosen[a] = a
        return _error(values, weights, candidates, chosen)
    s0, s1 = np.zeros(n + 1), np.zeros(n + 1)
    for i in range(n):
        s0[i + 1] = s0[i] + weights[i]
        s1[i + 1] = s1[i] + weights[i] * values[i]
    at = np.empty(m, np.int64)
    best = np.empty(m)
    for a in range(m):
        at[a] = _first_above(values, candidates[a], 0, n)
        best[a] = _to(candidates[a], 0, at[a], s0, s1) if low[0] <= a <= high[0] else math.inf
    near = np.empty(2 * m - 1, np.int64)
    for total in range(2 * m - 1):
        middle = (candidates[total // 2] + candidates[total - total // 2]) * 0.5
        near[total] = _first_above(values, middle, at[total // 2], at[total - total // 2])
    argument = np.zeros((k, m), np.int64)
    _layers(values, candidates, at, near, s0, s1, low, high, best, argument)
    least = math.inf
    for a in range(low[k - 1], high[k - 1] + 1):
        value = best[a] + _to(candidates[a], at[a], n, s0, s1)
        if value < least:
            least = value
            chosen[k - 1] = a
    for j in range(k - 1, 0, -1):
        chosen[j - 1] = argument[j, chosen[j]]
    return _error(values, weights, candidates, chosen)


@compiled
def _error(values, weights, candidates, chosen):  # type: ignore[no-untyped-def]
    total = 0.0
    j = 0
    for i in range(len(values)):
        while j + 1 < len(chosen) and values[i] > (candidates[chosen[j]] + candidates[chosen[j + 1]]) * 0.5:
            j += 1
        total += weights[i] * (values[i] - candidates[chosen[j]]) ** 2
    return total
