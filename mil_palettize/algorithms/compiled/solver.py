"""The globally optimal scalar k-means of a sorted weighted sample, compiled (numba, without the GIL).

The cost of a cluster is Monge (see ``monge``), so the smallest total cost is convex in the number of clusters k, and "k
clusters" can be traded for a penalty per cluster (Aggarwal, Schieber, Tokuyama 1994; Wu 1991 for quantizers):

1. ``monge.penalised``: for a penalty the best partition of any count, in one pass;
2. ``_search``: a secant on log penalty against log count until the count is k, or k lies closely between two
   counts that were seen;
3. ``_between``: boundaries of optimal partitions of k1 < k < k2 clusters interlace, so a layered divide and
   conquer inside the resulting windows is exact. With the trivial partitions (1 cluster, n clusters) as k1 and
   k2 this is the plain O(k n log n) dynamic program, so the solver is exact however the search ends.

With float16 centers (``snap``) the same code finds the optimum among palettes that float16 can store.
"""

from __future__ import annotations

import math

import numpy as np

from mil_palettize.algorithms.compiled.jit import compiled, inlined
from mil_palettize.algorithms.compiled.monge import conquer, half_of, penalised, running_sums

MAX_PASSES = 48
SMALL = 512  # distinct values up to which float16 centers are always solved for as such
ROUNDING_EXCESS = 2e-3  # and above, where rounding the centers would add more than this part of the error
CLOSE = 1  # distance of a count from k at which windows are cheaper than another pass


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
        count = penalised(s0, s1, start_value, penalty, center, snap, best, parent, bounds)
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
        conquer(
            s0,
            s1,
            previous,
            low[j - 1],
            high[j - 1],
            low[j],
            high[j],
            center,
            snap,
            0.0,
            current,
            low[j] - offset[j],
            argument,
        )
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
        excess += d0 * (half_of(mean) - mean) ** 2
        error -= d1 * (mean - center)
        out[j] = half_of(mean) if snap else mean
    return error, excess


@inlined
def _optimal_centers(values, weights, half, ratio, out):  # type: ignore[no-untyped-def]
    """Write the ``len(out)`` centers of an optimal clustering of more distinct values; see below.

    Returns the squared error as a part of the total squared deviation. ``ratio``: that of a sample like this one, from
    which the search for the penalty starts, 0.0 when there is none.
    """
    n, k = len(values), len(out)
    s0, s1 = np.empty(n + 1), np.empty(n + 1)
    center, deviation, start_value = running_sums(values, weights, s0, s1)
    bounds = np.empty(k + 1, np.int32)
    snap = half and n <= SMALL
    if ratio > 0.0:
        penalty = 2.0 * ratio * deviation / (k + 1)  # the error falls about as 1 / k**2
    else:
        penalty = _start_penalty(s0, s1, start_value, k, deviation, center, snap)
    while True:
        _partition(s0, s1, start_value, k, penalty, center, snap, bounds)
        error, excess = _centers(s0, s1, deviation, center, snap, bounds, out)
        if snap or not half or excess <= ROUNDING_EXCESS * error:
            return error / deviation
        snap = True


@inlined
def _stored(center, half):  # type: ignore[no-untyped-def]
    return half_of(center) if half else np.float64(np.float32(center))


@inlined
def _stored_error(values, weights, centers, half):  # type: ignore[no-untyped-def]
    """The weighted squared error with every value at the nearest of the (ascending) centers, rounded as stored."""
    error, index = 0.0, 0
    near = _stored(centers[0], half)
    after, middle = near, -math.inf
    for i in range(len(values)):
        while values[i] > middle:
            near = after
            index += 1
            if index < len(centers):
                after = _stored(centers[index], half)
                middle = (near + after) * 0.5
            else:
                middle = math.inf
        error += weights[i] * (values[i] - near) ** 2
    return error


@compiled
def optimal_centers_of_groups(values, weights, offsets, half, out, errors):  # type: ignore[no-untyped-def]
    """Write the centers of an optimal clustering of each group into the rows of ``out`` (groups, k), ascending, and
    into ``errors`` (groups,) the weighted squared error that is left when they are stored as float16 or float32.

    ``values``, ``weights``: float64; those of group g, sorted, distinct, with positive weights, are ``offsets[g] ..
    offsets[g + 1] - 1``. ``half``: the centers will be stored as float16, so that where rounding them would cost more
    than ``ROUNDING_EXCESS`` of the error, or the problem is small, the centers are chosen among the float16 values
    instead. A group of at most k distinct values gets exactly these, the last one repeated.
    """
    k = out.shape[1]
    ratio = 0.0  # groups of one weight are alike
    for group in range(len(offsets) - 1):
        first, last = offsets[group], offsets[group + 1]
        if last - first > k:
            ratio = _optimal_centers(values[first:last], weights[first:last], half, ratio, out[group])
        else:
            for j in range(k):
                out[group, j] = values[min(first + j, last - 1)]
        errors[group] = _stored_error(values[first:last], weights[first:last], out[group], half)
