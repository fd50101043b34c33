"""Tables and scales of least squares for given indices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mil_palettize.algorithms.layerwise.form import Values
from mil_palettize.algorithms.layerwise.work import Work, gathered, product

_RIDGE = 1e-6  # relative, towards the present entries: entries that hardly anything uses stay where they are
_TOLERANCE = 1e-12


def refitted_tables(works: Sequence[Work], values: Values, steps: int) -> np.ndarray:
    """Tables with a smaller objective, float64, by at most ``steps`` conjugate gradients from the present ones.

    Every step lowers the objective; as many as a table has entries give the minimum.
    """
    shape = values.tables.shape
    residual = np.zeros(shape)
    diagonal = np.zeros(shape)
    for work in works:
        gathered(-work.gradient, work, residual)
        gathered(np.einsum("gjj->gj", work.hessian)[:, None, None, :] * work.spread, work, diagonal)
    used = diagonal > 0.0
    scaled = np.where(used, 1.0 / np.where(used, diagonal, 1.0), 0.0)
    apart = _tables_apart(works)
    change = np.zeros(shape)
    preconditioned = residual * scaled
    direction = preconditioned.copy()
    size = first = _dots(residual, preconditioned, apart)
    for _ in range(steps):
        if not (size > _TOLERANCE * first).any():
            break
        curved = _RIDGE * diagonal * direction
        for work in works:
            spread = work.decoded(direction, work.spread)
            gathered(product(spread, work.hessian), work, curved)
        curvature = _dots(direction, curved, apart)
        alpha = np.where(curvature > 0.0, size / np.where(curvature > 0.0, curvature, 1.0), 0.0)
        change += alpha * direction
        residual -= alpha * curved
        preconditioned = residual * scaled
        following = _dots(residual, preconditioned, apart)
        direction = preconditioned + np.where(size > 0.0, following / np.where(size > 0.0, size, 1.0), 0.0) * direction
        size = following
    return values.tables + change


def _tables_apart(works: Sequence[Work]) -> bool:
    """Whether each row has one table only, so that tables are systems of their own."""
    return all(bool((work.table == work.table[:, :, :1]).all()) for work in works)


def _dots(one: np.ndarray, two: np.ndarray, apart: bool) -> np.ndarray:
    axes = (1, 2) if apart and one.shape[2] == 1 else (0, 1, 2)
    return np.sum(one * two, axis=axes, keepdims=True)


def refitted_scales(works: Sequence[Work], values: Values) -> np.ndarray:
    """Scales of least squares, float64 (scales,), where each row has one of its own; else those there are."""
    if any((work.scale != work.scale[..., :1]).any() for work in works):
        return values.scales
    across, along = np.zeros(len(values.scales)), np.zeros(len(values.scales))
    for work in works:
        units = work.decoded(values.tables, np.ones(work.spread.shape))
        number = work.scale[..., 0]
        pulled = product(units, work.hessian)
        np.add.at(across, number, np.sum(work.target * pulled, axis=-1))
        np.add.at(along, number, np.sum(units * pulled, axis=-1))
    good = (along > 0.0) & (across > 0.0)
    return np.where(good, across / np.where(good, along, 1.0), values.scales)
