"""A coremltools ``Program`` (PyMIL, inside ``ct.convert``) seen as the serialized program it would become.

Planning then asks the same questions of the same messages at every door. Constants' data stays where it is: in the
messages each is a reference whose offset is its number.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from coremltools.converters.mil.backend.mil.helper import create_file_value_tensor, types_to_proto_primitive
from coremltools.converters.mil.backend.mil.load import MILProtoExporter
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import Function, Operation, Program, Var, types

from mil_palettize.expressions.packed import Packed
from mil_palettize.expressions.weight_expr import Const, Scale, Sparse, WeightExpr
from mil_palettize.program.forms import Form
from mil_palettize.program.messages import CoreML
from mil_palettize.program.opsets.move import OPSETS
from mil_palettize.program.pymil.ops import replace_integers, replace_nonzeros, replace_with_palette
from mil_palettize.program.stages import Stage
from mil_palettize.program.survey import Survey, survey
from mil_palettize.program.values import MIL, tensor_type
from mil_palettize.program.weight import Weight

_OPAQUE = tensor_type((), MIL.DataType.Value("UNUSED_TYPE"))
# Compressed op -> the input that joint compression makes a palette of.
_MAIN = {"constexpr_sparse_to_dense": "nonzero_data", "constexpr_blockwise_shift_scale": "data"}


class _Skeleton(MILProtoExporter):
    """coremltools' own serializer, writing no weight file: the n-th constant is said to be at offset n.

    ``named``: what holds the values of constants, by function and name of the result, in program order: names of
    sibling blocks may share one. It is how those are found that stand in the program itself.
    """

    def __init__(self, program: Program) -> None:
        # The base class validates the whole program, which in the middle of a pipeline need not be valid yet.
        self.prog = program
        self.specification_version = OPSETS[-1].spec
        self.constants: list[Var] = []
        self.named: dict[tuple[str, str], list[Operation]] = defaultdict(list)
        self._function = ""

    def convert_function(self, function: Function, opset: str, *, name: str = "") -> MIL.Function:
        self._function = name
        return super().convert_function(function, opset)

    def translate_const(self, op: Operation) -> MIL.Operation:
        self.named[self._function, op.outputs[0].name].append(op)
        return super().translate_const(op)

    def translate_constexpr(self, op: Operation) -> MIL.Operation:
        main = op.inputs.get(_MAIN.get(op.op_type, ""))
        self.named[self._function, op.outputs[0].name].append(op if main is None or main.op is None else main.op)
        return super().translate_constexpr(op)

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
            opset = _opset_name(function.opset_version.value)
            message = self._skeleton.convert_function(function, opset, name=name)
            model.mlProgram.functions[name].CopyFrom(message)
        self._survey = survey(Stage("", model))

    def survey(self) -> Survey:
        return self._survey

    def constant(self, weight: Weight) -> Operation:
        """The ``const`` op of a weight's data; for a compressed weight, of what joint compression takes."""
        if weight.storage is not None:
            return self._skeleton.constants[weight.storage[1]].op
        same = [site.weight.id for site in self._survey.sites if _is_called(site.weight, weight)]
        return self._skeleton.named[weight.function, weight.name][same.index(weight.id)]

    def held(self, weight: Weight) -> WeightExpr | None:
        """What a compressed weight is stored as; None for a dense one."""
        if not weight.joint:
            return None
        op = self._op(weight)
        if weight.joint == "sparse":
            mask = np.asarray(op.mask.val).astype(np.uint8)
            return Sparse(Const(np.asarray(op.nonzero_data.val)), Packed.pack(mask, 1))
        offset = None if op.offset is None else np.asarray(op.offset.val)
        return Scale(Const(_whole_bytes(op.data.val)), np.asarray(op.scale.val), offset)

    def palettize(self, weight: Weight, expr: WeightExpr, form: Form) -> None:
        """Put the palette in the constant's place, called as after coremltools' pass."""
        const = self.constant(weight)
        with const.enclosing_block:
            if not weight.joint:
                replace_with_palette(const, expr, form)
            elif weight.joint == "sparse":
                replace_nonzeros(const, self._op(weight), expr)
            else:
                replace_integers(const, self._op(weight), expr)

    def put_values(self, weight: Weight, values: np.ndarray) -> None:
        """``values`` in the weight's place, dense: what its palette would come to, without one.

        What a compressed weight was made of is left to ``dead_code_elimination``.
        """
        op = self._op(weight)
        with op.enclosing_block:
            fake = mb.const(val=values, name=f"{self.constant(weight).name}_fake_palettized", before_op=op)
            op.enclosing_block.replace_uses_of_var_after_op(
                anchor_op=op, old_var=op.outputs[0], new_var=fake, no_check_var_types=True, force_replace=True
            )
            op.enclosing_block.remove_ops([op])

    def _op(self, weight: Weight) -> Operation:
        """The op that a weight is the result of."""
        const = self.constant(weight)
        if not weight.joint:
            return const
        return next(op for op in const.outputs[0].child_ops if op.outputs[0].name == weight.name)


def _whole_bytes(array: np.ndarray) -> np.ndarray:
    """Integers, also those of types numpy has not, as int8 or uint8."""
    unsigned = types.numpy_type_to_builtin_type(array.dtype).is_unsigned()
    return np.asarray(array).astype(np.uint8 if unsigned else np.int8)


def _is_called(one: Weight, other: Weight) -> bool:
    return one.form != "inline" and (one.function, one.name) == (other.function, other.name)


def _opset_name(specification_version: int) -> str:
    return next((o.name for o in OPSETS if o.spec == specification_version), f"spec {specification_version}")
