"""Dynamic programs over partitions of sorted weighted points, compiled (numba, without the GIL).

One cluster of the points ``j .. i-1`` costs ``S2 - S1**2 / S0`` (moments about any center), a Monge cost: the best
start of the last cluster does not decrease with the end, so that many ends are solved together by divide and conquer.

A center has to be a number that the table can hold (``rounding``: ``HALF`` or ``SINGLE``): the cost gains
``S0 * (rounded(mean) - mean)**2`` and stays Monge (it is a minimum over centers of a sum of ``(x - c)**2``).

Sums run from the middle outwards: rounding errors at a point are relative to the moments between it and the center, so
one outlier does not blur the rest. ``S2`` cancels out of every comparison and is not needed: the recurrences carry
``best cost - S2``.
"""

from __future__ import annotations

import math

import numpy as np

from mil_palettize.algorithms.compiled.jit import inlined

TOGETHER = 64  # starts whose costs are worked out together, in loops that become vector instructions
LEAF = 6  # ends that are solved one after the other
_FEW = 8  # starts up to which that does not pay

# How float64 is rounded to what a table can hold: a factor that splits off the bits that are too many (Veltkamp 1968),
# a number beside which only multiples of the least subnormal are left, and the least normal number.
HALF = (2.0**42 + 1.0, 1.5 * 2.0**28, 2.0**-14)
SINGLE = (2.0**29 + 1.0, 1.5 * 2.0**-97, 2.0**-126)


@inlined
def stored(value, rounding):  # type: ignore[no-untyped-def]
    """The number nearest to ``value`` that a table of float16 (``HALF``) or float32 (``SINGLE``) holds, as float64.

    |value| is at most the largest of them. Sums and products alone, for these become vector instructions.
    """
    factor, magic, normal = rounding
    scaled = value * factor
    return (value + magic) - magic if abs(value) < normal else scaled - (scaled - value)


@inlined
def _value(s0, s1, best, j, i, center, rounding):  # type: ignore[no-untyped-def]
    """``best[j]`` plus the cost of the cluster ``j .. i-1``, both without their ``S2``."""
    i, j = np.uintp(i), np.uintp(j)  # unsigned: no code for negative indices
    d0 = s0[i] - s0[j]
    d1 = s1[i] - s1[j]
    mean = stored(d1 / d0 + center, rounding) - center
    cost = mean * (mean * d0 - (d1 + d1))
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
def _least(s0, s1, best, left, right, i, center, rounding, values):  # type: ignore[no-untyped-def]
    """The least value of a last cluster ``j .. i-1`` for j in ``left .. right``, and the first such j.

    By way of ``values`` (``TOGETHER``,): one loop without branches, another one for the minimum.
    """
    least = math.inf
    chosen = left
    for start in range(left, right + 1, TOGETHER):
        size = min(TOGETHER, right + 1 - start)
        for t in range(size):
            values[t] = _value(s0, s1, best, start + t, i, center, rounding)
        for t in range(size):
            if values[t] < least:
                least = values[t]
                chosen = start + t
    return least, chosen


@inlined
def _least_of_few(s0, s1, best, left, right, i, center, rounding):  # type: ignore[no-untyped-def]
    """``_least`` in one loop, so small that it becomes a part of its caller: a call costs more than a few values."""
    least = math.inf
    chosen = left
    for j in range(left, right + 1):
        value = _value(s0, s1, best, j, i, center, rounding)
        if value < least:
            least = value
            chosen = j
    return least, chosen


@inlined
def conquer(s0, s1, previous, low0, high0, low1, high1, center, rounding, penalty, current, shift, argument, values):  # type: ignore[no-untyped-def]
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
            least, chosen = _least(s0, s1, previous, left, min(right, i - 1), i, center, rounding, values)
            current[i] = least + penalty
            argument[i - shift] = chosen
            stack[depth, 0], stack[depth, 1], stack[depth, 2], stack[depth, 3] = i + 1, last, chosen, right
            depth += 1
            last, right = i - 1, chosen
        for i in range(first, last + 1):
            end = min(right, i - 1)
            if end - left < _FEW:
                least, left = _least_of_few(s0, s1, previous, left, end, i, center, rounding)
            else:
                least, left = _least(s0, s1, previous, left, end, i, center, rounding, values)
            current[i] = least + penalty
            argument[i - shift] = left


@inlined
def penalised(s0, s1, start_value, penalty, center, rounding, best, parent, bounds):  # type: ignore[no-untyped-def]
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
            beaten = _first_beaten(s0, s1, best, seen + 1, done, done + 1, reach + 1, penalty, center, rounding, values)
            if beaten <= reach:
                least_start = seen + 1
                reach = beaten - 1
        if reach == done:
            left = int(max(parent[done], least_start))
            reach = min(n, done + min(max(1, (done - left) >> 1), 2 * block))
            least, chosen = _least(s0, s1, best, left, done, reach, center, rounding, values)
            best[reach] = least + penalty
            parent[reach] = chosen
            conquer(s0, s1, best, left, chosen, done + 1, reach - 1, center, rounding, penalty, best, 0, parent, values)
        seen = done
        last = reach
        if (
            not fresh
            or _least(s0, s1, best, done + 1, last - 1, last, center, rounding, values)[0] + penalty < best[last]
        ):
            last = done + 1
            while last < reach:
                end = min(2 * last - done, reach)
                if _least(s0, s1, best, done + 1, end - 1, end, center, rounding, values)[0] + penalty < best[end]:
                    break
                last = end
        block = last - done
        done = last
    return _trace(parent, bounds)


@inlined
def _first_beaten(s0, s1, best, left, right, low, high, penalty, center, rounding, values):  # type: ignore[no-untyped-def]
    """The first end from ``low`` to ``high - 1`` that is cheaper from a start ``left .. right`` than ``best`` says."""
    while low < high:
        middle = (low + high) >> 1
        if _least(s0, s1, best, left, right, middle, center, rounding, values)[0] + penalty < best[middle]:
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
