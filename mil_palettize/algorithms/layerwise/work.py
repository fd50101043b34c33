"""One set of matrices under its objective: what the steps read and change, in the layout of their loops."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mil_palettize.algorithms.compiled.jit import compiled
from mil_palettize.algorithms.layerwise.form import Form, UnsupportedLayoutError, Values
from mil_palettize.algorithms.layerwise.moments import Damped, Objective


@dataclass(eq=False)
class Work:
    """An index stands for ``vector`` rows of one column, or for several columns of one row: ``members`` int (groups,
    columns of each) has these, one each for vectors along the rows; ``group`` and ``part`` int (columns,) the other way
    round.

    ``slot``, ``table`` int (matrices, rows, groups) and ``kept`` bool: an index's place, table and whether it counts;
    ``places``, ``scale``, ``target``, ``error`` (W_q − W*) and ``gradient`` (``error`` times H) of elements:
    (matrices, rows, vector, columns). ``spread``: the scale of each element."""

    damped: Damped
    members: np.ndarray
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
    group: np.ndarray = field(init=False)
    part: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        groups, size = self.members.shape
        self.group, self.part = np.empty(groups * size, np.int64), np.empty(groups * size, np.int64)
        self.group[self.members] = np.arange(groups)[:, None]
        self.part[self.members] = np.arange(size)

    def decoded(self, tables: np.ndarray, spread: np.ndarray) -> np.ndarray:
        """What the indices stand for with other tables and scales: float64 of the shape of ``spread``."""
        out = np.empty(spread.shape)
        _decode(tables, self.indices, self.table, spread, self.kept, self.group, self.part, out)
        return out

    def put(self, values: Values) -> None:
        """Take over these values, and work out the errors from them."""
        self.indices = np.ascontiguousarray(values.indices[self.slot])
        self.spread = np.ascontiguousarray(values.scales[self.scale])
        self.error = self.decoded(values.tables, self.spread) - self.target
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
    members = _together(form, where, vector)
    along = 1 if members.shape[1] > 1 else vector
    if rows % along:
        raise UnsupportedLayoutError
    places = where.reshape(count, rows // along, along, columns)
    slots = form.slot[places]
    wanted = np.arange(along)[:, None] if members.shape[1] == 1 else np.zeros((1, columns), np.int64)
    if members.shape[1] > 1:
        wanted[0, members] = np.arange(vector)
    whole = slots[..., members]
    if (slots != slots[:, :, :1]).any() or (whole != whole[..., :1]).any():
        raise UnsupportedLayoutError
    if (form.part[places] != np.broadcast_to(wanted, slots.shape[1:])).any():
        raise UnsupportedLayoutError
    first = np.ascontiguousarray(places[:, :, 0][..., members[:, 0]])
    scale = np.zeros(places.shape, np.int32) if form.scale is None else form.scale[places]
    kept = np.ones(first.shape, bool) if form.kept is None else form.kept[first]
    own = np.ascontiguousarray(target.reshape(places.shape))
    return Work(objective.damped, members, places, form.slot[first], form.table[first], scale, kept, own)


def _together(form: Form, where: np.ndarray, vector: int) -> np.ndarray:
    """Columns that share an index in the first row, (groups, columns of each)."""
    row = where[0, 0]
    slots = form.slot[row]
    order = np.lexsort((form.part[row], slots))
    if vector > 1 and not len(row) % vector and len(np.unique(slots)) * vector == len(row):
        return np.ascontiguousarray(order.reshape(-1, vector))
    return np.arange(len(row))[:, None]


def product(elements: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """(matrices, rows, vector, columns) times H."""
    count, rows, vector, columns = elements.shape
    return np.matmul(elements.reshape(count, rows * vector, columns), hessian).reshape(elements.shape)


@compiled
def _decode(tables, indices, table, spread, kept, group, part, out):  # type: ignore[no-untyped-def]
    for g in range(out.shape[0]):
        for r in range(out.shape[1]):
            for j in range(out.shape[3]):
                k = group[j]
                for v in range(out.shape[2]):
                    found = tables[table[g, r, k], indices[g, r, k], v + part[j]] * spread[g, r, v, j]
                    out[g, r, v, j] = found if kept[g, r, k] else 0.0


@compiled
def _gather(gradient, indices, table, spread, kept, group, part, sums):  # type: ignore[no-untyped-def]
    for g in range(gradient.shape[0]):
        for r in range(gradient.shape[1]):
            for j in range(gradient.shape[3]):
                k = group[j]
                if kept[g, r, k]:
                    for v in range(gradient.shape[2]):
                        own = gradient[g, r, v, j] * spread[g, r, v, j]
                        sums[table[g, r, k], indices[g, r, k], v + part[j]] += own


def gathered(elements: np.ndarray, work: Work, sums: np.ndarray) -> None:
    """Add to the sums of each entry (tables, entries, vector) its elements times their scales."""
    _gather(elements, work.indices, work.table, work.spread, work.kept, work.group, work.part, sums)
