"""Palettes as ops: a :class:`Lut` written as ``constexpr_lut_to_dense`` in either form, and read back.

Serialized exactly as coremltools does (``backend/mil/load.py``, ``translate_constexpr``): the packed form in op
attributes, the typed form as inline values bound to op inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mil_palettize.forms import PACKED, Form
from mil_palettize.program.expressions import UnknownFormError, read_expression
from mil_palettize.program.store import Store
from mil_palettize.program.values import (
    BLOB_TYPES,
    MIL,
    MIL_TYPES,
    MIN_BLOB_ELEMENTS,
    UINT_TYPES,
    blob_value,
    immediate_value,
    string_value,
    tensor_type,
)
from mil_palettize.weight_expr import Lut

OP_TYPE = "constexpr_lut_to_dense"
# (bytes, blob data type code, padding bits) -> (file name, metadata offset)
Append = Callable[[np.ndarray, int, int], tuple[str, int]]


@dataclass(frozen=True)
class LutValues:
    """A palette's parts as values, ready to stand in any number of ops."""

    indices: MIL.Value
    lut: MIL.Value
    shape: tuple[int, ...]
    form: Form
    vector_axis: int | None = None


def store_lut(lut: Lut, form: Form, append: Append | None) -> LutValues:
    """Write a palette's data through ``append`` (None: into the values themselves) and describe it."""
    packed = lut.indices
    index_bytes = packed.data
    if form is PACKED:
        indices = _place(index_bytes, (index_bytes.size,), UINT_TYPES[8], 0, append)
        table = lut.table.reshape(-1)
    else:
        indices = _place(index_bytes, packed.shape, UINT_TYPES[packed.nbits], packed.padding_bits, append)
        table = lut.table
    values = _place(table, table.shape, MIL_TYPES[table.dtype], 0, append)
    return LutValues(indices, values, packed.shape, form, lut.vector_axis)


def _place(
    data: np.ndarray, shape: tuple[int, ...], data_type: int, padding_bits: int, append: Append | None
) -> MIL.Value:
    count = math.prod(shape)
    if append is not None and count >= MIN_BLOB_ELEMENTS:
        file_name, offset = append(data, BLOB_TYPES[data_type][0], padding_bits)
        return blob_value(file_name, offset, shape, data_type)
    value = MIL.Value(type=tensor_type(shape, data_type))
    value.immediateValue.tensor.bytes.values = np.ascontiguousarray(data).tobytes()
    if data.dtype == np.float32:
        value = immediate_value(data.reshape(shape))
    return value


def lut_op(const: MIL.Operation, values: LutValues) -> MIL.Operation:
    """The op that stands in for ``const``: the same output, the same name."""
    op = MIL.Operation(type=OP_TYPE)
    op.outputs.extend(const.outputs)
    name = const.attributes["name"] if "name" in const.attributes else string_value(const.outputs[0].name)
    op.attributes["name"].CopyFrom(name)
    if values.form is PACKED:
        op.attributes["indices"].CopyFrom(values.indices)
        op.attributes["lut"].CopyFrom(values.lut)
        op.attributes["shape"].CopyFrom(immediate_value(np.array(values.shape, "<u4")))
    else:
        op.inputs["indices"].arguments.add().value.CopyFrom(values.indices)
        op.inputs["lut"].arguments.add().value.CopyFrom(values.lut)
        if values.vector_axis is not None:
            axis = immediate_value(np.array(values.vector_axis, np.int32))
            op.inputs["vector_axis"].arguments.add().value.CopyFrom(axis)
    return op


def read_lut(op: MIL.Operation, store: Store, *, used_by: str) -> Lut | None:
    """The palette of an op all of whose parts stand in it; None when it is another form.

    Raises BlobError when its parts are damaged or do not fit together.
    """
    if op.type != OP_TYPE:
        return None
    try:
        expr = read_expression(op, {}, store, used_by=used_by)
    except UnknownFormError:
        return None
    assert isinstance(expr, Lut)
    return expr
