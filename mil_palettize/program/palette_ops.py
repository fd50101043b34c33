"""Palettes as ops: an expression written as the ``constexpr_*`` ops that stand for it, in either form.

Serialized exactly as coremltools does (``backend/mil/load.py``, ``translate_constexpr``): the packed form in op
attributes, the typed form as inline values bound to op inputs. An op that another one reads is called as coremltools
calls it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mil_palettize.expressions.packed import Packed
from mil_palettize.expressions.weight_expr import Lut, Scale, Sparse, WeightExpr
from mil_palettize.program.forms import PACKED, Form
from mil_palettize.program.new_names import NameSource
from mil_palettize.program.sites import Site
from mil_palettize.program.values import (
    BLOB_TYPES,
    MIL,
    MIL_TYPES,
    MIN_BLOB_ELEMENTS,
    UINT_TYPES,
    blob_value,
    immediate_value,
    static_shape,
    string_value,
    tensor_type,
)

LUT_TO_DENSE = "constexpr_lut_to_dense"
LUT_TO_SPARSE = "constexpr_lut_to_sparse"
SHIFT_SCALE = "constexpr_blockwise_shift_scale"
SUFFIX = "_palettized"  # of what replaces a constant, as coremltools calls it
SCALED_SUFFIX = "_palettized_pcs"  # of what scales each channel of it
# (bytes, blob data type code, padding bits) -> (file name, metadata offset)
Append = Callable[[np.ndarray, int, int], tuple[str, int]]


@dataclass(frozen=True)
class PaletteValues:
    """The parts of a palette as values, ready to stand in the ops of any number of sites.

    ``shape``: of the weight. ``indices``: of a sparse weight those of the values it holds. ``lut``: the entries,
    integers where ``lut_scale`` and ``lut_offset`` make the table of them. ``scale``: of each channel. ``mask``: of the
    vectors of a sparse weight. What a site's own op holds (mask, scale and offset of a compressed constant) is not
    among them otherwise.
    """

    form: Form
    shape: tuple[int, ...]
    indices: MIL.Value
    lut: MIL.Value
    lut_scale: MIL.Value | None = None
    lut_offset: MIL.Value | None = None
    scale: MIL.Value | None = None
    vector_axis: int | None = None
    mask: MIL.Value | None = None


def store_palette(expr: WeightExpr, joint: str, form: Form, append: Append | None) -> PaletteValues:
    """Write a palette's data through ``append`` (None: into the values themselves) and describe it. ``joint``: of
    the weight; a compressed constant keeps its own mask and scales."""
    outer = expr if isinstance(expr, Scale) else None
    inner = outer.data if outer is not None else expr
    lut = inner.data if isinstance(inner, Sparse) else inner
    assert isinstance(lut, Lut)
    packed = _stored_indices(lut, inner)
    if form is PACKED:
        indices = _place(packed.data, (packed.data.size,), UINT_TYPES[8], 0, append)
        table = _array(lut.table.reshape(-1), append)
        return PaletteValues(form, packed.shape, indices, table)
    scaled = lut.lut if isinstance(lut.lut, Scale) else None
    own = scaled if joint != "scaled" else None
    return PaletteValues(
        form,
        lut.shape,
        _place(packed.data, packed.shape, UINT_TYPES[packed.nbits], packed.padding_bits, append),
        _array(lut.table if scaled is None else scaled.data.decode(), append),
        None if own is None else _array(own.scale, append),
        None if own is None or own.offset is None else _array(own.offset, append),
        None if outer is None or joint == "scaled" else _array(outer.scale, append),
        lut.vector_axis,
        _mask_of_vectors(inner, append) if isinstance(inner, Sparse) and lut.vector > 1 else None,
    )


def _mask_of_vectors(sparse: Sparse, append: Append | None) -> MIL.Value:
    mask = sparse.mask
    return _place(mask.data, mask.shape, UINT_TYPES[1], mask.padding_bits, append)


def _stored_indices(lut: Lut, inner: WeightExpr) -> Packed:
    if not isinstance(inner, Sparse):
        return lut.indices
    return Packed.pack(lut.indices.unpack()[inner.mask.unpack().view(bool)], lut.indices.nbits)


def _array(part: np.ndarray | WeightExpr, append: Append | None) -> MIL.Value:
    array = part if isinstance(part, np.ndarray) else part.decode()
    return _place(array, array.shape, MIL_TYPES[array.dtype], 0, append)


def _place(
    data: np.ndarray, shape: tuple[int, ...], data_type: int, padding_bits: int, append: Append | None
) -> MIL.Value:
    count = math.prod(shape)
    if append is not None and count >= MIN_BLOB_ELEMENTS:
        file_name, offset = append(data, BLOB_TYPES[data_type][0], padding_bits)
        return blob_value(file_name, offset, shape, data_type)
    if data.shape == shape and MIL_TYPES[data.dtype] == data_type:
        return immediate_value(data)
    value = MIL.Value(type=tensor_type(shape, data_type))
    value.immediateValue.tensor.bytes.values = np.ascontiguousarray(data).tobytes()
    return value


def palette_ops(site: Site, values: PaletteValues, names: NameSource, *, rename: bool = False) -> list[MIL.Operation]:
    """The ops that stand in place of ``site.op``, in order; the last one has its output. ``rename``: a dense
    constant's output is called as coremltools calls it, otherwise as before."""
    if site.weight.joint == "sparse":
        return _sparse_ops(site, values, names)
    if site.weight.joint == "scaled":
        return _scaled_ops(site, values, names)
    ops: list[MIL.Operation] = []
    named = f"{site.weight.op_name}{SUFFIX}"
    lut = _table(values, f"{named}_lut_0_quantized", names, ops)
    if values.scale is None:
        return [*ops, _last(site, _lut_op(values, lut), named if rename else "", names)]
    looked_up = _named(_lut_op(values, lut), named, names, site.op.outputs[0].type)
    scaled = _op(SHIFT_SCALE, data=looked_up.outputs[0].name, scale=values.scale)
    return [*ops, looked_up, _last(site, scaled, f"{site.weight.op_name}{SCALED_SUFFIX}" if rename else "", names)]


