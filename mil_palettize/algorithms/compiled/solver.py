"""The globally optimal scalar k-means of a sorted weighted sample, compiled (numba, without the GIL).

The cost of a cluster is Monge (see ``monge``), so the smallest total cost is convex in the number of clusters k, and "k
clusters" can be traded for a penalty per cluster (Aggarwal, Schieber, Tokuyama 1994; Wu 1991 for quantizers):

1. ``monge.penalised``: for a penalty the best partition of any count, in one pass;
2. ``_search``: a secant on log penalty against log count until the count is k, or k lies closely between two
   counts that were seen;
3. ``_between``: boundaries of optimal partitions of k1 < k < k2 clusters interlace, so a layered divide and
   conquer inside the resulting windows is exact. With the trivial partitions (1 cluster, n clusters) as k1 and
   k2 this is the plain O(k n log n) dynamic program, so the solver is exact however the search ends.

Centers are numbers that the table can hold, float16 or float32 (``rounding``: see ``monge``): the optimum is that of
these tables.
"""

from __future__ import annotations

import math

import numpy as np

from mil_palettize.algorithms.compiled.jit import compiled, inlined
from mil_palettize.algorithms.compiled.monge import HALF, SINGLE, TOGETHER, conquer, penalised, running_sums, stored

MAX_PASSES = 48
BLOCK = 8  # points that are spread over boundaries together
CLOSE = 2  # distance of two counts at which their windows are as cheap as another pass
LIKE = 2.1  # the error falls about as 1 / k**2; a little more than 2 meets k most often, in weights like normal ones
PATIENCE = 6  # passes after which the counts may be farther apart: where points lie at equal distances, many are jumped


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
def _search(s0, s1, start_value, k, penalty, center, rounding, bounds_few, bounds_many):  # type: ignore[no-untyped-def]
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
        if not (many_penalty < penalty < few_penalty) or few_penalty <= many_penalty * (1.0 + 1e-9):
            break
        count = penalised(s0, s1, start_value, penalty, center, rounding, best, parent, bounds)
        if count <= k:
            few, few_penalty = count, penalty
            _copy(bounds, bounds_few, count + 1)
        if count >= k:
            many, many_penalty = count, penalty
            _copy(bounds, bounds_many, count + 1)
        bracketed = few_penalty < math.inf and many_penalty > 0.0
        if few == many or (bracketed and (many - few <= CLOSE or (round_ >= PATIENCE and min(k - few, many - k) == 1))):
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
def _between(s0, s1, start_value, k, center, rounding, bounds_few, few, bounds_many, many, bounds):  # type: ignore[no-untyped-def]
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
    values = np.empty(TOGETHER)
    previous[0] = start_value
    for j in range(1, k + 1):  # int64 as elsewhere: the loops of other types would be compiled anew
        conquer(
            s0,
            s1,
            previous,
            np.int64(low[j - 1]),
            np.int64(high[j - 1]),
            np.int64(low[j]),
            np.int64(high[j]),
            center,
            rounding,
            0.0,
            current,
            np.int64(low[j] - offset[j]),
            argument,
            values,
        )
        previous, current = current, previous
    bounds[k] = n
    for j in range(k, 0, -1):
        bounds[j - 1] = argument[offset[j] + bounds[j] - low[j]]


@inlined
def _shares(values, s0, shares):  # type: ignore[no-untyped-def]
    """Of each ``BLOCK`` of points: how many boundaries it wants, by high-resolution theory.

    An optimal quantizer has steps in proportion to density**(-1/3), so picks in that proportion are everywhere the same
    part of a step, whatever the range and the outliers.
    """
    n = len(values)
    for b in range(len(shares)):
        first, last = b * BLOCK, min((b + 1) * BLOCK, n)
        width = values[min(last, n - 1)] - values[first]
        shares[b] = np.cbrt(width * width * (s0[last] - s0[first]))


@inlined
def _level(shares, points):  # type: ignore[no-untyped-def]
    """The factor by which shares become about ``points`` picks, where no block has more than a pick for each point."""
    total = 0.0
    for share in shares:
        total += share
    factor = points / total if total > 0.0 else 0.0
    for _ in range(32):
        full, rest = 0, 0.0
        for share in shares:
            if share * factor >= BLOCK:
                full += 1
            else:
                rest += share
        left = points - full * BLOCK
        if left <= 0 or rest <= 0.0 or left <= rest * factor * 1.01:
            break
        factor = left / rest
    return factor


