"""What each palette of a weight would lose: by the weight alone, or with what samples told of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from mil_palettize.algorithms.layerwise.pivots import pivots
from mil_palettize.algorithms.layerwise.structured import structured_power, structured_square
from mil_palettize.algorithms.making import ArraySource, NonFiniteError, make_palette
from mil_palettize.budget.choices import Candidate, Choice
from mil_palettize.budget.samples import part_of
from mil_palettize.calibration.without_samples import Reading, reading

# At 1 bit entries lie too far apart for the columns after to make good what they should: measured on ResNet-20, 1.55 to
# 1.6 times the squared error is left where 1.31 would be.
_ONE_BIT = 1.2
_LEAST = 1e-9  # of the largest: no element counts nothing
_MOST_COLUMNS = 1024


@dataclass(frozen=True, eq=False)
class Evaluated:
    """A choice with the error of each of its candidates, 0 for the weight as it is."""

    choice: Choice
    errors: tuple[float, ...]


def evaluated(choice: Choice, weight: np.ndarray, cost: np.ndarray | None = None) -> Evaluated:
    """``weight``: its values; ``cost``: how much a squared rounding error of each of its elements counts, float of its
    shape, None without samples: then as compensation under structured moments (``structured_square``) leaves it,
    relative to the weight's power under these. What is measured is a part of the weight (``part_of``). Palettes of more
    bits in the same groups lose no more. A weight that holds NaN or infinities can only be left alone."""
    if not np.isfinite(weight).all():
        return Evaluated(replace(choice, candidates=choice.candidates[:1]), (0.0,))
    read = reading(choice.weight)
    axis, kernel = _axis(choice, read), 0 if read is None else read.kernel
    part = np.ascontiguousarray(part_of(weight, axis, kernel))
    if cost is None:
        counts = _structured_cost(part, axis, read)
        importance = None
    else:
        counts = np.maximum(part_of(cost, axis, kernel).astype(np.float64), float(cost.max()) * _LEAST or _LEAST)
        importance = counts
        counts = counts * (float(cost.sum(dtype=np.float64)) / float(counts.sum()))
    errors = [0.0, *(_error(part, c, counts, importance) for c in choice.candidates[1:])]
    finite = [i for i, error in enumerate(errors) if np.isfinite(error)]
    candidates = tuple(choice.candidates[i] for i in finite)
    return Evaluated(replace(choice, candidates=candidates), _never_worse(candidates, [errors[i] for i in finite]))


def _structured_cost(part: np.ndarray, axis: int, read: Reading | None) -> np.ndarray:
    """Of each element, over the power of all."""
    wide = part.astype(np.float64)
    if read is None:
        return np.full(part.shape, 1.0 / (float(np.vdot(wide, wide)) or 1.0))
    rows = np.moveaxis(wide, axis, 0)
    window = math.prod(part.shape[part.ndim - read.kernel :])
    columns = rows[0].size
    power = structured_power(rows.reshape(len(rows), -1), window) or 1.0
    inner = _structured_pivots(columns, window).reshape(rows[0].shape) / power
    return np.moveaxis(np.broadcast_to(inner, rows.shape), 0, axis)


@lru_cache(maxsize=64)
def _structured_pivots(columns: int, window: int) -> np.ndarray:
    if columns > _MOST_COLUMNS:  # the further ones are as the last window
        whole = _MOST_COLUMNS // window * window
        found = _structured_pivots(whole or window, window)
        return np.resize(found, columns)
    return pivots(structured_square(columns, window))


def _axis(choice: Choice, read: Reading | None) -> int:
    """Along which channels are kept together."""
    if read is not None:
        return read.rows
    axes = (c.specification.axis for c in choice.candidates if c.specification is not None)
    return next((axis for axis in axes if axis is not None), 0)


def _error(part: np.ndarray, candidate: Candidate, counts: np.ndarray, importance: np.ndarray | None) -> float:
    request, specification = candidate.request, candidate.specification
    assert request is not None
    assert request.nbits is not None
    assert specification is not None
    try:
        made = make_palette(ArraySource("", part), specification, importance=importance)
    except NonFiniteError:  # a sum of large values
        return float("inf")
    difference = part - made.expr.decode().astype(np.float64)
    left = float(np.vdot(counts * difference, difference))
    return left * _ONE_BIT if request.nbits <= request.cluster_dim else left


def _never_worse(candidates: Sequence[Candidate], errors: Sequence[float]) -> tuple[float, ...]:
    """Of the same groups and vectors the least error up to each number of bits."""
    best: dict[object, float] = {}
    found = list(errors)
    order = sorted(range(1, len(errors)), key=lambda i: getattr(candidates[i].request, "nbits", 0) or 0)
    for i in order:
        kind = {k: v for k, v in (candidates[i].options or {}).items() if k != "nbits"}
        key = tuple(sorted(kind.items()))
        best[key] = found[i] = min(best.get(key, np.inf), errors[i])
    return tuple(found)
