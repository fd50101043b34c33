"""Dynamic programs over partitions of sorted weighted points, compiled (numba, without the GIL).

One cluster of the points ``j .. i-1`` costs ``S2 - S1**2 / S0`` (moments about any center), a Monge cost: the best
start of the last cluster does not decrease with the end, so that many ends are solved together by divide and conquer.

A center has to be a number that the table can hold, float16 (``half``) or float32: the cost gains ``S0 * (rounded(mean) -
mean)**2`` and stays Monge (it is a minimum over centers of a sum of ``(x - c)**2``).

Sums run from the middle outwards: rounding errors at a point are relative to the moments between it and the center, so
one outlier does not blur the rest. ``S2`` cancels out of every comparison and is not needed: the recurrences carry
``best cost - S2``.
"""

from __future__ import annotations

import math

import numpy as np

from mil_palettize.algorithms.compiled.jit import compiled, inlined


@compiled
def half_of(value: float) -> float:
    """The float16 value nearest to ``value`` (|value| <= 65504), as float64."""
    if abs(value) < 2.0**-14:
        return (value + 1.5 * 2.0**28) - 1.5 * 2.0**28
    scaled = value * (2.0**42 + 1.0)
    return scaled - (scaled - value)


@inlined
def stored(value, half):  # type: ignore[no-untyped-def]
    """The number nearest to ``value`` that a table of float16 (``half``) or float32 holds, as float64."""
    if half:
        return half_of(value)
    return np.float64(np.float32(value))


@inlined
def _value(s0, s1, best, j, i, center, half):  # type: ignore[no-untyped-def]
    """``best[j]`` plus the cost of the cluster ``j .. i-1``, both without their ``S2``."""
    i, j = np.uintp(i), np.uintp(j)  # unsigned: no code for negative indices
    d0 = s0[i] - s0[j]
    if d0 <= 0.0:  # a weight lost in rounding costs nothing
        return best[j]
    d1 = s1[i] - s1[j]
    mean = d1 / d0
    exact = mean + center
    error = stored(exact, half) - exact
    return best[j] - d1 * mean + d0 * error * error


@inlined
def running_sums(values, weights, s0, s1):  # type: ignore[no-untyped-def]
    """Fill the running sums of weights and of weighted deviations from a center, which are 0 at its position.

    Returns the center, the total squared deviation from it, and that of the values below it. The center is the
    weighted median: outliers do not move it, and float16 differences from one of the values are exact. A weight counts
    as what the sum of weights keeps of it, so that a rounded weight still has its value as its mean.
    """
    n = len(values)
    total = 0.0
    for i in range(n):
        total += weights[i]
    middle = 0
    before = weights[0]
    while before < 0.5 * total and middle < n - 1:
        middle += 1
        before += weights[middle]
    center = values[middle]
    s0[middle] = 0.0
    s1[middle] = 0.0
    second = 0.0
    for i in range(middle, n):
        deviation = values[i] - center
        s0[i + 1] = s0[i] + weights[i]
        weight = s0[i + 1] - s0[i]
        s1[i + 1] = s1[i] + weight * deviation
        second += weight * deviation * deviation
    right = second
    for i in range(middle - 1, -1, -1):
        deviation = values[i] - center
        s0[i] = s0[i + 1] - weights[i]
        weight = s0[i + 1] - s0[i]
        s1[i] = s1[i + 1] - weight * deviation
        second += weight * deviation * deviation
    return center, second, second - right


@inlined
def _least(s0, s1, best, left, right, i, center, half):  # type: ignore[no-untyped-def]
    """The least value of a last cluster ``j .. i-1`` for j in ``left .. right``, and the first such j."""
    least = math.inf
    chosen = left
    for j in range(left, right + 1):
        value = _value(s0, s1, best, j, i, center, half)
        if value < least:
            least = value
            chosen = j
    return least, chosen


@inlined
def conquer(s0, s1, previous, low0, high0, low1, high1, center, half, penalty, current, shift, argument):  # type: ignore[no-untyped-def]
    """One cluster more: ``current[i]`` over ends ``low1 .. high1`` from ``previous`` over starts ``low0 .. high0``.

    Divide and conquer: the best start does not decrease with the end. ``argument[i - shift]`` is that start;
    ``penalty`` is added to the values.
    """
    stack = np.empty((64, 4), np.int32)
    stack[0, 0], stack[0, 1], stack[0, 2], stack[0, 3] = low1, high1, low0, high0
    depth = 1 if low1 <= high1 else 0
    while depth:
        depth -= 1
        first, last, left, right = stack[depth, 0], stack[depth, 1], stack[depth, 2], stack[depth, 3]
        i = (first + last) >> 1
        least, chosen = _least(s0, s1, previous, left, min(right, i - 1), i, center, half)
        current[i] = least + penalty
        argument[i - shift] = chosen
        if i < last:
            stack[depth, 0], stack[depth, 1], stack[depth, 2], stack[depth, 3] = i + 1, last, chosen, right
            depth += 1
        if first < i:
            stack[depth, 0], stack[depth, 1], stack[depth, 2], stack[depth, 3] = first, i - 1, left, chosen
            depth += 1


@inlined
def penalised(s0, s1, start_value, penalty, center, half, best, parent, bounds):  # type: ignore[no-untyped-def]
    """One pass: the cheapest partition when every cluster also costs ``penalty``. Fills ``bounds``; returns the count.

    Ends are taken in blocks half as long as the last cluster, most of whose clusters start before the block: then all
    its ends are solved together. Whether one starts inside is seen at the last end alone (the cost is Monge: who is
    better at an end stays better); if so, the block ends earlier.
    """
    n = len(s0) - 1
    best[0] = start_value
    parent[0] = 0
    done = 0
    while done < n:
        left = parent[done]
        last = min(n, done + max(1, (done - left) >> 1))
        least, chosen = _least(s0, s1, best, left, done, last, center, half)
        best[last] = least + penalty
        parent[last] = chosen
        conquer(s0, s1, best, left, chosen, done + 1, last - 1, center, half, penalty, best, 0, parent)
        while _least(s0, s1, best, done + 1, last - 1, last, center, half)[0] + penalty < best[last]:
            last = (done + last) >> 1
        done = last
    return _trace(parent, bounds)


@inlined
def _trace(parent, bounds):  # type: ignore[no-untyped-def]
    """Follow the parents from the end; fills ``bounds[0 .. count]`` and returns the count of clusters."""
    count = 0
    i = len(parent) - 1
    while i > 0:
        count += 1
        i = parent[i]
    i = len(parent) - 1
    for j in range(count, 0, -1):
        bounds[j] = i
        i = parent[i]
    bounds[0] = 0
    return count
