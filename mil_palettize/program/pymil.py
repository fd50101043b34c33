"""A coremltools ``Program`` (PyMIL, inside ``ct.convert``) seen as the serialized program it would become.

Planning then asks the same questions of the same messages at every door. Constants' data stays where it is: in the
messages each is a reference whose offset is its number.
"""

from __future__ import annotations

import numpy as np
from coremltools.converters.mil.backend.mil.helper import create_file_value_tensor, types_to_proto_primitive
from coremltools.converters.mil.backend.mil.load import MILProtoExporter
from coremltools.converters.mil.mil import Block, Operation, Program, Var, types
from coremltools.converters.mil.mil import Builder as mb
from coremltools.proto import Model_pb2 as CoreML

from mil_palettize.forms import PACKED, Form
from mil_palettize.program.opset import OPSETS
from mil_palettize.program.serialized import Stage, Survey, survey
from mil_palettize.program.values import MIL, tensor_type
from mil_palettize.program.weight import Weight
from mil_palettize.weight_expr import Lut

_SUFFIX = "_palettized"  # of the op that replaces a constant, as coremltools names it
_OPAQUE = tensor_type((), MIL.DataType.Value("UNUSED_TYPE"))


class _Skeleton(MILProtoExporter):
    """coremltools' own serializer, writing no weight file: the n-th constant is said to be at offset n."""

    def __init__(self, program: Program) -> None:
        # The base class validates the whole program, which in the middle of a pipeline need not be valid yet.
        self.prog = program
        self.specification_version = OPSETS[-1].spec
        self.constants: list[Var] = []

    def create_file_value(self, var: Var) -> MIL.Value:
        self.constants.append(var)
        primitive = types_to_proto_primitive(types.numpy_type_to_builtin_type(var.val.dtype))
        return create_file_value_tensor("", len(self.constants) - 1, var.val.shape, primitive)

    def types_to_proto(self, valuetype: type) -> MIL.ValueType:
        try:
            return super().types_to_proto(valuetype)
        except ValueError:  # types that only exist before serialization, complex numbers for one
            return _OPAQUE


class PymilProgram:
    """``program`` surveyed; :meth:`palettize` changes it in place."""

    def __init__(self, program: Program) -> None:
        self._skeleton = _Skeleton(program)
        model = CoreML.Model()
        for name, function in program.functions.items():
            message = self._skeleton.convert_function(function, _opset_name(function.opset_version.value))
            model.mlProgram.functions[name].CopyFrom(message)
        self._survey = survey(Stage("", model))

    def survey(self) -> Survey:
        return self._survey

    def constant(self, weight: Weight) -> Operation:
        """The ``const`` op of a weight that is not stored in the program text itself."""
        assert weight.storage is not None
        return self._skeleton.constants[weight.storage[1]].op

    def palettize(self, weight: Weight, lut: Lut, form: Form) -> None:
        """Put ``lut`` in the constant's place; consumers read ``<name>_palettized``, as after coremltools' pass."""
        const = self.constant(weight)
        with const.enclosing_block:
            replacement = mb.constexpr_lut_to_dense(**_arguments(lut, form), name=const.name + _SUFFIX, before_op=const)
            _share(const, replacement.op)
            const.enclosing_block.replace_uses_of_var_after_op(
                anchor_op=const, old_var=const.outputs[0], new_var=replacement, no_check_var_types=True
            )
            const.enclosing_block.remove_ops([const])


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
    parts = [var.op for var in op.inputs.values() if var is not None and var.op is not None]
    block.remove_ops([op])
    for part in parts:
        unused = all(not var.child_ops and not var.consuming_blocks for var in part.outputs)
        if part.op_type == "const" and unused and part.enclosing_block is not None:
            part.enclosing_block.remove_ops([part])


def _arguments(lut: Lut, form: Form) -> dict[str, object]:
    """Inputs of ``constexpr_lut_to_dense`` as the form's opset wants them."""
    packed = lut.indices
    if form is PACKED:
        return {"indices": packed.data, "lut": lut.table.reshape(-1), "shape": np.array(packed.shape, np.uint32)}
    dtype = types.nptype_from_builtin(types.string_to_builtin(f"uint{packed.nbits}"))
    arguments: dict[str, object] = {"indices": packed.unpack().astype(dtype), "lut": lut.table}
    if lut.vector_axis is not None:
        arguments["vector_axis"] = np.int32(lut.vector_axis)
    return arguments


def _share(const: Operation, replacement: Operation) -> None:
    """Functions share data by ``weight_id``: give the palette's parts one each where the constant had one."""
    if const.weight_id is not None:
        for name in ("indices", "lut"):
            replacement.inputs[name].op.weight_id = f"{const.weight_id}_{name}"


def _opset_name(specification_version: int) -> str:
    return next((o.name for o in OPSETS if o.spec == specification_version), f"spec {specification_version}")
