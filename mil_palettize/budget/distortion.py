"""What each palette of a weight would lose: by the weight alone, or with what samples told of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

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
_MANY = (6, 8)  # bits


@dataclass(frozen=True, eq=False)
class Evaluated:
    """A choice with the error of each of its candidates, 0 for the weight as it is."""

    choice: Choice
    errors: tuple[float, ...]


def evaluated(
    choice: Choice, weight: np.ndarray, cost: np.ndarray | None = None, given: np.ndarray | None = None
) -> Evaluated:
    """``weight``: its values; ``cost``: how much a squared rounding error of each of its elements counts, float of its
    shape, None without samples: then as compensation under structured moments (``structured_square``) leaves it,
    relative to the weight's power under these. ``given``: how much elements count besides, relative to the mean:
    positive, of its shape. What is measured is a part of the weight (``part_of``). Palettes of more bits in the same
    groups lose no more. A weight that holds NaN or infinities can only be left alone."""
    if not np.isfinite(weight).all():
        return Evaluated(choice.kept(choice.candidates[:1], "it holds NaN or infinities"), (0.0,))
    read = reading(choice.weight)
    axis, kernel = _axis(choice, read), 0 if read is None else read.kernel
    part = np.ascontiguousarray(part_of(weight, axis, kernel))
    shares = None if given is None else given / float(given.mean())
    if cost is None:
        importance = None if shares is None else np.ascontiguousarray(part_of(shares, axis, kernel))
        counts = structured_cost(part, axis, read) * (1.0 if importance is None else importance)
    else:
        cost = cost if shares is None else cost * shares
        importance = np.maximum(part_of(cost, axis, kernel).astype(np.float64), float(cost.max()) * _LEAST or _LEAST)
        counts = importance * (float(cost.sum(dtype=np.float64)) / float(importance.sum()))
    cut = part.size < weight.size
    errors = [0.0]
    for candidate in choice.candidates[1:]:
        derived = _derived(choice.candidates, errors, candidate) if cut else None
        errors.append(_error(part, candidate, counts, importance) if derived is None else derived)
    finite = [i for i, error in enumerate(errors) if np.isfinite(error)]
    kept = choice.kept((choice.candidates[i] for i in finite), "sums of its values are infinite")
    return Evaluated(kept, _never_worse(kept.candidates, [errors[i] for i in finite]))


def structured_cost(part: np.ndarray, axis: int, read: Reading | None) -> np.ndarray:
    """How much a squared error of each element counts under structured moments, over the power of all: float64 of the
    shape of ``part``, whose channels lie along ``axis``. ``read``: None where nothing holds of the inputs."""
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


def _derived(candidates: Sequence[Candidate], errors: Sequence[float], candidate: Candidate) -> float | None:
    """The error of many small tables with many entries, which would be fitted to the few elements of a part: that at 4
    bits, times what as many bits gain in one table. None where that is not known, or is not the case."""
    request = candidate.request
    assert request is not None
    if request.nbits not in _MANY or not request.grouped:
        return None
    kind = _kind(candidate)
    known = {(_kind(c), c.request.nbits): e for c, e in zip(candidates, errors, strict=False) if c.request is not None}
    own, few, many = (known.get(key) for key in ((kind, 4), ((), 4), ((), request.nbits)))
    return own * many / few if own is not None and few and many is not None else None


def _kind(candidate: Candidate) -> tuple[tuple[str, Any], ...]:
    """All but the number of bits, () for one table of scalars."""
    options = candidate.options or {}
    return tuple(sorted((k, v) for k, v in options.items() if k not in ("nbits", "weight_threshold")))


def _never_worse(candidates: Sequence[Candidate], errors: Sequence[float]) -> tuple[float, ...]:
    """Of the same groups and vectors the least error up to each number of bits."""
    best: dict[object, float] = {}
    found = list(errors)
    order = sorted(range(1, len(errors)), key=lambda i: getattr(candidates[i].request, "nbits", 0) or 0)
    for i in order:
        key = _kind(candidates[i])
        best[key] = found[i] = min(best.get(key, np.inf), errors[i])
    return tuple(found)
