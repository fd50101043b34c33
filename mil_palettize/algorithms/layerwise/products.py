"""Factors of matrices by products of fixed blocks: the same bits whatever the number of threads.

Products of matrices add up every element in one order, wherever threads divide the rows and columns among them; the
factorizations of a linear algebra library choose their blocks by the number of threads, so they are written out here.
"""

from __future__ import annotations

import numpy as np

from mil_palettize.algorithms.compiled.jit import compiled

_BLOCK = 64


@compiled
def _factor(a):  # type: ignore[no-untyped-def]
    """The lower Cholesky factor of a small matrix in its own place; False where it is not positive definite."""
    for j in range(a.shape[0]):
        pivot = a[j, j]
        for k in range(j):
            pivot -= a[j, k] * a[j, k]
        if not pivot > 0.0:
            return False
        root = np.sqrt(pivot)
        a[j, j] = root
        for i in range(j + 1, a.shape[0]):
            rest = a[i, j]
            for k in range(j):
                rest -= a[i, k] * a[j, k]
            a[i, j] = rest / root
    return True


@compiled
def _divide_rows(b, lower):  # type: ignore[no-untyped-def]
    """``b`` becomes b times the inverse of the transposed ``lower``, a row at a time."""
    for i in range(b.shape[0]):
        for j in range(lower.shape[0]):
            rest = b[i, j]
            for k in range(j):
                rest -= b[i, k] * lower[j, k]
            b[i, j] = rest / lower[j, j]


@compiled
def _forward(b, lower):  # type: ignore[no-untyped-def]
    """``b`` becomes the inverse of ``lower`` times b."""
    for i in range(lower.shape[0]):
        for k in range(i):
            for m in range(b.shape[1]):
                b[i, m] -= lower[i, k] * b[k, m]
        for m in range(b.shape[1]):
            b[i, m] /= lower[i, i]


@compiled
def _backward(b, lower):  # type: ignore[no-untyped-def]
    """``b`` becomes the inverse of the transposed ``lower`` times b."""
    for i in range(lower.shape[0] - 1, -1, -1):
        for k in range(i + 1, lower.shape[0]):
            for m in range(b.shape[1]):
                b[i, m] -= lower[k, i] * b[k, m]
        for m in range(b.shape[1]):
            b[i, m] /= lower[i, i]


def cholesky(matrix: np.ndarray) -> np.ndarray | None:
    """The lower factor L, ``matrix`` (float64 (d, d), symmetric) = L Lᵀ; None where it is not positive definite."""
    lower = np.tril(matrix)
    size = len(lower)
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        if start:
            left = np.ascontiguousarray(lower[start:stop, :start].T)  # a copy: x @ x.T is another routine
            lower[start:, start:stop] -= lower[start:, :start] @ left
        corner = np.ascontiguousarray(lower[start:stop, start:stop])
        if not _factor(corner):
            return None
        below = np.ascontiguousarray(lower[stop:, start:stop])
        _divide_rows(below, corner)
        lower[start:stop, start:stop], lower[stop:, start:stop] = np.tril(corner), below
    return lower


def solved(lower: np.ndarray, right: np.ndarray) -> np.ndarray:
    """x of ``lower`` ``lower``ᵀ x = ``right``, float64 (d, m)."""
    x = np.array(right, np.float64, order="C")
    starts = range(0, len(lower), _BLOCK)
    for start in starts:
        rows = slice(start, start + _BLOCK)
        if start:
            x[rows] -= np.ascontiguousarray(lower[rows, :start]) @ x[:start]
        _forward(x[rows], np.ascontiguousarray(lower[rows, rows]))
    for start in reversed(starts):
        rows, after = slice(start, start + _BLOCK), slice(start + _BLOCK, None)
        if start + _BLOCK < len(lower):
            x[rows] -= np.ascontiguousarray(lower[after, rows].T) @ x[after]
        _backward(x[rows], np.ascontiguousarray(lower[rows, rows]))
    return x


def unit_upper(matrix: np.ndarray) -> np.ndarray | None:
    """U of ``matrix`` = U D Uᵀ, upper with ones on its diagonal, D diagonal; None where it is not positive definite.

    Its column j says how errors made in the columns before j are best made good in column j (Chee et al. 2023,
    arXiv 2307.13304, where it is shown to be what GPTQ takes from the inverse).
    """
    lower = cholesky(np.ascontiguousarray(matrix[::-1, ::-1]))
    if lower is None:
        return None
    upper = np.ascontiguousarray(lower[::-1, ::-1])
    return upper / np.diagonal(upper)
