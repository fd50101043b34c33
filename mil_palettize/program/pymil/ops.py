"""Constants of a coremltools ``Program`` replaced by palettes, or compressed ones by their values.

Ops are called as coremltools' own passes call them.
"""

from __future__ import annotations

import numpy as np
from coremltools.converters.mil.mil import Block, Operation, Program, Var, types
from coremltools.converters.mil.mil import Builder as mb

from mil_palettize.expressions.packed import Packed
from mil_palettize.expressions.weight_expr import Lut, Part, Scale, Sparse, WeightExpr
from mil_palettize.program.forms import PACKED, Form
from mil_palettize.program.palette_ops import SCALED_SUFFIX, SUFFIX


def replace_with_palette(const: Operation, expr: WeightExpr, form: Form) -> None:
    """The palette in place of a dense constant."""
    lut = expr.data if isinstance(expr, Scale) else expr
    assert isinstance(lut, Lut)
    named = f"{const.name}{SUFFIX}"
    if form is PACKED:
        packed = lut.indices
        inputs = {"indices": packed.data, "lut": lut.table.reshape(-1), "shape": np.array(packed.shape, np.uint32)}
        palette = mb.constexpr_lut_to_dense(**inputs, name=named, before_op=const)
    else:
        palette = _looked_up(lut, named, const)
    _share(const, palette.op)
    if isinstance(expr, Scale):
        scale = _array(expr.scale)
        named = f"{const.name}{SCALED_SUFFIX}"
        palette = mb.constexpr_blockwise_shift_scale(data=palette, scale=scale, name=named, before_op=const)
    const.enclosing_block.replace_uses_of_var_after_op(
        anchor_op=const, old_var=const.outputs[0], new_var=palette, no_check_var_types=True
    )
    const.enclosing_block.remove_ops([const])


def replace_nonzeros(const: Operation, sparse: Operation, expr: WeightExpr) -> None:
    """The palette of what a ``constexpr_sparse_to_dense`` op holds in place of the values."""
    assert isinstance(expr, Sparse)
    assert isinstance(expr.data, Lut)
    lut, named = expr.data, f"{const.name}{SUFFIX}"
    inputs: dict[str, object] = {"indices_mask": sparse.mask}
    if lut.vector_axis is not None:
        inputs = {"indices_mask": _typed(expr.mask), "vector_axis": np.int32(lut.vector_axis)}
    mask, values = mb.constexpr_lut_to_sparse(
        **inputs,
        indices_nonzero_data=_typed(lut.indices)[expr.mask.unpack() != 0].flatten(),
        lut=_table(lut, named, sparse),
        name=named,
        before_op=sparse,
    )
    dense = mb.constexpr_sparse_to_dense(nonzero_data=values, mask=mask, name=sparse.name, before_op=sparse)
    _replace_constexpr(sparse, dense)


def replace_integers(const: Operation, scaled: Operation, expr: WeightExpr) -> None:
    """The palette of the data of a ``constexpr_blockwise_shift_scale`` op: tables scaled before they are looked up, or
    integers looked up and scaled."""
    named = f"{const.name}{SUFFIX}"
    if isinstance(expr, Lut):
        assert isinstance(expr.lut, Scale)
        table = _scaled(expr.lut, named, scaled)
        dense = mb.constexpr_lut_to_dense(indices=_typed(expr.indices), lut=table, name=scaled.name, before_op=scaled)
    else:
        assert isinstance(expr, Scale)
        assert isinstance(expr.data, Lut)
        integers = mb.constexpr_lut_to_dense(
            indices=_typed(expr.data.indices), lut=expr.data.table, name=named, before_op=scaled
        )
        dense = _scaled(Scale(expr.data, expr.scale, expr.offset), scaled.name, scaled, integers)
    _replace_constexpr(scaled, dense)


def _looked_up(lut: Lut, name: str, before: Operation) -> Var:
    inputs: dict[str, object] = {"indices": _typed(lut.indices), "lut": _table(lut, name, before)}
    if lut.vector_axis is not None:
        inputs["vector_axis"] = np.int32(lut.vector_axis)
    return mb.constexpr_lut_to_dense(**inputs, name=name, before_op=before)


def _table(lut: Lut, name: str, before: Operation) -> np.ndarray | Var:
    return _scaled(lut.lut, f"{name}_lut_0_quantized", before) if isinstance(lut.lut, Scale) else lut.table


def _scaled(expr: Scale, name: str, before: Operation, data: Var | None = None) -> Var:
    """``expr`` as an op, of ``data`` where that is another op's result."""
    inputs: dict[str, object] = {"data": expr.data.decode() if data is None else data, "scale": _array(expr.scale)}
    if expr.offset is not None:
        inputs["offset"] = _array(expr.offset)
    return mb.constexpr_blockwise_shift_scale(**inputs, name=name, before_op=before)


def _typed(packed: Packed) -> np.ndarray:
    """Marked as of so many bits, as coremltools does."""
    dtype = types.nptype_from_builtin(types.string_to_builtin(f"uint{packed.nbits}"))
    return np.asarray(packed.unpack().astype(dtype))


def _array(part: Part) -> np.ndarray:
    return part if isinstance(part, np.ndarray) else part.decode()


def _share(const: Operation, palette: Operation) -> None:
    """Functions share data by ``weight_id``: give the palette's parts one each where the constant had one."""
    if const.weight_id is None:
        return
    for name in ("indices", "lut"):
        part = palette.inputs[name].op
        if part.op_type == "const":
            part.weight_id = f"{const.weight_id}_{name}"


def _replace_constexpr(op: Operation, new: Var) -> None:
    """``new`` in place of the result of ``op``, which goes with every constant that only it reads."""
    block = op.enclosing_block
    block.replace_uses_of_var_after_op(anchor_op=op, old_var=op.outputs[0], new_var=new, force_replace=True)
    _remove(op, block)


def decompress(program: Program) -> None:
    """Put a ``const`` of its value in the place of every ``constexpr_*`` op, nested blocks included."""
    for function in program.functions.values():
        _decompress_block(function)


def _decompress_block(block: Block) -> None:
    with block:
        for op in list(block.operations):
            for inner in op.blocks:
                _decompress_block(inner)
            if op.op_type.startswith("constexpr_"):
                _make_dense(op, block)


def _make_dense(op: Operation, block: Block) -> None:
    """Program order: what the op reads is dense already. What nothing reads any more goes with it."""
    found = op.materialized_val_inference()
    values = found if isinstance(found, (list, tuple)) else [found]
    for value, var in zip(values, op.outputs, strict=True):
        const = mb.const(val=value, before_op=op, name=var.name)
        block.replace_uses_of_var_after_op(anchor_op=op, old_var=var, new_var=const, force_replace=True)
    _remove(op, block)


def _remove(op: Operation, block: Block) -> None:
    """Take out ``op`` and the constants that nothing else reads."""
    parts = [var.op for var in op.inputs.values() if var is not None and var.op is not None]
    block.remove_ops([op])
    for part in parts:
        unused = all(not var.child_ops and not var.consuming_blocks for var in part.outputs)
        if part.op_type == "const" and unused and part.enclosing_block is not None:
            part.enclosing_block.remove_ops([part])
