"""Negative indices made non-negative in front of gathers and scatters.

Up to iOS16 ``-D <= index < D``; from iOS17 on negative indices are out of bounds (undefined, or an error with
``validate_indices``, which defaults to False). The cure named by the op docstrings of coremltools
``ops/defs/iOS17/scatter_gather.py`` is ``select(index >= 0, index, index + dim)``. Unlike coremltools'
``guard_negative_gather_indices`` this covers ``gather_along_axis`` and the scatters, and ``batch_dims``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mil_palettize.program.messages import MIL
from mil_palettize.program.opsets.element_facts import is_unsigned, never_negative
from mil_palettize.program.opsets.operands import NewOps, OpAtPlace, Operand, vector_type, with_data_type
from mil_palettize.program.opsets.verdicts import Refusal, Rewrite, Verdict
from mil_palettize.program.values import DT, tensor_type

# op type -> the input that is indexed
INDEXED_OPS: dict[str, str] = {
    "gather": "x", "gather_along_axis": "x", "gather_nd": "x",
    "scatter": "data", "scatter_along_axis": "data", "scatter_nd": "data",
}  # fmt: skip

_INT32, _BOOL = DT.Value("INT32"), DT.Value("BOOL")
_WHY = "negative indices are out of bounds from iOS17 on"


@dataclass(frozen=True)
class _Indexed:
    """The axes of ``data`` that the indices point into: ``count`` from ``first`` on, one per element of the
    indices' last dimension, or (``count`` None) the single axis ``first`` for every index."""

    data: Operand
    first: int
    count: int | None

    @property
    def dims(self) -> np.ndarray | None:
        """int32 scalar or vector to add to a negative index; None when a dimension is not static."""
        sizes = self.data.dims
        assert sizes is not None
        wanted = sizes[self.first : self.first + (1 if self.count is None else self.count)]
        if any(size is None for size in wanted):
            return None
        return np.array(wanted[0] if self.count is None else wanted, dtype=np.int32)


def nonnegative_indices(place: OpAtPlace) -> Verdict:
    """Nothing for indices that cannot be negative; a new constant for constant ones; else the select."""
    indices = place.operand("indices")
    if indices is None or indices.type is None or indices.dims is None:
        return Refusal("the type of its indices is not known")
    if is_unsigned(indices.data_type) or never_negative(indices):
        return None
    indexed = _indexed_axes(place, indices)
    if isinstance(indexed, str):
        return Refusal(f"{_WHY}, and {indexed}")
    new, array, dims = NewOps(place), indices.array, indexed.dims
    if array is not None and dims is not None:
        wide = array.astype(np.int64)
        name = new.const("indices", np.where(wide < 0, wide + dims, wide).astype(np.int32))
        what = f"constant indices below 0 replaced by index + {_dims_text(dims)} in a new constant: {_WHY}"
    else:
        name = _select(new, indices, indexed, dims)
        added = _dims_text(dims) if dims is not None else _run_time_text(indexed)
        what = f"select(index >= 0, index, index + {added}) put in front of its run-time indices: {_WHY}"
    op = MIL.Operation()
    op.CopyFrom(place.op)
    op.inputs["indices"].Clear()
    op.inputs["indices"].arguments.add().name = name
    return Rewrite(op, what, tuple(new.operations))


def _dims_text(dims: np.ndarray) -> str:
    return str(dims.tolist())


def _run_time_text(indexed: _Indexed) -> str:
    last = "" if indexed.count is None else f":{indexed.first + indexed.count}"
    return f"shape({indexed.data.name})[{indexed.first}{last}]"


def _indexed_axes(place: OpAtPlace, indices: Operand) -> _Indexed | str:
    """The axes indexed, or what is not known about them."""
    data = place.operand(INDEXED_OPS[place.op.type])
    if data is None or data.dims is None:
        return "the rank of what it indexes is not known"
    rank = len(data.dims)
    if place.op.type.endswith("_nd"):
        first = _integer(place, "batch_dims")
        count = indices.dims[-1] if indices.dims else None
        if count is None:
            return "the last dimension of its indices is not static"
        if first is None or not 0 <= first <= rank - count:
            return f"its batch_dims does not fit {rank} dimensions indexed by {count}"
        return _Indexed(data, first, count)
    axis = _integer(place, "axis")
    if axis is None or not -rank <= axis < rank:
        return f"its axis is not a constant within the {rank} dimensions of what it indexes"
    return _Indexed(data, axis % rank, None)


def _integer(place: OpAtPlace, parameter: str) -> int | None:
    """A constant integer input; 0, the default of both ``axis`` and ``batch_dims``, when absent."""
    if parameter not in place.op.inputs:
        return 0
    operand = place.operand(parameter)
    array = operand.array if operand is not None else None
    return int(array.reshape(-1)[0]) if array is not None and array.size == 1 else None


def _select(new: NewOps, indices: Operand, indexed: _Indexed, dims: np.ndarray | None) -> str:
    """``select(index >= 0, index, index + dim)`` in int32; returns its name.

    Narrower indices are widened first: none of the three ops takes them, and int16 + dim may not fit.
    """
    assert indices.type is not None
    int32_type = with_data_type(indices.type, _INT32)
    name = indices.name
    if name is None or indices.data_type != _INT32:
        name = _as_int32(new, indices, int32_type)
    size = _run_time_dims(new, indexed) if dims is None else new.const("indices_dim", dims)
    zero = new.const("indices_zero", np.array(0, np.int32))
    condition = with_data_type(int32_type, _BOOL)
    inside = new.op("greater_equal", "indices_not_negative", {"x": name, "y": zero}, condition)
    moved = new.op("add", "indices_plus_dim", {"x": name, "y": size}, int32_type)
    return new.op("select", "indices", {"cond": inside, "a": name, "b": moved}, int32_type)


def _as_int32(new: NewOps, indices: Operand, int32_type: MIL.ValueType) -> str:
    array = indices.array
    if array is not None:
        return new.const("indices_int32", array.astype(np.int32))
    assert indices.name is not None
    dtype = new.text("indices_dtype", "int32")
    return new.op("cast", "indices_int32", {"x": indices.name, "dtype": dtype}, int32_type)


def _run_time_dims(new: NewOps, indexed: _Indexed) -> str:
    """The indexed dimensions read from the data at run time: a scalar, or one entry per indexed axis."""
    data, first, count = indexed.data, indexed.first, indexed.count
    assert data.dims is not None
    assert data.name is not None
    shape = new.op("shape", "indices_shape", {"x": data.name}, vector_type(len(data.dims), _INT32))
    inputs = {
        "x": shape,
        "begin": new.const("indices_dim_begin", np.array([first], np.int32)),
        "end": new.const("indices_dim_end", np.array([first + (count or 1)], np.int32)),
    }
    if count is not None:
        return new.op("slice_by_index", "indices_dim", inputs, vector_type(count, _INT32))
    inputs["squeeze_mask"] = new.const("indices_dim_squeeze", np.array([True]))
    return new.op("slice_by_index", "indices_dim", inputs, tensor_type((), _INT32))
