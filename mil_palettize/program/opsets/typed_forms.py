"""Compressed weights of iOS16 (op attributes) re-emitted in their iOS18 form (op inputs), bit for bit.

iOS16 packs indices and masks into flat uint8 and keeps ``shape`` beside them; iOS18 types them (uint1 to
uint8, of the weight's shape) over the same bytes, packed least significant bit first in both. Sources:
coremltools ``ops/defs/iOS16/constexpr_ops.py``, ``ops/defs/iOS18/compression.py``, ``backend/mil/load.py`` (which
writes inline values and no const ops). A blob keeps its file and offset: only the declared type changes, so whoever
writes the blob file has to give its record the declared type and its padding bits.
"""

from __future__ import annotations

import math

import numpy as np

from mil_palettize.expressions.weight_expr import packed_nbytes
from mil_palettize.program.messages import MIL
from mil_palettize.program.opsets.operands import OpAtPlace
from mil_palettize.program.opsets.verdicts import Refusal, Rewrite, Verdict
from mil_palettize.program.values import (
    DT,
    UINT_TYPES,
    immediate_array,
    immediate_value,
    scalar,
    static_shape,
    tensor_type,
    type_name,
)

_PALETTE_BITS = {2: 1, 4: 2, 16: 4, 64: 6, 256: 8}


def typed_lut(place: OpAtPlace) -> Verdict:
    """``indices`` get type uint<n> and the weight's shape, ``lut`` shape ``(1, ..., 1, 2**n, 1)``."""
    shape = _weight_shape(place)
    values = _attributes(place, ("indices", "lut"))
    if isinstance(shape, str) or isinstance(values, str):
        return Refusal(shape if isinstance(shape, str) else str(values))
    entries = static_shape(values["lut"].type)
    if entries is None or len(entries) != 1 or entries[0] not in _PALETTE_BITS:
        return Refusal(f"its lut has shape {entries}; it must have one of {list(_PALETTE_BITS)} entries")
    nbits = _PALETTE_BITS[entries[0]]
    indices = _retyped_bits(values["indices"], shape, nbits)
    if isinstance(indices, str):
        return Refusal(f"its indices have {indices}")
    lut = _retyped(values["lut"], (1,) * len(shape) + (entries[0], 1), values["lut"].type.tensorType.dataType)
    rank = len(shape) + 2
    what = f"attributes became inputs: {_form(indices)} indices over the same bytes, lut of rank {rank}"
    return Rewrite(_with_inputs(place.op, {"indices": indices, "lut": lut}), what)


def typed_sparse(place: OpAtPlace) -> Verdict:
    """``mask`` gets type uint1 and the weight's shape; ``nonzero_data`` stays."""
    shape = _weight_shape(place)
    values = _attributes(place, ("mask", "nonzero_data"))
    if isinstance(shape, str) or isinstance(values, str):
        return Refusal(shape if isinstance(shape, str) else str(values))
    mask = _retyped_bits(values["mask"], shape, 1)
    if isinstance(mask, str):
        return Refusal(f"its mask has {mask}")
    what = f"attributes became inputs: {_form(mask)} mask over the same bytes"
    inputs = {"mask": mask, "nonzero_data": values["nonzero_data"]}
    return Rewrite(_with_inputs(place.op, inputs), what)


def typed_cast(place: OpAtPlace) -> Verdict:
    """``source_val`` and ``output_dtype`` move from attributes to inputs as they are."""
    values = _attributes(place, ("source_val", "output_dtype"))
    if isinstance(values, str):
        return Refusal(values)
    return Rewrite(_with_inputs(place.op, values), "attributes became inputs, their values unchanged")


