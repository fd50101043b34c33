"""One set of matrices under its objective: what the steps read and change, in the layout of their loops."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mil_palettize.algorithms.compiled.jit import compiled
from mil_palettize.algorithms.layerwise.form import Form, Values
from mil_palettize.algorithms.layerwise.moments import Damped, Objective


class UnsupportedLayoutError(Exception):
    """Vectors that do not lie along the rows of the matrices: their elements meet other inputs."""


@dataclass(eq=False)
class Work:
    """``slot``, ``table``, ``scale`` int (matrices, rows, columns) and ``kept`` bool: an index's place, table and
    whether it counts; ``places``, ``scale``, ``target``, ``error`` (W_q − W*) and ``gradient`` (``error`` times H) of
    elements: (matrices, rows, vector, columns). ``spread``: the scale of each element."""

    damped: Damped
    places: np.ndarray
    slot: np.ndarray
    table: np.ndarray
    scale: np.ndarray
    kept: np.ndarray
    target: np.ndarray
    error: np.ndarray = field(init=False)
    gradient: np.ndarray = field(init=False)
    spread: np.ndarray = field(init=False)
    indices: np.ndarray = field(init=False)

    def put(self, values: Values) -> None:
        """Take over these values, and work out the errors from them."""
        self.indices = np.ascontiguousarray(values.indices[self.slot])
        self.spread = np.ascontiguousarray(values.scales[self.scale])
        self.error = decoded(values.tables, self.indices, self.table, self.spread, self.kept) - self.target
        self.gradient = product(self.error, self.hessian)

    @property
    def hessian(self) -> np.ndarray:
        return self.damped.hessian

    @property
    def objective(self) -> float:
        return float(np.sum(self.error * self.gradient))


def arranged(objective: Objective, form: Form, vector: int) -> Work:
    """Raises UnsupportedLayoutError."""
    where, target = objective.where, objective.target
    count, rows, columns = where.shape
    if rows % vector:
        raise UnsupportedLayoutError
    places = where.reshape(count, rows // vector, vector, columns)
    slots = form.slot[places]
    parts = np.broadcast_to(np.arange(vector)[:, None], slots.shape[1:])
    if (slots != slots[:, :, :1]).any() or (form.part[places] != parts).any():
        raise UnsupportedLayoutError
    first = np.ascontiguousarray(places[:, :, 0])
    scale = np.zeros(places.shape, np.int32) if form.scale is None else form.scale[places]
    kept = np.ones(first.shape, bool) if form.kept is None else form.kept[first]
    whole = np.ascontiguousarray(target.reshape(places.shape))
    return Work(objective.damped, places, form.slot[first], form.table[first], scale, kept, whole)


def product(elements: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """(matrices, rows, vector, columns) times H."""
    count, rows, vector, columns = elements.shape
    return np.matmul(elements.reshape(count, rows * vector, columns), hessian).reshape(elements.shape)


@compiled
def _decode(tables, indices, table, spread, kept, out):  # type: ignore[no-untyped-def]
    for g in range(out.shape[0]):
        for r in range(out.shape[1]):
            for j in range(out.shape[3]):
                for v in range(out.shape[2]):
                    found = tables[table[g, r, j], indices[g, r, j], v] * spread[g, r, v, j]
                    out[g, r, v, j] = found if kept[g, r, j] else 0.0


def decoded(
    tables: np.ndarray, indices: np.ndarray, table: np.ndarray, spread: np.ndarray, kept: np.ndarray
) -> np.ndarray:
    """What the indices stand for: float64 of the shape of ``spread``."""
    out = np.empty(spread.shape)
    _decode(tables, indices, table, spread, kept, out)
    return out


@compiled
def _gather(gradient, indices, table, spread, kept, sums):  # type: ignore[no-untyped-def]
    for g in range(gradient.shape[0]):
        for r in range(gradient.shape[1]):
            for j in range(gradient.shape[3]):
                if kept[g, r, j]:
                    for v in range(gradient.shape[2]):
                        sums[table[g, r, j], indices[g, r, j], v] += gradient[g, r, v, j] * spread[g, r, v, j]


def gathered(elements: np.ndarray, work: Work, sums: np.ndarray) -> None:
    """Add to the sums of each entry (tables, entries, vector) its elements times their scales."""
    _gather(elements, work.indices, work.table, work.spread, work.kept, sums)
