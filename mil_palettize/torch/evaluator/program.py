"""A function of an ML Program made ready to run: names resolved, ops looked up, known parameters bound.

The serialized program is read as it is, not through coremltools' own (which does not load every model).
"""

from __future__ import annotations

from collections import ChainMap, Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any, NamedTuple

import numpy as np

from mil_palettize.errors import PackageError, UnsupportedOpError
from mil_palettize.program.block_paths import nested_path, specialization_path
from mil_palettize.program.op_names import op_name
from mil_palettize.program.store import Store
from mil_palettize.program.values import MIL, static_shape
from mil_palettize.torch.evaluator.constants import CONSTANT_OPS, constant_array, value_array
from mil_palettize.torch.evaluator.ops import OPS
from mil_palettize.torch.evaluator.ops.registry import PLAIN, Op
from mil_palettize.torch.evaluator.types import is_half


@dataclass(frozen=True)
class OpInfo:
    """What a listener sees of an op. ``outputs``: names of the values it makes; ``nested``: in an op's block."""

    type: str
    name: str
    outputs: tuple[str, ...]
    nested: bool


class Reading(NamedTuple):
    """A parameter that is read when the op runs. ``convert``: to a Python value, None for tensors as they are;
    ``many``: a list of slots; ``narrow``: taken as it is stored."""

    name: str
    slots: tuple[str, ...]
    many: bool
    convert: Callable[[Any], Any] | None
    narrow: bool


@dataclass
class Step:
    """One op. ``fixed``: parameters that are known; ``half``: of each output, whether it is declared float16;
    ``unneeded``: slots that nothing reads any more after it; ``shortcut``: from all values by slot and the op's
    arguments to its results without its blocks' ops one by one, or None where it does not hold for these."""

    info: OpInfo
    call: Callable[..., Any]
    fixed: dict[str, Any]
    readings: tuple[Reading, ...]
    outputs: tuple[str, ...]
    half: tuple[bool, ...]
    blocks: tuple[Block, ...] = ()
    unneeded: tuple[str, ...] = ()
    shortcut: Callable[[Mapping[str, Any], Mapping[str, Any]], tuple[Any, ...] | None] | None = None

    def slots_read(self) -> Iterator[str]:
        for reading in self.readings:
            yield from reading.slots
        for block in self.blocks:
            yield from block.outputs
            for step in block.steps:
                yield from step.slots_read()


@dataclass
class Block:
    inputs: tuple[str, ...]
    steps: list[Step]
    outputs: tuple[str, ...]

    def all_steps(self) -> Iterator[Step]:
        """Those of nested blocks too."""
        for step in self.steps:
            yield step
            for block in step.blocks:
                yield from block.all_steps()


@dataclass(frozen=True)
class Constant:
    """A constant that some op reads as a tensor. ``name``: of the value, "" for one that is bound in place; ``block``:
    path of the block that declares it; ``shape``: as declared; ``nbytes``: what it takes dense."""

    name: str
    block: str
    shape: tuple[int, ...]
    nbytes: int
    decode: Callable[[], np.ndarray]


@dataclass
class Function:
    """``types``: of the inputs. ``states``: name -> type of what it holds."""

    name: str
    block: Block
    types: dict[str, MIL.ValueType]
    states: dict[str, MIL.ValueType]
    output_names: tuple[str, ...]
    constants: dict[str, Constant] = field(default_factory=dict)


def missing_ops(function: MIL.Function) -> Counter[str]:
    """Ops of a function that are not known here, and how often it has them."""
    found: Counter[str] = Counter()
    blocks = list(function.block_specializations.values())
    while blocks:
        for op in blocks.pop().operations:
            blocks += op.blocks
            if op.type not in OPS and op.type not in CONSTANT_OPS:
                found[op.type] += 1
    return found