def blockwise_affine(place: OpAtPlace) -> Verdict:
    """``constexpr_affine_dequantize`` becomes ``constexpr_blockwise_shift_scale``, which other compressions can follow:
    the same ``(data - zero_point) * scale``, rounded alike since the difference of two bytes is exact.

    ``scale`` and ``zero_point``, a number or one for each channel of ``axis``, get the rank of the data. Where the
    later op cannot hold them the op stays, which the later opset still has.
    """
    values = _attributes(place, ("quantized_data", "scale", "zero_point", "axis"))
    if isinstance(values, str):
        return None
    data, axis = values["quantized_data"], scalar(values["axis"])
    shape, codes = static_shape(data.type), {n: values[n].type.tensorType.dataType for n in ("scale", "zero_point")}
    if shape is None or not isinstance(axis, int) or not -len(shape) <= axis < len(shape):
        return None
    if codes["zero_point"] != data.type.tensorType.dataType:  # of fp32 the two ops round differently
        return None
    sizes = [static_shape(values[name].type) for name in codes]
    count = max((math.prod(size) for size in sizes if size is not None), default=1)
    if count not in (1, shape[axis % len(shape)]):
        return None
    spread = tuple(count if i == axis % len(shape) else 1 for i in range(len(shape)))
    scale, offset = (_spread(values[name], spread) for name in codes)
    if scale is None or offset is None or None in sizes:
        return None
    changed = _with_inputs(place.op, {"data": data, "scale": scale, "offset": offset})
    changed.type = "constexpr_blockwise_shift_scale"
    for name in ("quantized_data", "scale", "zero_point", "axis"):
        changed.attributes.pop(name, None)
    return Rewrite(changed, "became constexpr_blockwise_shift_scale over the same bytes")


def _spread(value: MIL.Value, shape: tuple[int, ...]) -> MIL.Value | None:
    """``value`` with another shape of as many elements, one number repeated; None for one that is not at hand."""
    own = static_shape(value.type) or ()
    if math.prod(own) == math.prod(shape):
        return _retyped(value, shape, value.type.tensorType.dataType)
    array = immediate_array(value)
    if array is None or array.size != 1:
        return None
    return immediate_value(np.full(shape, array.reshape(-1)[0]))


def _weight_shape(place: OpAtPlace) -> tuple[int, ...] | str:
    """The shape of the weight: what the output declares, which attribute ``shape`` must repeat."""
    op = place.op
    shape = static_shape(op.outputs[0].type) if len(op.outputs) == 1 else None
    if shape is None:
        return "the shape of its output is not static"
    stated = immediate_array(op.attributes["shape"]) if "shape" in op.attributes else None
    if stated is None or tuple(stated.tolist()) != shape:
        return f"its attribute shape does not hold its output's shape {list(shape)}"
    return shape


def _attributes(place: OpAtPlace, names: tuple[str, ...]) -> dict[str, MIL.Value] | str:
    missing = [name for name in names if name not in place.op.attributes]
    if missing:
        return f"it has no attribute {missing[0]}"
    return {name: place.op.attributes[name] for name in names}


def _retyped(value: MIL.Value, shape: tuple[int, ...], data_type: int) -> MIL.Value:
    """The same stored data under another declared type."""
    changed = MIL.Value()
    changed.CopyFrom(value)
    changed.type.CopyFrom(tensor_type(shape, data_type))
    return changed


def _retyped_bits(value: MIL.Value, shape: tuple[int, ...], nbits: int) -> MIL.Value | str:
    """Flat packed uint8 declared as uint<nbits> of ``shape``, or how its size is wrong.

    Immediate values of these types are packed into field ``bytes`` too (coremltools ``np_val_to_py_type``).
    """
    declared, wanted = static_shape(value.type), packed_nbytes(math.prod(shape), nbits)
    if value.type.tensorType.dataType != DT.Value("UINT8") or declared != (wanted,):
        got = f"{type_name(value.type.tensorType.dataType)} {list(declared or ())}"
        return f"type {got}; {list(shape)} at {nbits} bits need uint8 [{wanted}]"
    return _retyped(value, shape, UINT_TYPES[nbits])


def _form(value: MIL.Value) -> str:
    return f"{type_name(value.type.tensorType.dataType)} {list(static_shape(value.type) or ())}"


def _with_inputs(op: MIL.Operation, values: dict[str, MIL.Value]) -> MIL.Operation:
    """A copy of ``op`` reading ``values`` as inline inputs, and without the attributes they came from."""
    changed = MIL.Operation()
    changed.CopyFrom(op)
    for name in (*values, "shape"):
        if name in changed.attributes:
            del changed.attributes[name]
    for name, value in values.items():
        changed.inputs[name].arguments.add().value.CopyFrom(value)
    return changed
