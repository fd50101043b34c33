"""The globally optimal scalar k-means of a sorted weighted sample, compiled (numba, without the GIL).

One cluster of the sorted points ``j .. i-1`` costs ``S2 - S1**2 / S0`` (moments about any center). That cost is
Monge, so the smallest total cost is convex in the number of clusters k, and "k clusters" can be traded for a
penalty per cluster (Aggarwal, Schieber, Tokuyama 1994; Wu 1991 for quantizers):

1. ``_penalised``: for a penalty the best partition of any count, in one pass with a monotone queue;
2. ``_search``: a secant on log penalty against log count until the count is k, or k lies closely between two
   counts that were seen;
3. ``_between``: boundaries of optimal partitions of k1 < k < k2 clusters interlace, so a layered divide and
   conquer inside the resulting windows is exact. With the trivial partitions (1 cluster, n clusters) as k1 and
   k2 this is the plain O(k n log n) dynamic program, so the solver is exact however the search ends.

With ``snap`` a cluster's center must be a float16 value: the cost gains ``S0 * (half(mean) - mean)**2`` and stays
Monge (it is a minimum over centers of a sum of ``(x - c)**2``), so the same code finds the optimum among palettes
that float16 can store.

Sums run from the middle outwards: rounding errors at a point are relative to the moments between it and the center, so
one outlier does not blur the rest. ``S2`` cancels out of every comparison and is not needed: the recurrences carry
``best cost - S2``.
"""

from __future__ import annotations

import math

import numpy as np

from .compiled import compiled, inlined

MAX_PASSES = 48
SMALL = 2048  # distinct values up to which float16 centers are always solved for as such
ROUNDING_EXCESS = 2e-3
CLOSE = 1  # distance of a count from k at which windows are cheaper than another pass


@compiled
def _half(value: float) -> float:
    """The float16 value nearest to ``value`` (|value| <= 65504), as float64."""
    if abs(value) < 2.0**-14:
        return (value + 1.5 * 2.0**28) - 1.5 * 2.0**28
    scaled = value * (2.0**42 + 1.0)
    return scaled - (scaled - value)


half_of = _half


@inlined
def _value(s0, s1, best, j, i, center, snap):  # type: ignore[no-untyped-def]
    """``best[j]`` plus the cost of the cluster ``j .. i-1``, both without their ``S2``."""
    i, j = np.uintp(i), np.uintp(j)  # unsigned: no code for negative indices
    d0 = s0[i] - s0[j]
    if d0 <= 0.0:  # a weight lost in rounding costs nothing
        return best[j]
    d1 = s1[i] - s1[j]
    mean = d1 / d0
    value = best[j] - d1 * mean
    if snap:
        error = _half(mean + center) - (mean + center)
        value += d0 * error * error
    return value


@inlined
def _sums(values, weights, s0, s1):  # type: ignore[no-untyped-def]
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
def _penalised(s0, s1, start_value, penalty, center, snap, best, parent, queue, start, start_best, bounds):  # type: ignore[no-untyped-def]
    """One pass: the cheapest partition when every cluster also costs ``penalty``. Fills ``bounds``; returns the count.

    ``queue`` holds the candidates for the start of a last cluster, each the best for ends from ``start`` on,
    with the value ``start_best`` there.
    """
    n = len(s0) - 1
    best[0] = start_value
    queue[0] = 0
    start[0] = 1
    head = 0
    tail = 0
    for i in range(1, n + 1):
        while head < tail and start[head + 1] <= i:
            head += 1
        parent[i] = queue[head]
        best[i] = _value(s0, s1, best, queue[head], i, center, snap) + penalty
        while start[tail] > i and _value(s0, s1, best, i, start[tail], center, snap) < start_best[tail]:
            tail -= 1
        old = queue[tail]
        worse = max(start[tail], i)  # the last end for which the candidate i is known not to be better
        step = 1
        better = worse + 1
        value = math.inf
        while better <= n:
            value = _value(s0, s1, best, i, better, center, snap)
            if value < _value(s0, s1, best, old, better, center, snap):
                break
            worse = better
            step *= 2
            better += step
        better = min(better, n + 1)
        while better - worse > 1:
            probe = (worse + better) >> 1
            new = _value(s0, s1, best, i, probe, center, snap)
            if new < _value(s0, s1, best, old, probe, center, snap):
                better, value = probe, new
            else:
                worse = probe
        if better <= n:
            tail += 1
            queue[tail] = i
            start[tail] = better
            start_best[tail] = value
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