def _sparse_ops(site: Site, values: PaletteValues, names: NameSource) -> list[MIL.Operation]:
    """The values that are left, looked up; the mask goes through that op."""
    ops: list[MIL.Operation] = []
    named = f"{site.weight.op_name}_nonzero_data_0{SUFFIX}"
    lut = _table(values, f"{named}_lut_0_quantized", names, ops)
    inputs = {name: argument.arguments[0].value for name, argument in site.op.inputs.items()}
    mask, kept = values.mask or inputs["mask"], inputs["nonzero_data"].type
    looked_up = _op(LUT_TO_SPARSE, indices_mask=mask, indices_nonzero_data=values.indices, lut=lut)
    if values.vector_axis is not None:
        looked_up.inputs["vector_axis"].arguments.add().value.CopyFrom(_axis(values.vector_axis))
        count = math.prod(static_shape(values.indices.type) or ()) * _vector(values)
        kept = tensor_type((count,), kept.tensorType.dataType)
    looked_up.attributes["name"].CopyFrom(string_value(names.unique(named)))
    for index, output in enumerate((inputs["mask"].type, kept)):
        looked_up.outputs.add(name=names.unique(f"{named}_{index}"), type=output)
    dense = _op(site.op.type, mask=looked_up.outputs[0].name, nonzero_data=looked_up.outputs[1].name)
    return [*ops, looked_up, _last(site, dense, "", names)]


