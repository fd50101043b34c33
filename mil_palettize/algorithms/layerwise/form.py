"""A palette's expression taken apart into what the steps here change, and put together again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mil_palettize.algorithms.quantized_grid import Grid, proposed, stored
from mil_palettize.algorithms.scales import stored_scales
from mil_palettize.expressions.packed import Packed
from mil_palettize.expressions.weight_expr import Lut, Scale, Sparse, WeightExpr, lut_of


class UnsupportedLayoutError(Exception):
    """A palette that the steps here cannot change: of vectors that lie neither along the rows of the matrices nor along
    the same columns in every row, or of integers with an offset."""


@dataclass(frozen=True, eq=False)
class Form:
    """Where each element of a weight takes its value from; all arrays 1-D, an item for each element in C order.

    ``slot``: int64, its index's place among the indices; ``part``: which element of the entry it is; ``table``: int32,
    number of its table; ``scale``: int32, number of its scale, None without scales; ``kept``: False where a mask makes
    it zero, None without a mask.
    """

    slot: np.ndarray
    part: np.ndarray
    table: np.ndarray
    scale: np.ndarray | None
    kept: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Values:
    """``tables``: float64 (tables, entries, vector); ``indices``: uint8, 1-D; ``scales``: float64 (scales,), ones
    without any."""

    tables: np.ndarray
    indices: np.ndarray
    scales: np.ndarray


def taken_apart(expr: WeightExpr) -> tuple[Form, Values]:
    """Of a palette: a ``Lut``, in a ``Scale``, in a ``Sparse`` of the same shape. Raises UnsupportedLayoutError."""
    lut, scale = lut_of(expr), _scale(expr)
    shape, axis, dim = lut.shape, lut.vector_axis, lut.vector
    position = np.arange(lut.indices.count).reshape(lut.indices.shape)
    part = np.zeros(shape, np.int64)
    if axis is not None:
        position = np.repeat(position, dim, axis=axis)
        part += (np.arange(shape[axis]) % dim).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    kept = expr.dense_mask().reshape(-1) if isinstance(expr, Sparse) else None
    number = None if scale is None else _block_numbers(scale.shape, shape).reshape(-1)
    form = Form(position.reshape(-1), part.reshape(-1), _block_numbers(lut.groups, shape).reshape(-1), number, kept)
    tables = lut.table.astype(np.float64).reshape(-1, 1 << lut.indices.nbits, dim)
    scales = np.ones(1) if scale is None else scale.astype(np.float64).reshape(-1)
    return form, Values(tables, lut.indices.unpack().reshape(-1), scales)


def with_indices(expr: WeightExpr, indices: np.ndarray) -> WeightExpr:
    """``expr`` with other indices (uint8, 1-D)."""
    if isinstance(expr, (Scale, Sparse)):
        return replace(expr, data=with_indices(expr.data, indices))
    assert isinstance(expr, Lut)
    return replace(expr, indices=Packed.pack(indices.reshape(expr.indices.shape), expr.indices.nbits))


def put_together(expr: WeightExpr, values: Values, grids: Sequence[Grid]) -> WeightExpr:
    """``expr`` with other values, which its dtypes hold. ``grids``: one for each quantized table, else none."""
    if isinstance(expr, Sparse):
        return replace(expr, data=put_together(expr.data, values, grids))
    if isinstance(expr, Scale):
        scales = values.scales.astype(expr.dtype).reshape(expr.scale.shape)
        return replace(expr, data=put_together(expr.data, values, grids), scale=scales)
    chosen = with_indices(expr, values.indices)
    assert isinstance(chosen, Lut)
    if not grids:
        return replace(chosen, lut=values.tables.astype(chosen.dtype).reshape(chosen.lut.shape))
    codes = np.stack([grid.nearest(table) for grid, table in zip(grids, values.tables, strict=True)])
    return replace(chosen, lut=stored(grids, codes.reshape(chosen.lut.shape)))


def rounded(expr: WeightExpr, values: Values) -> tuple[Values, list[Grid]]:
    """The same in numbers that ``expr`` can hold, and the grid of each quantized table."""
    lut, scale = lut_of(expr), _scale(expr)
    scales = values.scales if scale is None else stored_scales(values.scales, scale.dtype)
    if isinstance(lut.lut, np.ndarray):
        tables = _finite(values.tables, lut.lut.dtype)
        return Values(tables, values.indices, scales), []
    assert isinstance(lut.lut, Scale)
    kind, dtype = str(lut.lut.data.dtype), lut.lut.dtype
    count = values.indices.size // len(values.tables)
    grids = [_grid(kind, dtype, table, count) for table in values.tables]
    tables = np.stack([grid.decode(grid.nearest(table)) for grid, table in zip(grids, values.tables, strict=True)])
    return Values(tables, values.indices, scales), grids


def _grid(kind: str, dtype: np.dtype, table: np.ndarray, count: int) -> Grid:
    """That whose values are nearest to the entries of a table, which stands for ``count`` values."""
    grids = proposed(kind, dtype, table, np.ones(table.size), count)
    return min(grids, key=lambda grid: float(np.sum(np.square(table - grid.decode(grid.nearest(table))))))


def _scale(expr: WeightExpr) -> np.ndarray | None:
    """Of the channels; a quantized table's own is none of them."""
    inner = expr.data if isinstance(expr, Sparse) else expr
    if not isinstance(inner, Scale):
        return None
    if inner.offset is not None:
        raise UnsupportedLayoutError
    return inner.scale if isinstance(inner.scale, np.ndarray) else inner.scale.decode()


def _finite(tables: np.ndarray, dtype: np.dtype) -> np.ndarray:
    largest = float(np.finfo(dtype).max)
    return np.clip(tables, -largest, largest).astype(dtype).astype(np.float64) + 0.0


def _block_numbers(blocks: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    """For each element of ``shape`` the number (C order) of its block, int32."""
    number = np.zeros((1,) * len(shape), np.int32)
    for axis, (count, size) in enumerate(zip(blocks, shape, strict=True)):
        own = np.arange(size, dtype=np.int32) // max(1, size // count)
        number = number * np.int32(count) + own.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return np.ascontiguousarray(np.broadcast_to(number, shape))
