"""The palette of one weight, chosen among several by the error of what its op gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from mil_palettize.algorithms.layerwise.form import UnsupportedLayoutError
from mil_palettize.algorithms.layerwise.moments import Moments, Objective, importance, objective
from mil_palettize.algorithms.layerwise.reconstruction import LARGE, reconstructed
from mil_palettize.encoding.encoder import PMap
from mil_palettize.expressions.weight_expr import WeightExpr

PLAIN = "plain"
IMPORTANCE = "importance"
FISHER = "Fisher importance"
SYMMETRIC = "compensated"
ASYMMETRIC = "compensated, asymmetric"
# Times the plain palette's squared error that a weight may move where no real sample says that it does no harm.
_FARTHEST = 10.0
DAMPINGS = (0.01, 0.1, 0.3)
_IMPORTANCES = (1.0, 0.1)
# Where gates saturate, large weights hardly count and little damping is best; elsewhere it ruins palettes.
_FISHERS = (1.0, 0.1, 0.01, 0.001)

# A palette for these weights of the elements' errors (None: all alike).
Make = Callable[["np.ndarray | None"], WeightExpr]
# The error of what comes out behind the op with this array in the weight's place, relative to its power.
Judge = Callable[[np.ndarray], float]


@dataclass(frozen=True, eq=False)
class Knowledge:
    """What samples told of a weight (float64, of its shape). ``moments``: of the ops that multiply with it, together
    covering every element once, () where they do not; ``reads``: how often look-ups read the elements, None without
    any; ``judge``: None where no samples are held out. ``made_up``: so that what layers before lost tells nothing of
    what they lose on others; ``sensitivity``: how much the op's output depends on each element, None where moments say
    that; ``usual``: the damping where nothing tells which is best."""

    weight: np.ndarray
    moments: tuple[Moments, ...]
    reads: np.ndarray | None
    judge: Judge | None
    made_up: bool
    sensitivity: np.ndarray | None = None
    usual: float = 0.1

    @property
    def large(self) -> bool:
        """Whether time does not allow to try much."""
        return sum(m.where.size * m.where.shape[2] for m in self.moments) > LARGE


@dataclass(frozen=True, eq=False)
class Choice:
    """``method`` and ``damping``: of what was chosen; ``before`` and ``after``: errors of the output, relative to its
    power, with the plain palette and with this one, None where they were not measured; ``restricted``: its form, or the
    ops that read it, rule compensation out."""

    expr: WeightExpr
    method: str
    damping: float
    before: float | None = None
    after: float | None = None
    restricted: bool = False

    @property
    def decibels(self) -> tuple[float, float] | None:
        """Signal to noise of the output, before and after."""
        if self.before is None or self.after is None:
            return None
        return _decibels(self.before), _decibels(self.after)


def _decibels(error: float) -> float:
    return math.inf if error == 0.0 else -10.0 * math.log10(error)


def choose(known: Knowledge, make: Make, *, reconstruct: bool, tables: bool, rounds: int, spread: PMap = map) -> Choice:
    """The palette with the least error of what comes out behind the op; the plain one where that is as good.

    ``reconstruct``: also with compensation. ``tables``: whether entries may change. ``spread``: like ``map``, for
    palettes. Without a judge: compensation at the usual damping, or where it cannot be the weighted optimum. Where
    samples are made up, and without any, no palette moves the weight far from where the plain one has it.
    """
    found = [Choice(make(None), PLAIN, 0.0)]
    near = _Near(known, found[0])
    found += filter(near, _weighted(known, make))
    compensated = _compensated(known, make, tables, spread) if reconstruct and known.moments else []
    restricted = reconstruct and known.reads is None and not compensated
    compensated = [choice for choice in compensated if near(choice)]
    if known.judge is None:
        best = (compensated or found)[-1]
        again = _alternated(known, best, tables, rounds) if compensated else best
        return replace(again if near(again) else best, restricted=restricted)
    judged = [_judged(choice, known.judge) for choice in (*found, *compensated)]
    plain = judged[0]
    best = min(judged, key=_error)
    if best.method in (SYMMETRIC, ASYMMETRIC):
        again = _judged(_alternated(known, best, tables, rounds), known.judge)
        best = min(best, again, key=_error) if near(again) else best
    return replace(best, before=plain.after, restricted=restricted)


class _Near:
    """Whether a palette moves the weight no farther than it may."""

    def __init__(self, known: Knowledge, plain: Choice) -> None:
        self._weight, self._bounded = known.weight, known.made_up
        self._most = _FARTHEST * self._moved(plain) if self._bounded else math.inf

    def __call__(self, choice: Choice) -> bool:
        return not self._bounded or self._moved(choice) <= self._most

    def _moved(self, choice: Choice) -> float:
        return float(np.square(choice.expr.decode() - self._weight).sum())


def _error(choice: Choice) -> float:
    assert choice.after is not None
    return choice.after


def _judged(choice: Choice, judge: Judge) -> Choice:
    return replace(choice, after=judge(choice.expr.decode()))


def _weighted(known: Knowledge, make: Make) -> list[Choice]:
    """Weighted optima, the last the usual one."""
    shape, found = known.weight.shape, []
    if known.sensitivity is not None and known.judge is not None:
        for damping in _FISHERS:
            found.append(Choice(make(_damped(known.sensitivity, damping)), FISHER, damping))
    for damping in _IMPORTANCES if known.judge is not None else (known.usual,):
        if known.reads is not None:
            weights = _damped(known.reads, damping)
        elif known.moments:
            weights = importance(known.moments, known.weight.size, damping)
        else:
            continue
        found.append(Choice(make(weights.reshape(shape)), IMPORTANCE, damping))
    return found


def _damped(importance: np.ndarray, damping: float) -> np.ndarray:
    return importance + damping * float(importance.mean() or 1.0)


def _compensated(known: Knowledge, make: Make, tables: bool, spread: PMap) -> list[Choice]:
    """Assignments with compensation, the last the usual one."""
    kinds = [False] if known.made_up or all(m.cross is None for m in known.moments) else [False, True]
    dampings = DAMPINGS if known.judge is not None and not known.large else (known.usual,)
    assign = partial(_assigned, known.moments, known.weight, tables)
    begun = ((_weighed(known, make, damping), damping) for damping in dampings)
    wanted = ((start, damping, asymmetric) for start, damping in begun for asymmetric in kinds)
    try:
        return list(spread(assign, wanted))
    except UnsupportedLayoutError:
        return []


def _alternated(known: Knowledge, choice: Choice, tables: bool, rounds: int) -> Choice:
    """What was assigned with compensation, tables and indices in turn."""
    asymmetric = choice.method == ASYMMETRIC
    objectives = _objectives(known.moments, known.weight, choice.damping, asymmetric)
    made = reconstructed(choice.expr, objectives, rounds=rounds, tables=tables, assigned=True)
    return replace(choice, expr=made.expr)


def _weighed(known: Knowledge, make: Make, damping: float) -> WeightExpr:
    weights = importance(known.moments, known.weight.size, damping)
    return make(weights.reshape(known.weight.shape))


def _assigned(
    moments: Sequence[Moments], weight: np.ndarray, tables: bool, wanted: tuple[WeightExpr, float, bool]
) -> Choice:
    """``wanted``: the palette to begin with, the damping, and whether the target is asymmetric."""
    expr, damping, asymmetric = wanted
    aims = _objectives(moments, weight, damping, asymmetric)
    made = reconstructed(expr, aims, rounds=0, tables=tables)
    return Choice(made.expr, ASYMMETRIC if asymmetric else SYMMETRIC, damping)


def _objectives(moments: Sequence[Moments], weight: np.ndarray, damping: float, asymmetric: bool) -> list[Objective]:
    flat = weight.reshape(-1)
    return [objective(m, flat, damping, asymmetric=asymmetric) for m in moments]


def covering(parts: Sequence[Moments], size: int) -> tuple[Moments, ...]:
    """Moments of matrices that together hold each of ``size`` elements once: those with the same places are added;
    () where places overlap otherwise, or are left out."""
    found: list[Moments] = []
    for part in parts:
        same = next((i for i, other in enumerate(found) if np.array_equal(other.where, part.where)), None)
        if same is None:
            found.append(part)
        else:
            found[same] = _sum(found[same], part)
    counts = np.zeros(size, np.int64)
    for part in found:
        np.add.at(counts, part.where, 1)
    return tuple(found) if (counts == 1).all() else ()


def _sum(one: Moments, two: Moments) -> Moments:
    cross = None
    if one.cross is not None or two.cross is not None:
        cross = np.sum([part.square if part.cross is None else part.cross for part in (one, two)], axis=0)
    missing = [part.residual for part in (one, two) if part.residual is not None]
    residual = sum(missing[1:], missing[0]) if missing else None
    return Moments(one.where, one.square + two.square, cross, one.count + two.count, residual)
