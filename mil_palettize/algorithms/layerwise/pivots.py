"""What compensation leaves of an error, told beforehand: D of H = U D Uᵀ.

A column's error counts D_jj where the columns after it make good what they can (Chee et al. 2023, arXiv 2307.13304,
theorem 1: the proxy loss of LDLQ is the sum over columns of D_jj times the squared rounding errors).
"""

from __future__ import annotations

import numpy as np

from mil_palettize.algorithms.layerwise.moments import Moments
from mil_palettize.algorithms.layerwise.products import cholesky


def pivots(square: np.ndarray) -> np.ndarray:
    """D for each column of ``square`` (float64 (d, d), positive definite), columns being done by falling diagonals as
    in ``Damped.compensation``: float64 (d,)."""
    order = np.argsort(-np.diagonal(square), kind="stable")
    turned = order[::-1]
    lower = cholesky(np.ascontiguousarray(square[np.ix_(turned, turned)]))
    assert lower is not None  # positive definite
    found = np.empty(len(square))
    found[turned] = np.square(np.diagonal(lower))
    return found


def element_pivots(moments: Moments, damping: float, rows: np.ndarray, size: int) -> np.ndarray:
    """How much a squared rounding error of each of ``size`` elements counts: that D times ``rows`` (float64 (matrices,
    rows)), what each output counts; float64 (size,)."""
    found = np.zeros(size)
    for where, hessian, counts in zip(moments.where, moments.damped(damping).hessian, rows, strict=True):
        found[where] = counts[:, None] * pivots(hessian)
    return found
