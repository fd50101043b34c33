"""Who reads what: names of a function resolved through nested blocks.

A name may be declared in one block and read in another nested in it; sibling blocks may use a name twice.
Each declaration becomes one :class:`Node`, whose ``uses`` say everything that reads it.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from mil_palettize.program.channel_axes import NEED_PARAMS, TRANSPARENT
from mil_palettize.program.values import MIL, immediate_array, scalar, static_shape


@dataclass(eq=False)
class Node:
    """A declared value: op output, block input or function input.

    Of a constant op: ``sources``, what its inputs bound by name read (one value each), and ``results``, all its
    outputs, this one included.
    """

    name: str
    type: MIL.ValueType
    op: MIL.Operation | None = None
    constant: bool = False
    uses: list[Use] = field(default_factory=list)
    is_block_output: bool = False
    sources: dict[str, Node] = field(default_factory=dict)
    results: list[Node] = field(default_factory=list)

    @cached_property
    def shape(self) -> tuple[int, ...] | None:
        return static_shape(self.type)


@dataclass(eq=False)
class Use:
    """``node`` read by ``op`` through ``input_name``. ``leads_to``: the values it lives on as (outputs of a
    const-only shape op; block inputs and result of a loop-invariant loop variable)."""

    op: MIL.Operation
    input_name: str
    params: dict[str, np.ndarray | None]
    leads_to: list[Node] = field(default_factory=list)


@dataclass(eq=False)
class Scope:
    """All values and ops of a function, in program order, nested blocks included."""

    nodes: list[Node] = field(default_factory=list)
    ops: list[MIL.Operation] = field(default_factory=list)

    @property
    def constants(self) -> Iterator[Node]:
        """Outputs of ``const`` and ``constexpr_*`` ops."""
        return (n for n in self.nodes if n.op is not None and is_constant_op(n.op.type))


_INLINE = object()  # stands for a value bound to an input in place


def _is_constant(read: object) -> bool:
    return read is _INLINE or (isinstance(read, Node) and read.constant)


def is_constant_op(op_type: str) -> bool:
    return op_type == "const" or op_type.startswith("constexpr_")


def op_name(op: MIL.Operation) -> str:
    """Attribute ``name``, else the first output's name."""
    name = scalar(op.attributes["name"]) if "name" in op.attributes else None
    if isinstance(name, str) and name:
        return name
    return op.outputs[0].name if op.outputs else op.type


def build_scope(function: MIL.Function, block: MIL.Block) -> Scope:
    """Resolve every name of ``block``, one specialization of ``function``."""
    scope = Scope()
    names: ChainMap[str, Node] = ChainMap()
    for value in (*function.inputs, *block.inputs):
        _declare(scope, names, Node(value.name, value.type))
    _walk_block(scope, block, names)
    return scope


def _declare(scope: Scope, names: ChainMap[str, Node], node: Node) -> Node:
    names[node.name] = node
    scope.nodes.append(node)
    return node


def _walk_block(scope: Scope, block: MIL.Block, names: ChainMap[str, Node]) -> None:
    for op in block.operations:
        _walk_op(scope, op, names)
    for name in block.outputs:
        if name in names:
            names[name].is_block_output = True


def _walk_op(scope: Scope, op: MIL.Operation, names: ChainMap[str, Node]) -> None:
    scope.ops.append(op)
    read = [
        (input_name, names.get(binding.name) if binding.WhichOneof("binding") == "name" else _INLINE)
        for input_name, argument in sorted(op.inputs.items())  # maps have no order of their own
        for binding in argument.arguments
    ]
    params = _constant_params(op, names) if op.type in NEED_PARAMS else {}
    carried = [_is_constant(node) for input_name, node in read if input_name == "loop_vars"]
    loop_inputs = _walk_nested(scope, op, names, carried)
    constant = is_constant_op(op.type) or (op.type in TRANSPARENT and all(_is_constant(n) for _, n in read))
    results = [
        _declare(scope, names, Node(out.name, out.type, op, constant or (i in loop_inputs and carried[i])))
        for i, out in enumerate(op.outputs)
    ]
    if is_constant_op(op.type):
        sources = {input_name: node for input_name, node in read if isinstance(node, Node)}
        for result in results:
            result.sources, result.results = sources, results
    position: dict[str, int] = {}
    for input_name, node in read:
        index = position.get(input_name, 0)
        position[input_name] = index + 1
        if not isinstance(node, Node):
            continue
        use = Use(op, input_name, params)
        if op.type in TRANSPARENT and constant and input_name == TRANSPARENT[op.type][0]:
            use.leads_to = results
        elif input_name == "loop_vars" and index in loop_inputs:
            use.leads_to = [*loop_inputs[index], *results[index : index + 1]]
        node.uses.append(use)


def _walk_nested(
    scope: Scope, op: MIL.Operation, names: ChainMap[str, Node], carried: list[bool]
) -> dict[int, list[Node]]:
    """Walk the blocks of ``op``; for a while_loop, the block inputs of each loop-invariant variable, which is
    constant where its initial value is (``carried``)."""
    invariant = [i for i in _loop_invariant(op) if i < len(carried)]
    constant = {i for i in invariant if carried[i]}
    inputs: list[list[Node]] = []
    for block in op.blocks:
        inner = names.new_child()
        nodes = (Node(v.name, v.type, constant=i in constant) for i, v in enumerate(block.inputs))
        inputs.append([_declare(scope, inner, node) for node in nodes])
        _walk_block(scope, block, inner)
    return {i: [block_inputs[i] for block_inputs in inputs if i < len(block_inputs)] for i in invariant}


def _loop_invariant(op: MIL.Operation) -> list[int]:
    """Which variables of a while_loop its body hands on as they are."""
    if op.type != "while_loop" or len(op.blocks) != 2:
        return []
    body = op.blocks[1]
    return [i for i, (v, output) in enumerate(zip(body.inputs, body.outputs, strict=False)) if v.name == output]


def _constant_params(op: MIL.Operation, names: ChainMap[str, Node]) -> dict[str, np.ndarray | None]:
    """The op's inputs whose (small, immediate) value is known: axes, permutations, flags."""
    params = {}
    for name, argument in op.inputs.items():
        if len(argument.arguments) != 1:
            continue
        binding = argument.arguments[0]
        if binding.WhichOneof("binding") == "value":
            params[name] = immediate_array(binding.value)
            continue
        node = names.get(binding.name)
        if node is not None and node.op is not None and node.op.type == "const":
            value = node.op.attributes.get("val")
            if value is not None and value.WhichOneof("value") == "immediateValue":
                params[name] = immediate_array(value)
    return params