@inlined
def _next_penalty(k, few, few_penalty, many, many_penalty, round_):  # type: ignore[no-untyped-def]
    """Secant on log penalty against log count, kept inside the bracket; one-sided: the cubic law of high resolution."""
    if few_penalty == math.inf:
        return many_penalty * (many / k) ** 3
    if many_penalty == 0.0:
        return few_penalty * (few / k) ** 3
    width = math.log(few_penalty / many_penalty)
    share = math.log(many / k) / math.log(many / few)
    if round_ % 4 == 3:
        share = 0.5
    return many_penalty * math.exp(width * min(max(share, 0.05), 0.95))


@inlined
def _copy(source, target, count):  # type: ignore[no-untyped-def]
    """Element by element: assigning slices takes seconds to compile, for the text of its error."""
    for i in range(count):
        target[i] = source[i]


@inlined
def _search(s0, s1, start_value, k, penalty, center, snap, bounds_few, bounds_many):  # type: ignore[no-untyped-def]
    """Optimal partitions of at most k and at least k clusters, their counts, and the last penalty.

    Ends when a count is k (then both are that partition) or k lies closely between the two counts.
    """
    n = len(s0) - 1
    best = np.empty(n + 1)
    parent = np.empty(n + 1, np.int32)
    queue = np.empty(n + 1, np.int32)
    start = np.empty(n + 1, np.int32)
    start_best = np.empty(n + 1)
    bounds = np.empty(n + 1, np.int32)
    few, few_penalty = 1, math.inf
    many, many_penalty = n, 0.0
    bounds_few[0] = 0
    bounds_few[1] = n
    for j in range(n + 1):
        bounds_many[j] = j
    for round_ in range(MAX_PASSES):
        if not (many_penalty < penalty < few_penalty):
            break
        count = _penalised(s0, s1, start_value, penalty, center, snap, best, parent, queue, start, start_best, bounds)
        if count <= k:
            few, few_penalty = count, penalty
            _copy(bounds, bounds_few, count + 1)
        if count >= k:
            many, many_penalty = count, penalty
            _copy(bounds, bounds_many, count + 1)
        bracketed = few_penalty < math.inf and many_penalty > 0.0
        if few == many or (bracketed and min(k - few, many - k) <= CLOSE):
            break
        penalty = _next_penalty(k, few, few_penalty, many, many_penalty, round_)
    return few, many, penalty


@inlined
def _windows(n, k, bounds_few, few, bounds_many, many, low, high):  # type: ignore[no-untyped-def]
    """Where the boundaries of an optimal k-partition lie, given optimal ones of few < k < many clusters.

    They interlace. Windows are only ever widened after that, so that each has room beside its neighbours.
    """
    for j in range(k + 1):
        low[j] = bounds_many[j]
        high[j] = bounds_many[j + many - k]
        if j >= k - few:
            low[j] = max(low[j], bounds_few[j - (k - few)])
        if j <= few:
            high[j] = min(high[j], bounds_few[j])
        if low[j] > high[j]:
            low[j], high[j] = high[j], low[j]
    for j in range(k - 1, -1, -1):
        low[j] = min(low[j], low[j + 1] - 1)
    for j in range(1, k + 1):
        high[j] = max(high[j], high[j - 1] + 1)
    low[0] = 0
    high[0] = 0
    low[k] = n
    high[k] = n


@inlined
def _layer(s0, s1, previous, low0, high0, low1, high1, center, snap, current, argument):  # type: ignore[no-untyped-def]
    """One cluster more: ``current[i]`` over ends ``low1 .. high1`` from ``previous`` over starts ``low0 .. high0``.

    Divide and conquer: the best start does not decrease with the end. ``argument[i - low1]`` is that start.
    """
    stack = np.empty((64, 4), np.int32)
    stack[0, 0], stack[0, 1], stack[0, 2], stack[0, 3] = low1, high1, low0, high0
    depth = 1
    while depth:
        depth -= 1
        first, last, left, right = stack[depth, 0], stack[depth, 1], stack[depth, 2], stack[depth, 3]
        i = (first + last) >> 1
        chosen = left
        least = math.inf
        for j in range(left, min(right, i - 1) + 1):
            value = _value(s0, s1, previous, j, i, center, snap)
            if value < least:
                least = value
                chosen = j
        current[i] = least
        argument[i - low1] = chosen
        if first < i:
            stack[depth, 0], stack[depth, 1], stack[depth, 2], stack[depth, 3] = first, i - 1, left, chosen
            depth += 1
        if i < last:
            stack[depth, 0], stack[depth, 1], stack[depth, 2], stack[depth, 3] = i + 1, last, chosen, right
            depth += 1


