"""A model's weights in another model that was made of it, whatever they are called there."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

import numpy as np

from mil_palettize.program.bare_names import bare_name
from mil_palettize.program.weight import Weight, WeightId

# What coremltools puts in front of names that begin with a digit, which it does anew whenever it loads a model.
_BEFORE_DIGITS = re.compile(r"^(op|var)?_*(?=\d)")
_SAMPLED = 4096  # values of a weight that are looked at
_ALIKE = 0.7  # least cosine of a weight and what a compression left of it
Values = Callable[[WeightId], np.ndarray | None]


def counterparts(
    one: Sequence[Weight], two: Sequence[Weight], values_one: Values, values_two: Values
) -> dict[WeightId, WeightId]:
    """Weights of ``one`` with those of ``two`` that are the same by what they are called; else by the ops that read
    them; else by what they are called without what coremltools adds to names; else by their values. No guess is made
    between several, and where values are others than those ops and names promise, they go first: a conversion numbers
    ops, so that those of other layers may be called alike. ``values_one``, ``values_two``: of a weight, flat, None
    where they are not known.

    Both are of functions that correspond, which may be called otherwise.
    """
    found: dict[WeightId, WeightId] = _pairs(one, two, _place)
    doubtful: dict[WeightId, WeightId] = {}
    for key in (_readers, _plain_name):
        for mine, theirs in _pairs(*_left(one, found, two), key).items():
            known = doubtful if _differ(mine, theirs, values_one, values_two) else found
            known.setdefault(mine, theirs)
    left, others = _left(one, found, two)
    for shape in {weight.shape for weight in left} & {weight.shape for weight in others}:
        mine_alike, theirs_alike = ([w.id for w in weights if w.shape == shape] for weights in (left, others))
        found |= _alike(mine_alike, theirs_alike, values_one, values_two)
    for mine, theirs in doubtful.items():
        if mine not in found and theirs not in found.values():
            found[mine] = theirs
    return found


def sampled(array: np.ndarray) -> np.ndarray:
    """Some of the values of a weight, evenly spread, in float64."""
    flat = array.reshape(-1)
    return flat[:: max(1, flat.size // _SAMPLED)][:_SAMPLED].astype(np.float64)


def _left(
    one: Sequence[Weight], found: Mapping[WeightId, WeightId], two: Sequence[Weight]
) -> tuple[list[Weight], list[Weight]]:
    """Of both, those that are not among the ``found`` pairs."""
    taken = set(found.values())
    return [weight for weight in one if weight.id not in found], [weight for weight in two if weight.id not in taken]


def _pairs(one: Sequence[Weight], two: Sequence[Weight], key: Callable[[Weight], Hashable]) -> dict[WeightId, WeightId]:
    mine, theirs = (_unique(weights, key) for weights in (one, two))
    return {weight.id: theirs[value].id for value, weight in mine.items() if value in theirs}


def _differ(mine: WeightId, theirs: WeightId, values_one: Values, values_two: Values) -> bool:
    """Whether both have values, and these are not alike."""
    rows, columns = _directions([mine], values_one), _directions([theirs], values_two)
    return bool(rows and columns) and float(rows[mine] @ columns[theirs]) < _ALIKE


def _unique(weights: Iterable[Weight], key: Callable[[Weight], Hashable]) -> dict[Hashable, Weight]:
    """By their key, without those that share it, or have none."""
    keys = [(key(weight), weight) for weight in weights]
    count = Counter(value for value, _ in keys)
    return {value: weight for value, weight in keys if value is not None and count[value] == 1}


def _place(weight: Weight) -> Hashable:
    return weight.id.stage, weight.block, weight.name


def _readers(weight: Weight) -> Hashable:
    readers = frozenset((c.op_type, c.op_name, c.input_name) for c in weight.consumers)
    return (weight.id.stage, weight.block, weight.shape, readers) if readers else None


def _plain_name(weight: Weight) -> Hashable:
    plain = _BEFORE_DIGITS.sub("", re.sub(r"\W+", "_", bare_name(weight.name)))
    return weight.id.stage, weight.block, weight.shape, plain


def _alike(
    one: Sequence[WeightId], two: Sequence[WeightId], values_one: Values, values_two: Values
) -> dict[WeightId, WeightId]:
    """Pairs of which each is the nearest to the other."""
    rows, columns = _directions(one, values_one), _directions(two, values_two)
    if not rows or not columns:
        return {}
    cosines = np.stack(list(rows.values())) @ np.stack(list(columns.values())).T
    best, back = cosines.argmax(axis=1), cosines.argmax(axis=0)
    mine, theirs = list(rows), list(columns)
    return {mine[i]: theirs[j] for i, j in enumerate(best) if back[j] == i and cosines[i, j] >= _ALIKE}


def _directions(weights: Sequence[WeightId], values: Values) -> dict[WeightId, np.ndarray]:
    """Values of length 1, of those that have a direction."""
    found = {weight: array for weight in weights if (array := values(weight)) is not None}
    lengths = {weight: float(np.linalg.norm(array)) for weight, array in found.items()}
    return {w: array / lengths[w] for w, array in found.items() if 0 < lengths[w] < np.inf}
