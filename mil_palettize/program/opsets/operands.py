"""What an op reads, as rules of an opset move ask about it, and new ops to be put in front of it.

A value inside the op itself is read the same way as one that is bound by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from mil_palettize.program.messages import MIL
from mil_palettize.program.new_names import NameSource
from mil_palettize.program.op_names import result_name
from mil_palettize.program.scopes import Read, Scope
from mil_palettize.program.values import immediate_array, immediate_value, string_value, tensor_type


@dataclass(frozen=True)
class Operand:
    """One thing an op reads, as rules ask about it: what ``scope`` found bound there."""

    scope: Scope
    read: Read

    @property
    def name(self) -> str | None:
        """None for a value inside the op."""
        return self.read.name

    @property
    def type(self) -> MIL.ValueType | None:
        """None when nothing defines the name."""
        if self.read.node is not None:
            return self.read.node.type
        return self.read.value.type if self.read.value is not None else None

    @property
    def value(self) -> MIL.Value | None:
        """The value when it is constant and stored as it is."""
        op = self.op
        if op is None:
            return self.read.value
        return op.attributes["val"] if op.type == "const" and "val" in op.attributes else None

    @property
    def op(self) -> MIL.Operation | None:
        """What makes it; None for inputs of functions and blocks, and for a value inside the op that reads it."""
        return self.read.node.op if self.read.node is not None else None

    @property
    def output(self) -> int:
        """Which of that op's outputs it is."""
        return self.read.node.output if self.read.node is not None else 0

    @property
    def array(self) -> np.ndarray | None:
        """The constant held in the program itself; None when computed at run time or kept in a blob file."""
        value = self.value
        return immediate_array(value) if value is not None else None

    @property
    def data_type(self) -> int | None:
        """MIL data type of a tensor operand, else None."""
        if self.type is None or self.type.WhichOneof("type") != "tensorType":
            return None
        return int(self.type.tensorType.dataType)

    @property
    def dims(self) -> tuple[int | None, ...] | None:
        """Sizes of a tensor operand, None for each one not static; None when the rank itself is not known."""
        if self.type is None or self.type.WhichOneof("type") != "tensorType":
            return None
        dimensions = self.type.tensorType.dimensions
        if any(d.WhichOneof("dimension") == "unknown" and d.unknown.variadic for d in dimensions):
            return None
        return tuple(int(d.constant.size) if d.WhichOneof("dimension") == "constant" else None for d in dimensions)

    def sources(self, parameter: str) -> tuple[Operand, ...]:
        """Everything bound to one input of the op that makes it; () when there is none."""
        return () if self.op is None else operands(self.scope, self.op, parameter)

    def source(self, parameter: str) -> Operand | None:
        """The one thing bound to an input of the op that makes it, else None."""
        return _only(self.sources(parameter))


def operands(scope: Scope, op: MIL.Operation, parameter: str) -> tuple[Operand, ...]:
    """Everything bound to one input of ``op``; () when the input is absent."""
    return tuple(Operand(scope, read) for read in scope.reads(op, parameter))


def _only(found: tuple[Operand, ...]) -> Operand | None:
    return found[0] if len(found) == 1 else None


@dataclass(frozen=True)
class OpAtPlace:
    """An op a rule looks at: where it stands and where new names come from."""

    op: MIL.Operation
    scope: Scope
    names: NameSource

    def operand(self, parameter: str) -> Operand | None:
        """The one thing the op reads as ``parameter``, else None."""
        return _only(operands(self.scope, self.op, parameter))


@dataclass
class NewOps:
    """Ops to be put in front of the one at ``place``, named after it."""

    place: OpAtPlace
    operations: list[MIL.Operation] = field(default_factory=list)

    def const(self, suffix: str, array: np.ndarray) -> str:
        """A const op holding ``array`` inside the program; returns its name."""
        value = immediate_value(array)
        name = self._add("const", suffix, {}, value.type)
        self.operations[-1].attributes["val"].CopyFrom(value)
        return name

    def text(self, suffix: str, text: str) -> str:
        """A const op holding a string; returns its name."""
        value = string_value(text)
        name = self._add("const", suffix, {}, value.type)
        self.operations[-1].attributes["val"].CopyFrom(value)
        return name

    def op(self, op_type: str, suffix: str, inputs: Mapping[str, str], output: MIL.ValueType) -> str:
        """An op with one output, its inputs bound by name; returns the output's name."""
        return self._add(op_type, suffix, inputs, output)

    def _add(self, op_type: str, suffix: str, inputs: Mapping[str, str], output: MIL.ValueType) -> str:
        own = self.place.op
        name = self.place.names.unique(f"{result_name(own)}_{suffix}")
        op = MIL.Operation(type=op_type)
        op.attributes["name"].CopyFrom(string_value(name))
        for parameter, source in inputs.items():
            op.inputs[parameter].arguments.add().name = source
        op.outputs.add(name=name, type=output)
        self.operations.append(op)
        return name


def with_data_type(value_type: MIL.ValueType, data_type: int) -> MIL.ValueType:
    """The same (possibly not static) shape with another element type."""
    changed = MIL.ValueType()
    changed.CopyFrom(value_type)
    changed.tensorType.dataType = data_type
    return changed


def vector_type(length: int, data_type: int) -> MIL.ValueType:
    """A 1-D tensor of ``length`` elements."""
    return tensor_type((length,), data_type)
