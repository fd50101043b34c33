"""A palette made for what its op gives: assignment with compensation, then tables and indices in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mil_palettize.algorithms.layerwise.assignment import compensated, descended
from mil_palettize.algorithms.layerwise.form import Values, put_together, rounded, taken_apart, with_indices
from mil_palettize.algorithms.layerwise.moments import Objective
from mil_palettize.algorithms.layerwise.refit import refitted_scales, refitted_tables
from mil_palettize.algorithms.layerwise.work import Work, arranged
from mil_palettize.expressions.weight_expr import WeightExpr

_SWEEPS = 2
_WORTH = 1e-3  # relative gain of a round below which the next is not made
_COMPENSATED = 3  # rounds that assign anew
_STEPS = 8  # of conjugate gradients in a refit, at most
LARGE = 1 << 33  # products of an element with a column, from which on less is tried


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """``objective``: of ``expr``, rounded as it is stored; ``before``: of the palette it began with; ``rounds``: of
    refits that were made."""

    expr: WeightExpr
    objective: float
    before: float
    rounds: int


def reconstructed(
    expr: WeightExpr, objectives: Sequence[Objective], *, rounds: int, tables: bool = True, assigned: bool = False
) -> Reconstruction:
    """The palette ``expr`` with other indices, entries and scales, for a smaller sum of ``objectives``.

    Together these cover every element of the weight once. ``rounds``: of refits, at most, fewer where the matrices are
    large; 0 keeps the assignment with compensation (GPTQ). ``tables``: whether the entries may change. ``assigned``:
    the indices of ``expr`` are such an assignment already. What is returned has at most the objective of ``expr``.
    Raises UnsupportedLayoutError.
    """
    form, values = taken_apart(expr)
    works = [arranged(objective, form, values.tables.shape[2]) for objective in objectives]
    solver = _Solver(works, values)
    before = solver.objective
    if not assigned:
        solver.assign()
    done, most, steps = 0, *_effort(works, rounds if tables else 0)
    for done in range(1, most + 1):
        last = solver.objective
        solver.refit(steps, scales=form.scale is not None)
        solver.descend()
        if done < _COMPENSATED and done < most:
            solver.assign()
        if not solver.objective < last * (1.0 - _WORTH):
            break
    if not most:
        solver.descend()
    best = solver.stored(expr, refit=done > 0)
    if not best.objective <= before:
        return Reconstruction(expr, before, before, done)
    return Reconstruction(best.expr, best.objective, before, done)


def _effort(works: Sequence[Work], rounds: int) -> tuple[int, int]:
    """Rounds, and steps of each refit of the tables, so that time does not follow the cube of a matrix' size."""
    size = sum(work.error.size * work.error.shape[-1] for work in works)
    if size <= LARGE:
        return rounds, _STEPS
    return min(rounds, max(1, int(rounds * LARGE / size))), _STEPS // 2


@dataclass(frozen=True, eq=False)
class _Stored:
    expr: WeightExpr
    objective: float


class _Solver:
    """Values that change, and the works that hold what follows from them."""

    def __init__(self, works: Sequence[Work], values: Values) -> None:
        self.works, self.values = works, values
        self._put(values)

    @property
    def objective(self) -> float:
        return float(sum(work.objective for work in self.works))

    def _put(self, values: Values) -> None:
        self.values = values
        for work in self.works:
            work.put(values)

    def _indices(self) -> np.ndarray:
        """Of all works, in their places."""
        indices = self.values.indices.copy()
        for work in self.works:
            indices[work.slot] = work.indices
        return indices

    def _keep_indices(self) -> None:
        self.values = Values(self.values.tables, self._indices(), self.values.scales)

    def assign(self) -> None:
        """Anew with compensation, where that is better than what there is."""
        before, kept = self.objective, self.values
        for work in self.works:
            compensated(work, kept)
        self._put(Values(kept.tables, self._indices(), kept.scales))
        if not self.objective < before:
            self._put(kept)

    def descend(self) -> None:
        for work in self.works:
            descended(work, self.values, _SWEEPS)
        self._keep_indices()

    def refit(self, steps: int, *, scales: bool) -> None:
        """Tables, and scales in turn; what does not lower the objective is not taken."""
        before, kept = self.objective, self.values
        self._put(
            Values(refitted_tables(self.works, kept, min(steps, kept.tables.shape[1])), kept.indices, kept.scales)
        )
        if not self.objective <= before:
            self._put(kept)
        if scales:
            before, kept = self.objective, self.values
            self._put(Values(kept.tables, kept.indices, refitted_scales(self.works, kept)))
            if not self.objective <= before:
                self._put(kept)

    def stored(self, expr: WeightExpr, *, refit: bool) -> _Stored:
        """Rounded to what the expression holds, with the indices that are then best."""
        if not refit:
            return _Stored(with_indices(expr, self.values.indices), self.objective)
        values, grids = rounded(expr, self.values)
        self._put(values)
        self.descend()
        return _Stored(put_together(expr, self.values, grids), self.objective)
