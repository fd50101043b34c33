"""One of several for each, of the least sum of errors within a sum of costs: solved to optimality."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

SECONDS = 30.0
_GAP = 1e-6


@dataclass(frozen=True)
class Solution:
    """``picked``: a number for each choice; ``gap``: how far its errors may lie above the least sum, relative to it."""

    picked: tuple[int, ...]
    gap: float


def cheapest(
    costs: Sequence[Sequence[float]], errors: Sequence[Sequence[float]], most: float, *, seconds: float = SECONDS
) -> Solution | None:
    """The choice of one candidate from each row of ``costs`` and ``errors`` with the least sum of errors of those whose
    costs add up to ``most`` or less; None where there is none. The multiple-choice knapsack, by the branch and bound of
    HiGHS (``scipy.optimize.milp``), which is stopped after ``seconds``."""
    if sum(min(row) for row in costs) > most:
        return None
    if not costs:
        return Solution((), 0.0)
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_matrix

    kept = [_undominated(c, e) for c, e in zip(costs, errors, strict=True)]
    row = np.repeat(np.arange(len(kept)), [len(one) for one in kept])
    flat = [(i, j) for i, one in enumerate(kept) for j in one]
    cost = np.array([costs[i][j] for i, j in flat], np.float64)
    error = np.array([errors[i][j] for i, j in flat], np.float64)
    count = len(flat)
    ones = csr_matrix((np.ones(count), (row, np.arange(count))), shape=(len(kept), count))
    unit = max(float(np.abs(cost).max(initial=0.0)), 1.0)
    whole = float(error.max(initial=0.0)) or 1.0
    with _standard_output_apart():
        found = milp(
            error / whole,
            integrality=np.ones(count),
            bounds=Bounds(0, 1),
            constraints=[
                LinearConstraint(ones, np.ones(len(kept)), np.ones(len(kept))),
                LinearConstraint(csr_matrix(cost / unit), -np.inf, most / unit),
            ],
            options={"mip_rel_gap": _GAP, "time_limit": seconds},
        )
    if found.x is None:
        return None
    picked = {i: j for (i, j), x in zip(flat, found.x, strict=True) if x > 0.5}
    return Solution(tuple(picked[i] for i in range(len(kept))), float(found.mip_gap or 0.0))


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


def _undominated(costs: Sequence[float], errors: Sequence[float]) -> list[int]:
    """Those that no other is better than in one and as good in the other; of equal ones the first."""
    order = sorted(range(len(costs)), key=lambda j: (costs[j], errors[j], j))
    kept: list[int] = []
    for j in order:
        if not kept or errors[j] < errors[kept[-1]]:
            kept.append(j)
    return kept
