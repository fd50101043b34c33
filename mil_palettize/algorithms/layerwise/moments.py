"""What is known of an op's inputs: second moments about zero, and the objective that they make of a weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mil_palettize.algorithms.layerwise.products import cholesky, solved, unit_upper

_FLOOR = 0.01  # of the mean over all matrices: depthwise convolutions have inputs that are always zero
_DOUBLINGS = 60
_KEPT = 1 << 26  # bytes


@dataclass(frozen=True, eq=False)
class Damped:
    """``hessian``: (matrices, columns, columns), moments made positive definite; ``lower``: their Cholesky factors;
    ``damping``: what was added to each diagonal, relative to its mean, the largest."""

    hessian: np.ndarray
    lower: tuple[np.ndarray, ...]
    damping: float

    @cached_property
    def compensation(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each matrix the order of its columns, the largest diagonal first, and the factor U that says how errors
        are made good in that order (see :func:`unit_upper`)."""
        found = []
        for own in self.hessian:
            order = np.argsort(-np.diagonal(own), kind="stable")
            upper = unit_upper(np.ascontiguousarray(own[np.ix_(order, order)]))
            assert upper is not None  # positive definite
            found.append((order, upper))
        return found


@dataclass(frozen=True, eq=False)
class Moments:
    """The matrices that a weight is read as, all of one shape, and the inputs that they are multiplied with.

    ``where``: int64 (matrices, rows, columns), the place of each element in the weight (C order). ``square``: float64
    (matrices, columns, columns), the mean (or sum) of x_q x_qᵀ over the inputs x_q of the palettized network;
    ``cross``: of x_f x_qᵀ with the inputs x_f of the float one, None where both are the same. ``count``: inputs they
    were made of. ``residual``: float64 (matrices, rows, columns), of (r_f - r_q) x_qᵀ where r is added to what the
    weight gives, None for nothing.
    """

    where: np.ndarray
    square: np.ndarray
    cross: np.ndarray | None = None
    count: int = 0
    residual: np.ndarray | None = None

    def damped(self, damping: float) -> Damped:
        """With ``damping`` added; kept for the next who asks, unless it is large."""
        if damping in self._kept:
            return self._kept[damping]
        made = _damped(self, damping)
        if self.square.nbytes <= _KEPT:
            self._kept[damping] = made
        return made

    @cached_property
    def _kept(self) -> dict[float, Damped]:
        return {}

    @property
    def mean_diagonal(self) -> float:
        return float(np.einsum("gjj->gj", self.square).mean())


@dataclass(frozen=True, eq=False)
class Objective:
    """The sum over all matrices of tr((W_q − W*) H (W_q − W*)ᵀ). ``where``: as in :class:`Moments`; ``damped``: H;
    ``target``: float64 (matrices, rows, columns), W*."""

    where: np.ndarray
    damped: Damped
    target: np.ndarray

    @property
    def hessian(self) -> np.ndarray:
        return self.damped.hessian

    @property
    def damping(self) -> float:
        return self.damped.damping


def objective(moments: Moments, weight: np.ndarray, damping: float, *, asymmetric: bool) -> Objective:
    """What is to be made small for a weight (float64, 1-D).

    ``asymmetric``: W* is the minimum of ‖W X_f + R_f − W* X_q − R_q‖² + λ‖W* − W‖², which makes good what layers before
    lost (arXiv 2504.02692), also in what is added to the output (R); else W* is W. λ: ``damping`` times the mean
    diagonal of a matrix' moments, doubled until they are positive definite.
    """
    damped, target = moments.damped(damping), weight[moments.where]
    if asymmetric and moments.cross is not None:
        for g, lower in enumerate(damped.lower):
            change = (moments.cross[g] - moments.square[g]).T @ target[g].T
            if moments.residual is not None:
                change += moments.residual[g].T
            target[g] += solved(lower, change).T
    return Objective(moments.where, damped, target)


def _damped(moments: Moments, damping: float) -> Damped:
    whole = moments.mean_diagonal or 1.0
    hessian, factors, largest = np.array(moments.square, np.float64), [], damping
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
        factors.append(lower)
        largest = max(largest, added_here / max(mean, _FLOOR * whole))
    return Damped(hessian, tuple(factors), largest)


def importance(moments: Sequence[Moments], size: int, damping: float) -> np.ndarray:
    """How much the error of each element counts by itself: the diagonal of H and ``damping`` times its mean, float64
    (size,), positive. Elements that nothing reads count the damping alone."""
    found = np.zeros(size)
    for part in moments:
        diagonal = np.einsum("gjj->gj", part.square)
        np.add.at(found, part.where, np.broadcast_to(diagonal[:, None, :], part.where.shape))
    mean = float(found.mean()) or 1.0
    return found + damping * mean
