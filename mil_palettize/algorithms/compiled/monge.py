"""Dynamic programs over partitions of sorted weighted points, compiled (numba, without the GIL).

One cluster of the points ``j .. i-1`` costs ``S2 - S1**2 / S0`` (moments about any center), a Monge cost: the best
start of the last cluster does not decrease with the end, so that many ends are solved together by divide and conquer.

A center has to be a number that the table can hold, float16 (``half``) or float32: the cost gains
``S0 * (rounded(mean) - mean)**2`` and stays Monge (it is a minimum over centers of a sum of ``(x - c)**2``).

Sums run from the middle outwards: rounding errors at a point are relative to the moments between it and the center, so
one outlier does not blur the rest. ``S2`` cancels out of every comparison and is not needed: the recurrences carry
``best cost - S2``.
"""

from __future__ import annotations

import math

import numpy as np

from mil_palettize.algorithms.compiled.jit import compiled, inlined

TOGETHER = 64  # starts whose costs are worked out together, in loops that become vector instructions
LEAF = 6  # ends that are solved one after the other
_FEW = 8  # starts below which that does not pay


@compiled
def half_of(value: float) -> float:
    """The float16 value nearest to ``value`` (|value| <= 65504), as float64."""
    small = (value + 1.5 * 2.0**28) - 1.5 * 2.0**28  # a multiple of 2**-24
    scaled = value * (2.0**42 + 1.0)
    return small if abs(value) < 2.0**-14 else scaled - (scaled - value)


@inlined
def stored(value, half):  # type: ignore[no-untyped-def]
    """The number nearest to ``value`` that a table of float16 (``half``) or float32 holds, as float64."""
    return half_of(value) if half else np.float64(np.float32(value))


@inlined
def _value(s0, s1, best, j, i, center, half):  # type: ignore[no-untyped-def]
    """``best[j]`` plus the cost of the cluster ``j .. i-1``, both without their ``S2``."""
    i, j = np.uintp(i), np.uintp(j)  # unsigned: no code for negative indices
    d0 = s0[i] - s0[j]
    d1 = s1[i] - s1[j]
    mean = d1 / d0
    exact = mean + center
    error = stored(exact, half) - exact
    cost = d0 * error * error - d1 * mean
    return best[j] + (cost if d0 > 0.0 else 0.0)  # a weight lost in rounding costs nothing


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
def _least_of_many(s0, s1, best, left, right, i, center, half, values):  # type: ignore[no-untyped-def]
    """``_least`` by way of ``values`` (``TOGETHER``,): one loop without branches, another one for the minimum."""
    least = math.inf
    chosen = left
    for start in range(left, right + 1, TOGETHER):
        size = min(TOGETHER, right + 1 - start)
        if half:
            for t in range(size):
                values[t] = _value(s0, s1, best, start + t, i, center, True)
        else:
            for t in range(size):
                values[t] = _value(s0, s1, best, start + t, i, center, False)
        for t in range(size):
            if values[t] < least:
                least = values[t]
                chosen = start + t
    return least, chosen


@inlined
def _least(s0, s1, best, left, right, i, center, half, values):  # type: ignore[no-untyped-def]
    """The least value of a last cluster ``j .. i-1`` for j in ``left .. right``, and the first such j."""
    if right - left >= _FEW:
        return _least_of_many(s0, s1, best, left, right, i, center, half, values)
    least = math.inf
    chosen = left
    for j in range(left, right + 1):
        value = _value(s0, s1, best, j, i, center, half)
        if value < least:
            least = value
            chosen = j
    return least, chosen


@inlined
def conquer(s0, s1, previous, low0, high0, low1, high1, center, half, penalty, current, shift, argument, values):  # type: ignore[no-untyped-def]
    """One cluster more: ``current[i]`` over ends ``low1 .. high1`` from ``previous`` over starts ``low0 .. high0``.

    Divide and conquer: the best start does not decrease with the end. ``argument[i - shift]`` is that start;
    ``penalty`` is added to the values. ``values``: room for ``TOGETHER`` of them.
    """
    stack = np.empty((64, 4), np.int64)
    stack[0, 0], stack[0, 1], stack[0, 2], stack[0, 3] = low1, high1, low0, high0
    depth = 1 if low1 <= high1 else 0
    while depth:
        depth -= 1
        first, last, left, right = stack[depth, 0], stack[depth, 1], stack[depth, 2], stack[depth, 3]
        while last - first >= LEAF:
            i = (first + last) >> 1
            least, chosen = _least(s0, s1, previous, left, min(right, i - 1), i, center, half, values)
            current[i] = least + penalty
            argument[i - shift] = chosen
            stack[depth, 0], stack[depth, 1], stack[depth, 2], stack[depth, 3] = i + 1, last, chosen, right
            depth += 1
            last, right = i - 1, chosen
        for i in range(first, last + 1):
            least, left = _least(s0, s1, previous, left, min(right, i - 1), i, center, half, values)
            current[i] = least + penalty
            argument[i - shift] = left


@inlined
def penalised(s0, s1, start_value, penalty, center, half, best, parent, bounds):  # type: ignore[no-untyped-def]
    """One pass: the cheapest partition when every cluster also costs ``penalty``. Fills ``bounds``; returns the count.

    Ends are taken in blocks half as long as the last cluster, most of whose clusters start before the block: then all
    its ends are solved together. Whether one starts inside is seen at the last end alone (the cost is Monge: who is
    better at an end stays better); if so, only as many ends are done as have none inside, and what is known of the
    others, from starts up to ``seen``, is kept for as far as the starts that are new do not beat it. No start before
    ``least_start`` is looked at again: one that is beaten at an end stays so.
    """
    n = len(s0) - 1
    values = np.empty(TOGETHER)
    best[0] = start_value
    parent[0] = 0
    done, seen, reach, least_start, block = 0, 0, 0, 0, 1
    while done < n:
        fresh = reach == done
        if not fresh:
            beaten = _first_beaten(s0, s1, best, seen + 1, done, done + 1, reach + 1, penalty, center, half, values)
            if beaten <= reach:
                least_start = seen + 1
                reach = beaten - 1
        if reach == done:
            left = int(max(parent[done], least_start))
            reach = min(n, done + min(max(1, (done - left) >> 1), 2 * block))
            least, chosen = _least(s0, s1, best, left, done, reach, center, half, values)
            best[reach] = least + penalty
            parent[reach] = chosen
            conquer(s0, s1, best, left, chosen, done + 1, reach - 1, center, half, penalty, best, 0, parent, values)
        seen = done
        last = reach
        if not fresh or _least(s0, s1, best, done + 1, last - 1, last, center, half, values)[0] + penalty < best[last]:
            last = done + 1
            while last < reach:
                end = min(2 * last - done, reach)
                if _least(s0, s1, best, done + 1, end - 1, end, center, half, values)[0] + penalty < best[end]:
                    break
                last = end
        block = last - done
        done = last
    return _trace(parent, bounds)


@inlined
def _first_beaten(s0, s1, best, left, right, low, high, penalty, center, half, values):  # type: ignore[no-untyped-def]
    """The first end from ``low`` to ``high - 1`` that is cheaper from a start ``left .. right`` than ``best`` says."""
    while low < high:
        middle = (low + high) >> 1
        if _least(s0, s1, best, left, right, middle, center, half, values)[0] + penalty < best[middle]:
            high = middle
        else:
            low = middle + 1
    return low


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