@inlined
def _thinned(values, s0, s1, points):  # type: ignore[no-untyped-def]
    """About ``points`` stretches: the first value of each, and the running sums at their ends."""
    n = len(values)
    shares = np.empty((n + BLOCK - 1) // BLOCK)
    _shares(values, s0, shares)
    factor = _level(shares, points)
    picked, picked0, picked1 = np.empty(n), np.empty(n + 1), np.empty(n + 1)
    picked[0], picked0[0], picked1[0] = values[0], s0[0], s1[0]
    count, position = 0, 0.0
    for i in range(1, n + 1):
        position += min(shares[(i - 1) // BLOCK] * factor / BLOCK, 1.0)
        if position >= 1.0 or i == n:
            position -= 1.0
            count += 1
            picked0[count], picked1[count] = s0[i], s1[i]
            if i < n:
                picked[count] = values[i]
    return picked[:count], picked0[: count + 1], picked1[: count + 1]


@inlined
def _start_penalty(values, s0, s1, start_value, k, deviation, center, rounding):  # type: ignore[no-untyped-def]
    """A penalty near the one of k clusters: searches where only some, then more of the points may be boundaries."""
    n = len(values)
    penalty = 5.4 * deviation / float(k) ** 3  # high-resolution theory for a normal density
    points = 8 * k + 64
    finest = points
    while n >= 32 * finest:
        finest *= 8
    if finest > points:  # coarser ones are chosen from the finest, not from all
        values, s0, s1 = _thinned(values, s0, s1, finest)
    while n >= 4 * points:
        picked0, picked1 = s0, s1
        if len(values) > points:
            _, picked0, picked1 = _thinned(values, s0, s1, points)
        count = len(picked0) - 1
        few, many = np.empty(count + 1, np.int32), np.empty(count + 1, np.int32)
        if count > k:
            penalty = _search(picked0, picked1, start_value, k, penalty, center, rounding, few, many)[2]
        points *= 8
    return penalty


@inlined
def _partition(s0, s1, start_value, k, penalty, center, rounding, bounds):  # type: ignore[no-untyped-def]
    """Fill ``bounds[0 .. k]`` with an optimal partition into k clusters, ``1 <= k < n``."""
    n = len(s0) - 1
    bounds_few = np.empty(n + 1, np.int32)
    bounds_many = np.empty(n + 1, np.int32)
    few, many, _ = _search(s0, s1, start_value, k, penalty, center, rounding, bounds_few, bounds_many)
    if few == many:
        _copy(bounds_few, bounds, k + 1)
    else:
        _between(s0, s1, start_value, k, center, rounding, bounds_few, few, bounds_many, many, bounds)


@inlined
def _centers(s0, s1, deviation, center, rounding, bounds, out):  # type: ignore[no-untyped-def]
    """Write each cluster's center; returns the squared error (not exactly: for the next search)."""
    error = deviation
    for j in range(len(out)):
        d0 = s0[bounds[j + 1]] - s0[bounds[j]]
        d1 = s1[bounds[j + 1]] - s1[bounds[j]]
        mean = d1 / d0 if d0 > 0.0 else 0.0
        error -= d1 * mean
        out[j] = stored(mean + center, rounding)
    return error


@inlined
def _optimal_centers(values, weights, rounding, most, ratio, out):  # type: ignore[no-untyped-def]
    """Write the ``len(out)`` centers of an optimal clustering of more distinct values; see below.

    Returns the squared error as a part of the total squared deviation. ``ratio``: that of a sample like this one, from
    which the search for the penalty starts, 0.0 when there is none. ``most``: see below.
    """
    n, k = len(values), len(out)
    s0, s1 = np.empty(n + 1), np.empty(n + 1)
    center, deviation, start_value = running_sums(values, weights, s0, s1)
    if most and n > most:
        values, s0, s1 = _thinned(values, s0, s1, most)
    bounds = np.empty(k + 1, np.int32)
    if ratio > 0.0:
        penalty = LIKE * ratio * deviation / (k + 1)
    else:
        penalty = _start_penalty(values, s0, s1, start_value, k, deviation, center, rounding)
    _partition(s0, s1, start_value, k, penalty, center, rounding, bounds)
    return _centers(s0, s1, deviation, center, rounding, bounds, out) / deviation


@inlined
def _stored_error(values, weights, centers, rounding):  # type: ignore[no-untyped-def]
    """The weighted squared error with every value at the nearest of the (ascending) centers, rounded as stored."""
    error, index = 0.0, 0
    near = stored(centers[0], rounding)
    after, middle = near, -math.inf
    for i in range(len(values)):
        while values[i] > middle:
            near = after
            index += 1
            if index < len(centers):
                after = stored(centers[index], rounding)
                middle = (near + after) * 0.5
            else:
                middle = math.inf
        error += weights[i] * (values[i] - near) ** 2
    return error


@compiled
def optimal_centers_of_groups(values, weights, offsets, half, most, out, errors):  # type: ignore[no-untyped-def]
    """Write the centers of an optimal clustering of each group into the rows of ``out`` (groups, k), ascending, and
    into ``errors`` (groups,), unless it is empty, the weighted squared error that is left when they are stored.

    ``values``, ``weights``: float64; those of group g, sorted, distinct, with positive weights, are ``offsets[g] ..
    offsets[g + 1] - 1``. The centers are those of all float16 (``half``) or float32 numbers with the least squared
    error. A group of at most k distinct values gets exactly these, the last one repeated. ``most``: 0, or about how
    many of the places between two values may become a boundary, well spread: quicker, and not exact any more.
    """
    k = out.shape[1]
    rounding = HALF if half else SINGLE
    ratio = 0.0  # groups of one weight are alike
    for group in range(len(offsets) - 1):
        first, last = offsets[group], offsets[group + 1]
        if last - first > k:
            ratio = _optimal_centers(values[first:last], weights[first:last], rounding, most, ratio, out[group])
        else:
            for j in range(k):
                out[group, j] = values[min(first + j, last - 1)]
        if len(errors):
            errors[group] = _stored_error(values[first:last], weights[first:last], out[group], rounding)
