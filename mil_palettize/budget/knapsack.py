"""One of several for each, of the least sum of errors within a sum of costs: solved to optimality."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from mil_palettize.budget.relaxation import Rows, relaxed

_SECONDS = 20.0
_GAP = 1e-6


@dataclass(frozen=True)
class Solution:
    """``picked``: a number for each choice; ``gap``: how far its errors may lie above the least sum, relative to it."""

    picked: tuple[int, ...]
    gap: float


def cheapest(costs: Rows, errors: Rows, most: float) -> Solution | None:
    """The choice of one candidate from each row of ``costs`` and ``errors`` with the least sum of errors of those whose
    costs add up to ``most`` or less; None where there is none. The multiple-choice knapsack: its relaxation rules most
    candidates out, of what is left it is the branch and bound of HiGHS (``scipy.optimize.milp``), stopped after a time.
    """
    if sum(min(row) for row in costs) > most:
        return None
    first = relaxed(costs, errors, most)
    if _gap(first.error, first.least) <= _GAP:
        return Solution(first.picked, _gap(first.error, first.least))
    possible = first.possible(costs, errors)
    open_rows = [i for i, row in enumerate(possible) if len(row) > 1]
    fixed = [(i, row[0]) for i, row in enumerate(possible) if len(row) == 1]
    rest = most - sum(costs[i][j] for i, j in fixed)
    settled = sum(errors[i][j] for i, j in fixed)
    if first.error <= settled:  # none can be better
        return Solution(first.picked, 0.0)
    rows = [(costs[i], errors[i], possible[i]) for i in open_rows]
    found, least = _branched(rows, rest, _GAP * max(1.0, first.least / (first.error - settled)))
    least = max(least + settled, first.least)
    if found is not None:
        picked = list(first.picked)
        for i, j in zip(open_rows, found, strict=True):
            picked[i] = j
        error, spent = _sum(errors, picked), _sum(costs, picked)
        if error <= first.error and spent <= most:
            return Solution(tuple(picked), _gap(error, least))
    return Solution(first.picked, _gap(first.error, least))


def _sum(rows: Rows, picked: Sequence[int]) -> float:
    return sum(row[j] for row, j in zip(rows, picked, strict=True))


def _gap(error: float, least: float) -> float:
    return max(0.0, error - least) / error if error > 0.0 else 0.0


def _branched(
    rows: Sequence[tuple[Sequence[float], Sequence[float], Sequence[int]]], most: float, gap: float
) -> tuple[list[int] | None, float]:
    """What is picked, None where nothing was found in time, and a sum of errors that no choice is below. ``rows``:
    costs, errors and which of them may be picked; ``gap``: between the two that is good enough, relative."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_matrix

    flat = [(i, j) for i, (*_, possible) in enumerate(rows) for j in possible]
    cost = np.array([rows[i][0][j] for i, j in flat], np.float64)
    error = np.array([rows[i][1][j] for i, j in flat], np.float64)
    count = len(flat)
    ones = csr_matrix((np.ones(count), ([i for i, _ in flat], np.arange(count))), shape=(len(rows), count))
    unit = max(float(np.abs(cost).max()), 1.0)
    whole = float(error.max()) or 1.0
    with _standard_output_apart():
        found = milp(
            error / whole,
            integrality=np.ones(count),
            bounds=Bounds(0, 1),
            constraints=[
                LinearConstraint(ones, np.ones(len(rows)), np.ones(len(rows))),
                LinearConstraint(csr_matrix(cost / unit), -np.inf, most / unit),
            ],
            options={"mip_rel_gap": gap, "time_limit": _SECONDS},
        )
    least = -np.inf if found.mip_dual_bound is None else float(found.mip_dual_bound) * whole
    if found.x is None:
        return None, least
    picked = {i: j for (i, j), x in zip(flat, found.x, strict=True) if x > 0.5}
    return [picked[i] for i in range(len(rows))], least


@contextmanager
def _standard_output_apart() -> Iterator[None]:
    """HiGHS writes a line of its own to it now and then, whatever it is told, which would spoil JSON there."""
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # it is closed
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