@inlined
def _between(s0, s1, start_value, k, center, snap, bounds_few, few, bounds_many, many, bounds):  # type: ignore[no-untyped-def]
    """Fill ``bounds`` with the optimal k-partition, given optimal partitions of few < k < many clusters."""
    n = len(s0) - 1
    low = np.empty(k + 1, np.int32)
    high = np.empty(k + 1, np.int32)
    _windows(n, k, bounds_few, few, bounds_many, many, low, high)
    offset = np.zeros(k + 2, np.int64)  # of each layer's window in ``argument``
    for j in range(1, k + 1):
        offset[j + 1] = offset[j] + high[j] - low[j] + 1
    argument = np.empty(offset[k + 1], np.int32)
    previous = np.empty(n + 1)
    current = np.empty(n + 1)
    previous[0] = start_value
    for j in range(1, k + 1):
        _layer(s0, s1, previous, low[j - 1], high[j - 1], low[j], high[j], center, snap, current, argument[offset[j] :])
        previous, current = current, previous
    bounds[k] = n
    for j in range(k, 0, -1):
        bounds[j - 1] = argument[offset[j] + bounds[j] - low[j]]


@inlined
def _start_penalty(s0, s1, start_value, k, deviation, center, snap):  # type: ignore[no-untyped-def]
    """A penalty near the one of k clusters: searches where only every 64th, then every 8th point may be a boundary."""
    n = len(s0) - 1
    penalty = 5.4 * deviation / float(k) ** 3  # high-resolution theory for a normal density
    stride = 8
    while n // (stride * 8) >= 8 * k:
        stride *= 8
    while stride > 1:
        points = n // stride
        if points >= 8 * k:
            picked0, picked1 = np.empty(points + 1), np.empty(points + 1)
            for i in range(points + 1):
                picked0[i] = s0[i * n // points]
                picked1[i] = s1[i * n // points]
            few, many = np.empty(points + 1, np.int32), np.empty(points + 1, np.int32)
            penalty = _search(picked0, picked1, start_value, k, penalty, center, snap, few, many)[2]
        stride //= 8
    return penalty


@inlined
def _partition(s0, s1, start_value, k, penalty, center, snap, bounds):  # type: ignore[no-untyped-def]
    """Fill ``bounds[0 .. k]`` with an optimal partition into k clusters, ``1 <= k < n``."""
    n = len(s0) - 1
    bounds_few = np.empty(n + 1, np.int32)
    bounds_many = np.empty(n + 1, np.int32)
    few, many, _ = _search(s0, s1, start_value, k, penalty, center, snap, bounds_few, bounds_many)
    if few == many:
        _copy(bounds_few, bounds, k + 1)
    else:
        _between(s0, s1, start_value, k, center, snap, bounds_few, few, bounds_many, many, bounds)


@inlined
def _centers(s0, s1, deviation, center, snap, bounds, out):  # type: ignore[no-untyped-def]
    """Write each cluster's center; returns the squared error, and how much rounding them to float16 would add to it."""
    error = deviation
    excess = 0.0
    for j in range(len(out)):
        d0 = s0[bounds[j + 1]] - s0[bounds[j]]
        d1 = s1[bounds[j + 1]] - s1[bounds[j]]
        mean = center + d1 / d0 if d0 > 0.0 else center
        excess += d0 * (_half(mean) - mean) ** 2
        error -= d1 * (mean - center)
        out[j] = _half(mean) if snap else mean
    return error, excess


@compiled
def optimal_centers(values, weights, half, out):  # type: ignore[no-untyped-def]
    """Write the ``len(out)`` centers of an optimal clustering of sorted distinct values, ascending.

    ``values``, ``weights``: float64, more than ``len(out)`` of them, weights positive. ``half``: the centers will be
    stored as float16, so that where rounding them would cost more than ``ROUNDING_EXCESS`` of the error, or the
    problem is small, the centers are chosen among the float16 values instead.
    """
    n, k = len(values), len(out)
    s0, s1 = np.empty(n + 1), np.empty(n + 1)
    center, deviation, start_value = _sums(values, weights, s0, s1)
    bounds = np.empty(k + 1, np.int32)
    snap = half and n <= SMALL
    penalty = _start_penalty(s0, s1, start_value, k, deviation, center, snap)
    while True:
        _partition(s0, s1, start_value, k, penalty, center, snap, bounds)
        error, excess = _centers(s0, s1, deviation, center, snap, bounds, out)
        if snap or not half or excess <= ROUNDING_EXCESS * error:
            return
        snap = True


@compiled
def optimal_centers_of_groups(values, weights, offsets, half, out):  # type: ignore[no-untyped-def]
    """``optimal_centers`` of each group ``offsets[g] .. offsets[g + 1] - 1``, into the rows of ``out`` (groups, k).

    A group of at most k distinct values gets exactly these, the last one repeated.
    """
    k = out.shape[1]
    for group in range(len(offsets) - 1):
        first, last = offsets[group], offsets[group + 1]
        if last - first > k:
            optimal_centers(values[first:last], weights[first:last], half, out[group])
        else:
            for j in range(k):
                out[group, j] = values[min(first + j, last - 1)]
