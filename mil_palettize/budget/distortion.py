"""What each palette of a weight would lose, by the weight alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mil_palettize.algorithms.layerwise.structured import structured_power
from mil_palettize.algorithms.making import ArraySource, NonFiniteError, make_palette
from mil_palettize.algorithms.specification import PaletteSpecification
from mil_palettize.budget.choices import Candidate, Choice
from mil_palettize.budget.samples import part_of
from mil_palettize.calibration.without_samples import Reading, reading

# What compensation leaves under structured moments, times the squared error of the plain palette: 1.28 to 1.35 from 2
# bits on and 1.5 to 1.6 at 1 bit, for every group size and weight of ResNet-20.
_LEFT, _LEFT_AT_ONE_BIT = 1.3, 1.6


@dataclass(frozen=True, eq=False)
class Evaluated:
    """A choice with the error of each of its candidates: relative to the power of what the op gives, 0 for the weight
    as it is."""

    choice: Choice
    errors: tuple[float, ...]


def evaluated(choice: Choice, weight: np.ndarray) -> Evaluated:
    """``weight``: its values. Errors are those of a part of it (``part_of``), after compensation under structured
    moments (``structured_square``), relative to the power under these. Palettes of more bits in the same groups lose no
    more. A weight that holds NaN or infinities can only be left alone."""
    if not np.isfinite(weight).all():
        return Evaluated(replace(choice, candidates=choice.candidates[:1]), (0.0,))
    read = reading(choice.weight)
    axis = _axis(choice, read)
    part = np.ascontiguousarray(part_of(weight, axis, 0 if read is None else read.kernel))
    power = _power(part, axis, read) or 1.0
    errors = [0.0, *(_squared_error(part, c.specification) * _left(c) / power for c in choice.candidates[1:])]
    finite = [i for i, error in enumerate(errors) if np.isfinite(error)]
    candidates = tuple(choice.candidates[i] for i in finite)
    return Evaluated(replace(choice, candidates=candidates), _never_worse(candidates, [errors[i] for i in finite]))


def _axis(choice: Choice, read: Reading | None) -> int:
    """Along which channels are kept together."""
    if read is not None:
        return read.rows
    axes = (c.specification.axis for c in choice.candidates if c.specification is not None)
    return next((axis for axis in axes if axis is not None), 0)


def _power(part: np.ndarray, axis: int, read: Reading | None) -> float:
    wide = part.astype(np.float64)
    if read is None:
        return float(np.vdot(wide, wide))
    window = int(np.prod(part.shape[part.ndim - read.kernel :])) if read.kernel else 1
    return structured_power(np.moveaxis(wide, axis, 0).reshape(part.shape[axis], -1), window)


def _squared_error(part: np.ndarray, specification: PaletteSpecification | None) -> float:
    assert specification is not None
    try:
        return make_palette(ArraySource("", part), specification).sse
    except NonFiniteError:  # a sum of large values
        return float("inf")


def _left(candidate: Candidate) -> float:
    request = candidate.request
    assert request is not None
    assert request.nbits is not None
    return _LEFT_AT_ONE_BIT if request.nbits <= request.cluster_dim else _LEFT


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