def _scaled_ops(site: Site, values: PaletteValues, names: NameSource) -> list[MIL.Operation]:
    """The integers looked up and then scaled, or the table scaled and its entries looked up."""
    named = f"{site.weight.op_name}_data_0{SUFFIX}"
    inputs = {name: argument.arguments[0].value for name, argument in site.op.inputs.items()}
    if not values.form.tables_scaled_first:
        integers = tensor_type(values.shape, values.lut.type.tensorType.dataType)
        looked_up = _named(_lut_op(values, values.lut), named, names, integers)
        inputs.pop("data")
        scaled = _op(SHIFT_SCALE, data=looked_up.outputs[0].name, **inputs)
        return [looked_up, _last(site, scaled, "", names)]
    parts = {name: _for_tables(value) for name, value in inputs.items() if name != "data"}
    floats = tensor_type(static_shape(values.lut.type) or (), inputs["scale"].type.tensorType.dataType)
    table = _named(_op(SHIFT_SCALE, data=values.lut, **parts), named, names, floats)
    return [table, _last(site, _lut_op(values, table.outputs[0].name), "", names)]


def _for_tables(value: MIL.Value) -> MIL.Value:
    """A scale or offset of the weight as one of its tables: the same data, two axes more."""
    spread = MIL.Value()
    spread.CopyFrom(value)
    spread.type.CopyFrom(tensor_type((*(static_shape(value.type) or ()), 1, 1), value.type.tensorType.dataType))
    return spread


def _table(values: PaletteValues, named: str, names: NameSource, ops: list[MIL.Operation]) -> MIL.Value | str:
    """The table itself, or the name of what the op that scales it, added to ``ops``, gives."""
    if values.lut_scale is None:
        return values.lut
    parts = {"scale": values.lut_scale} | ({} if values.lut_offset is None else {"offset": values.lut_offset})
    floats = tensor_type(static_shape(values.lut.type) or (), values.lut_scale.type.tensorType.dataType)
    ops.append(_named(_op(SHIFT_SCALE, data=values.lut, **parts), named, names, floats))
    return str(ops[-1].outputs[0].name)


def _lut_op(values: PaletteValues, lut: MIL.Value | str) -> MIL.Operation:
    if values.form is PACKED:
        assert isinstance(lut, MIL.Value)
        op = MIL.Operation(type=LUT_TO_DENSE)
        op.attributes["indices"].CopyFrom(values.indices)
        op.attributes["lut"].CopyFrom(lut)
        op.attributes["shape"].CopyFrom(immediate_value(np.array(values.shape, "<u4")))
        return op
    op = _op(LUT_TO_DENSE, indices=values.indices, lut=lut)
    if values.vector_axis is not None:
        op.inputs["vector_axis"].arguments.add().value.CopyFrom(_axis(values.vector_axis))
    return op


def _axis(vector_axis: int) -> MIL.Value:
    return immediate_value(np.array(vector_axis, np.int32))


def _vector(values: PaletteValues) -> int:
    """Elements of an entry."""
    return (static_shape(values.lut.type) or (1,))[-1]


def _op(op_type: str, **inputs: MIL.Value | str) -> MIL.Operation:
    """An op without name and outputs; its inputs are bound to values in place, or by name."""
    op = MIL.Operation(type=op_type)
    for name, bound in inputs.items():
        binding = op.inputs[name].arguments.add()
        if isinstance(bound, str):
            binding.name = bound
        else:
            binding.value.CopyFrom(bound)
    return op


def _named(op: MIL.Operation, name: str, names: NameSource, output: MIL.ValueType) -> MIL.Operation:
    unique = names.unique(name)
    op.attributes["name"].CopyFrom(string_value(unique))
    op.outputs.add(name=unique, type=output)
    return op


def _last(site: Site, op: MIL.Operation, rename: str, names: NameSource) -> MIL.Operation:
    """``op`` with the outputs and the name of ``site.op``, or with another name for both."""
    if rename:
        return _named(op, rename, names, site.op.outputs[0].type)
    op.outputs.extend(site.op.outputs)
    named = "name" in site.op.attributes
    op.attributes["name"].CopyFrom(site.op.attributes["name"] if named else string_value(site.op.outputs[0].name))
    return op