def compile_function(name: str, function: MIL.Function, store: Store) -> Function:
    """Raises UnsupportedOpError naming every op that is missing; PackageError for a program that is no sound one."""
    missing = missing_ops(function)
    if missing:
        told = ", ".join(f"{op_type} ({count}x)" for op_type, count in sorted(missing.items()))
        raise UnsupportedOpError(
            f"{store.package.path}: function {name!r} has ops that this evaluator does not know: {told}; run it with "
            "Core ML on a Mac"
        )
    key = function.opset if function.opset in function.block_specializations else None
    if key is None:
        key = next(iter(function.block_specializations), None)
    if key is None:
        raise PackageError(f"{store.package.path}: function {name!r} has no block")
    return _Compiler(name, function, key, store).run()


class _ConstantOp(NamedTuple):
    """Output number ``output`` of a constant op; ``scope``: the constants it sees; ``block``: path of its block."""

    op: MIL.Operation
    output: int
    scope: ChainMap[str, MIL.Operation]
    block: str


class _Compiler:
    def __init__(self, name: str, function: MIL.Function, opset: str, store: Store) -> None:
        self.function, self.store = function, store
        self.root, self.path = function.block_specializations[opset], specialization_path(function, opset)
        self.done = Function(name, Block((), [], ()), {}, {}, tuple(self.root.outputs))
        self.types: dict[str, MIL.ValueType] = {}
        self.taken: set[str] = set()
        self.constant_ops: dict[str, _ConstantOp] = {}  # by slot
        self.decoded: dict[str, np.ndarray] = {}

    def run(self) -> Function:
        names: ChainMap[str, str] = ChainMap()
        for item in self.function.inputs:
            slot = self._declare(names, item)
            if item.type.WhichOneof("type") == "stateType":
                self.done.states[item.name] = item.type.stateType.wrappedType
            else:
                self.done.types[item.name] = item.type
            if slot != item.name:
                raise PackageError(
                    f"{self.store.package.path}: function {self.done.name!r} has two inputs {item.name!r}"
                )
        self.done.block = self._block(self.root, self.path, names, ChainMap())
        _mark_unneeded(self.done.block, {*self.done.constants, *self.done.states})
        return self.done

    def _declare(self, names: ChainMap[str, str], item: MIL.NamedValueType) -> str:
        """A slot of its own for every declaration: sibling blocks may use a name twice."""
        slot, number = item.name, 1
        while slot in self.taken:
            number += 1
            slot = f"{item.name} ({number})"
        self.taken.add(slot)
        names[item.name] = slot
        self.types[slot] = item.type
        return slot

    def _block(
        self, block: MIL.Block, path: str, names: ChainMap[str, str], scope: ChainMap[str, MIL.Operation]
    ) -> Block:
        inputs = tuple(self._declare(names, item) for item in block.inputs)
        steps = []
        for op in block.operations:
            if op.type in CONSTANT_OPS:
                for position, item in enumerate(op.outputs):
                    self.constant_ops[self._declare(names, item)] = _ConstantOp(op, position, scope, path)
                    scope[item.name] = op
            else:
                steps.append(self._step(op, path, names, scope))
        outputs = tuple(self._slot(names, name, "the block's output") for name in block.outputs)
        for slot in outputs:
            self._need(slot)
        return Block(inputs, steps, outputs)

    def _slot(self, names: ChainMap[str, str], name: str, reader: str) -> str:
        if name not in names:
            raise PackageError(f"{self.store.package.path}: {reader} reads {name!r}, which nothing before it makes")
        return names[name]

    def _step(
        self, op: MIL.Operation, path: str, names: ChainMap[str, str], scope: ChainMap[str, MIL.Operation]
    ) -> Step:
        known = OPS[op.type]
        name = op_name(op)
        fixed: dict[str, Any] = {}
        readings: list[Reading] = []
        for parameter, argument in op.inputs.items():
            if parameter not in known.parameters:
                raise UnsupportedOpError(f"{name!r}: this evaluator knows no parameter {parameter!r} of {op.type}")
            slots = tuple(self._bound(b, f"{name}.{parameter}", names) for b in argument.arguments)
            self._bind(known, parameter, slots, fixed, readings, f"{name}.{parameter}")
        for parameter, value in op.attributes.items():
            if parameter != "name" and parameter in known.parameters:
                kind = known.parameters[parameter].kind
                fixed[parameter] = _plain(kind, value_array(value, self.store, name), f"{name}.{parameter}")
        lacking = [p for p, k in known.parameters.items() if k.required and k.kind != "Blocks" and p not in op.inputs]
        if lacking:
            raise PackageError(f"{name!r} ({op.type}) lacks its input {lacking[0]!r}; the package is damaged")
        blocks = tuple(
            self._block(block, nested_path(path, op, number), names.new_child(), scope.new_child())
            for number, block in enumerate(op.blocks)
        )
        outputs = tuple(self._declare(names, item) for item in op.outputs)
        half = tuple(is_half(item.type) for item in op.outputs)
        info = OpInfo(op.type, name, tuple(item.name for item in op.outputs), path != self.path)
        return Step(info, known.function, fixed, tuple(readings), outputs, half, blocks)

    def _bound(self, binding: Any, owner: str, names: ChainMap[str, str]) -> str:
        """The slot of a binding; a value that stands in its place gets one."""
        if binding.WhichOneof("binding") == "name":
            return self._slot(names, binding.name, owner)
        slot = self._declare(ChainMap(), MIL.NamedValueType(name=owner, type=binding.value.type))
        self.decoded[slot] = value_array(binding.value, self.store, owner)
        return slot

    def _bind(
        self,
        op: Op,
        parameter: str,
        slots: tuple[str, ...],
        fixed: dict[str, Any],
        readings: list[Reading],
        owner: str,
    ) -> None:
        kind = op.parameters[parameter].kind
        known = kind in PLAIN and all(slot in self.decoded or slot in self.constant_ops for slot in slots)
        if not slots:
            return
        if known:
            values = [self._decoded(slot) for slot in slots]
            whole = values[0] if len(values) == 1 else np.array([_plain(kind, value, owner) for value in values])
            fixed[parameter] = _plain(kind, whole, owner)
            return
        for slot in slots:
            self._need(slot)
        many = kind == "Tensors" or len(slots) > 1
        readings.append(Reading(parameter, slots, many, PLAIN.get(kind), kind == "Weight" and not many))

    def _decoded(self, slot: str) -> np.ndarray:
        """Of a parameter: small, and often read by many ops."""
        if slot not in self.decoded:
            op, output, scope, _ = self.constant_ops[slot]
            self.decoded[slot] = constant_array(op, scope, self.store, output)
        return self.decoded[slot]

    def _need(self, slot: str) -> None:
        """Have a constant in the slot when the function runs."""
        shape = static_shape(self.types[slot]) or ()
        nbytes = prod(shape) * (2 if is_half(self.types[slot]) else 4)
        if slot in self.constant_ops:
            op, output, scope, block = self.constant_ops[slot]
            decode = partial(constant_array, op, scope, self.store, output)
            self.done.constants[slot] = Constant(op.outputs[output].name, block, shape, nbytes, decode)
        elif slot in self.decoded:
            self.done.constants[slot] = Constant("", "", shape, nbytes, partial(self.decoded.__getitem__, slot))


def _plain(kind: str, array: np.ndarray, owner: str) -> Any:
    try:
        return PLAIN[kind](array) if kind in PLAIN else array
    except (ValueError, TypeError, IndexError, OverflowError) as error:
        told = f"{array.dtype} of shape {list(array.shape)}"
        raise PackageError(
            f"{owner!r} holds {told}, which is none of the parameter's {kind}; the package is damaged"
        ) from error


def _mark_unneeded(block: Block, kept: Mapping[str, Any] | set[str]) -> None:
    """Results are dropped after the last op that reads them, in the outermost block: those of a loop are made anew."""
    last: dict[str, Step] = {}
    for step in block.steps:
        last.update(dict.fromkeys((*step.outputs, *step.slots_read()), step))
    for slot in (*kept, *block.outputs):
        last.pop(slot, None)
    own = {*block.inputs, *(slot for step in block.steps for slot in step.outputs)}
    for step in block.steps:
        step.unneeded = tuple(slot for slot, reader in last.items() if reader is step and slot in own)
