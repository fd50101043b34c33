"""How small the squared error of a palette can be: a bound from below, made without the library.

With a penalty for every entry, the best partition of n sorted values takes n log n steps: the last cut moves only
forward (the costs of intervals are a Monge array; Galil and Park, "A linear-time algorithm for concave one-dimensional
dynamic programming", 1990, and before). The penalised optimum less k penalties is never above the optimum of k entries,
and equal to it where the best partition has k intervals.
"""

from __future__ import annotations

import numpy as np
from numba import njit

ROUNDS = 40


def least_error(values: np.ndarray, k: int) -> float:
    """A lower bound of the squared error of ``values`` (1-D, finite, any float) with ``k`` entries, float64.

    It is the optimum itself where a penalty exists that asks for exactly ``k``, and 0 where ``k`` entries hold all
    distinct values.
    """
    distinct, counts = np.unique(values.astype(np.float64), return_counts=True)
    if len(distinct) <= k:
        return 0.0
    mean = float(distinct @ counts) / counts.sum()
    distinct -= mean  # small sums of squares cancel less
    sums = [np.cumsum(counts * distinct**power, dtype=np.longdouble) for power in range(3)]
    zeroth, first, second = (np.concatenate([[0.0], part.astype(np.float64)]) for part in sums)
    penalty, low, high, best = float(second[-1]) / k**3, 0.0, np.inf, 0.0
    for _ in range(ROUNDS):
        value, count = _penalised(zeroth, first, second, penalty)
        best = max(best, value - penalty * k)
        if count == k:
            break
        low, high = (penalty, high) if count > k else (low, penalty)
        penalty *= (count / k) ** 3  # the error of k entries falls about as 1 / k**2
        if not low < penalty < high:
            penalty = (low + high) / 2
    return best


@njit(nogil=True, error_model="numpy")
def _cost(zeroth, first, second, best, penalty, i, j):  # type: ignore[no-untyped-def]
    """Penalised error of the values before ``j`` where the last interval starts at ``i``."""
    sums = first[j] - first[i]
    error = second[j] - second[i] - sums * sums / (zeroth[j] - zeroth[i])
    return best[i] + penalty + max(error, 0.0)


@njit(nogil=True, error_model="numpy")
def _penalised(zeroth, first, second, penalty):  # type: ignore[no-untyped-def]
    """The least error plus ``penalty`` for each interval, and the intervals of that partition.

    ``starts[head : tail]`` are the starts that are best from ``since`` on, each until the next one's.
    """
    n = len(zeroth) - 1
    best, intervals = np.zeros(n + 1), np.zeros(n + 1, np.int64)
    starts, since = np.zeros(n + 1, np.int64), np.ones(n + 1, np.int64)
    head, tail = 0, 1
    for j in range(1, n + 1):
        while head + 1 < tail and since[head + 1] <= j:
            head += 1
        best[j] = _cost(zeroth, first, second, best, penalty, starts[head], j)
        intervals[j] = intervals[starts[head]] + 1
        if j == n:
            break
        while tail > head:
            last = max(since[tail - 1], j + 1)
            old = _cost(zeroth, first, second, best, penalty, starts[tail - 1], last)
            if old < _cost(zeroth, first, second, best, penalty, j, last):
                break
            tail -= 1
        first_better = j + 1
        if tail > head:
            low, high = max(since[tail - 1], j + 1), n + 1
            while low + 1 < high:
                middle = (low + high) // 2
                old = _cost(zeroth, first, second, best, penalty, starts[tail - 1], middle)
                if old < _cost(zeroth, first, second, best, penalty, j, middle):
                    low = middle
                else:
                    high = middle
            first_better = high
        if first_better <= n:
            starts[tail], since[tail] = j, first_better
            tail += 1
    return best[n], intervals[n]
