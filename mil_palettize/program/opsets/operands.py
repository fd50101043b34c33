"""Names in a MIL function: what they were defined as, and new ones for ops put in between.

Consts are found by name through lexical scope: a nested block sees everything its enclosing blocks defined
before it. Inputs bound to a value inside the op itself read the same way.
Source: ``mlmodel/format/MIL.proto``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from mil_palettize.program.messages import MIL
from mil_palettize.program.names import NameSource
from mil_palettize.program.scopes import op_name
from mil_palettize.program.values import immediate_array, immediate_value, string_value, tensor_type


@dataclass(frozen=True)
class Operand:
    """One thing an op reads: ``name`` (None for a value inside the op), its ``type`` (None when nothing
    defines the name), ``value`` when it is constant, and the ``op`` and ``output`` position that produce it
    in ``scope`` (None for inputs of functions and blocks)."""

    name: str | None
    type: MIL.ValueType | None
    value: MIL.Value | None = None
    op: MIL.Operation | None = None
    output: int = 0
    scope: Scope | None = None

    @property
    def array(self) -> np.ndarray | None:
        """The constant held in the program itself; None when computed at run time or kept in a blob file."""
        return immediate_array(self.value) if self.value is not None else None

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


@dataclass
class Scope:
    """The names visible at one place of a program."""

    parent: Scope | None = None
    _operands: dict[str, Operand] = field(default_factory=dict)

    def define_inputs(self, inputs: Iterator[MIL.NamedValueType]) -> None:
        """Inputs of a function or of a block."""
        for item in inputs:
            self._operands[item.name] = Operand(item.name, item.type)

    def define_outputs(self, op: MIL.Operation) -> None:
        """What ``op`` produces, from here on visible."""
        value = op.attributes["val"] if op.type == "const" and "val" in op.attributes else None
        for position, item in enumerate(op.outputs):
            self._operands[item.name] = Operand(item.name, item.type, value, op, position, self)

    def find(self, name: str) -> Operand:
        """What ``name`` was defined as, in this scope or an enclosing one."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope._operands:
                return scope._operands[name]
            scope = scope.parent
        return Operand(name, None)

    def operands(self, op: MIL.Operation, parameter: str) -> tuple[Operand, ...]:
        """Everything bound to one input of ``op``; empty when the input is absent."""
        if parameter not in op.inputs:
            return ()
        return tuple(
            self.find(binding.name)
            if binding.WhichOneof("binding") == "name"
            else Operand(None, binding.value.type, binding.value)
            for binding in op.inputs[parameter].arguments
        )

    def operand(self, op: MIL.Operation, parameter: str) -> Operand | None:
        """The one thing bound to an input of ``op``, else None."""
        found = self.operands(op, parameter)
        return found[0] if len(found) == 1 else None


@dataclass(frozen=True)
class Site:
    """An op a rule looks at: where it stands and where new names come from."""

    op: MIL.Operation
    scope: Scope
    names: NameSource

    def operand(self, parameter: str) -> Operand | None:
        """What the op reads as ``parameter``."""
        return self.scope.operand(self.op, parameter)


@dataclass
class NewOps:
    """Ops to be put in front of ``site``'s, named after it."""

    site: Site
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
        own = self.site.op
        base = own.outputs[0].name if own.outputs else op_name(own)
        name = self.site.names.unique(f"{base}_{suffix}")
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
