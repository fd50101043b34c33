"""Palettes as ops: a :class:`Lut` written as ``constexpr_lut_to_dense`` in either form, and read back.

Serialized exactly as coremltools does (``backend/mil/load.py``, ``translate_constexpr``): the packed form in op
attributes, the typed form as inline values bound to op inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mil_palettize.errors import BlobError
from mil_palettize.forms import PACKED, Form
from mil_palettize.program.store import Store
from mil_palettize.program.values import (
    BLOB_TYPES,
    MIL,
    MIL_TYPES,
    MIN_BLOB_ELEMENTS,
    UINT_TYPES,
    blob_value,
    immediate_array,
    immediate_value,
    static_shape,
    string_value,
    tensor_type,
)
from mil_palettize.weight_expr import LEGAL_NBITS, Lut

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


def store_lut(lut: Lut, form: Form, append: Append | None) -> LutValues:
    """Write a palette's data through ``append`` (None: into the values themselves) and describe it."""
    packed = lut.indices
    index_bytes = packed.data
    if form is PACKED:
        indices = _place(index_bytes, (index_bytes.size,), UINT_TYPES[8], 0, append)
        table = lut.lut.reshape(-1)
    else:
        indices = _place(index_bytes, packed.shape, UINT_TYPES[packed.nbits], packed.padding_bits, append)
        table = lut.lut
    return LutValues(indices, _place(table, table.shape, MIL_TYPES[table.dtype], 0, append), packed.shape, form)


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
    return op


def read_lut(op: MIL.Operation, store: Store, *, used_by: str) -> Lut | None:
    """The palette of a ``constexpr_lut_to_dense`` op; None when it is not a scalar palette of floats.

    Raises BlobError when its parts do not fit together.
    """
    if op.type != OP_TYPE:
        return None
    parts = _packed_parts(op) if "indices" in op.attributes else _typed_parts(op)
    if parts is None:
        return None
    indices, lut, shape = parts
    table = store.array(lut, used_by=used_by)
    if table.dtype.kind != "f":
        return None
    if table.ndim == 1:
        table = table.reshape((1,) * len(shape) + (-1, 1))
    if table.ndim != len(shape) + 2 or table.shape[-1] != 1:
        return None
    nbits = int(table.shape[-2]).bit_length() - 1
    if nbits not in LEGAL_NBITS or table.shape[-2] != 1 << nbits:
        raise BlobError(f"the look-up table of {used_by!r} has {table.shape[-2]} entries, not a power of two")
    try:
        return Lut(store.packed(indices, nbits, shape, used_by=used_by), table)
    except BlobError:
        raise
    except ValueError as error:
        raise BlobError(f"the palette of {used_by!r} does not fit together: {error}") from error


def _packed_parts(op: MIL.Operation) -> tuple[MIL.Value, MIL.Value, tuple[int, ...]] | None:
    if not {"lut", "shape"} <= set(op.attributes):
        return None
    shape = immediate_array(op.attributes["shape"])
    if shape is None:
        return None
    return op.attributes["indices"], op.attributes["lut"], tuple(int(n) for n in shape.reshape(-1))


def _typed_parts(op: MIL.Operation) -> tuple[MIL.Value, MIL.Value, tuple[int, ...]] | None:
    values = []
    for name in ("indices", "lut"):
        bindings = op.inputs[name].arguments if name in op.inputs else []
        if len(bindings) != 1 or bindings[0].WhichOneof("binding") != "value":
            return None  # read from another op, as chains of compressed ops do
        values.append(bindings[0].value)
    shape = static_shape(values[0].type)
    return None if shape is None else (values[0], values[1], shape)
