"""What is known of an op's inputs: second moments about zero, and the objective that they make of a weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mil_palettize.algorithms.layerwise.products import cholesky, solved

_FLOOR = 0.01  # of the mean over all matrices: depthwise convolutions have inputs that are always zero
_DOUBLINGS = 60


@dataclass(frozen=True, eq=False)
class Moments:
    """The matrices that a weight is read as, all of one shape, and the inputs that they are multiplied with.

    ``where``: int64 (matrices, rows, columns), the place of each element in the weight (C order). ``square``: float64
    (matrices, columns, columns), the mean (or sum) of x_q x_qᵀ over the inputs x_q of the palettized network;
    ``cross``: of x_f x_qᵀ with the inputs x_f of the float one, None where both are the same. ``count``: inputs they
    were made of.
    """

    where: np.ndarray
    square: np.ndarray
    cross: np.ndarray | None = None
    count: int = 0

    @property
    def mean_diagonal(self) -> float:
        return float(np.einsum("gjj->gj", self.square).mean())


@dataclass(frozen=True, eq=False)
class Objective:
    """The sum over all matrices of tr((W_q − W*) H (W_q − W*)ᵀ). ``where``: as in :class:`Moments`; ``hessian``:
    (matrices, columns, columns), the damped moments H, positive definite; ``target``: float64 (matrices, rows,
    columns), W*; ``damping``: what was added to each diagonal, relative to its mean, the largest."""

    where: np.ndarray
    hessian: np.ndarray
    target: np.ndarray
    damping: float


def objective(moments: Moments, weight: np.ndarray, damping: float, *, asymmetric: bool) -> Objective:
    """What is to be made small for a weight (float64, 1-D).

    ``asymmetric``: W* is the minimum of ‖W X_f − W* X_q‖² + λ‖W* − W‖², which makes good what layers before lost
    (arXiv 2504.02692); else W* is W. λ: ``damping`` times the mean diagonal of a matrix' moments, doubled until they
    are positive definite.
    """
    whole = moments.mean_diagonal or 1.0
    hessian = np.array(moments.square, np.float64)
    target = weight[moments.where]
    largest = damping
    for g, own in enumerate(hessian):
        mean = float(np.diagonal(own).mean())
        added_here = damping * max(mean, _FLOOR * whole)
        lower = None
        for _ in range(_DOUBLINGS):
            damped = moments.square[g] + added_here * np.eye(len(own))
            lower = cholesky(damped)
            if lower is not None:
                break
            added_here = max(2.0 * added_here, 1e-12 * whole)
        assert lower is not None  # a diagonal that large
        hessian[g] = damped
        largest = max(largest, added_here / max(mean, _FLOOR * whole))
        if asymmetric and moments.cross is not None:
            change = (moments.cross[g] - moments.square[g]).T @ target[g].T
            target[g] += solved(lower, change).T
    return Objective(moments.where, hessian, target, largest)


def importance(moments: Sequence[Moments], size: int, damping: float) -> np.ndarray:
    """How much the error of each element counts by itself: the diagonal of H and ``damping`` times its mean, float64
    (size,), positive. Elements that nothing reads count the damping alone."""
    found = np.zeros(size)
    for part in moments:
        diagonal = np.einsum("gjj->gj", part.square)
        np.add.at(found, part.where, np.broadcast_to(diagonal[:, None, :], part.where.shape))
    mean = float(found.mean()) or 1.0
    return found + damping * mean
