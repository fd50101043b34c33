"""Who reads what: names of a function resolved through nested blocks.

A name may be declared in one block and read in another nested in it; sibling blocks may use a name twice.
Each declaration becomes one :class:`Node`, whose ``uses`` say everything that reads it; each op one :class:`ScopedOp`,
which says everything it reads.
"""

from __future__ import annotations

from collections import ChainMap, Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from mil_palettize.program.block_paths import nested_path
from mil_palettize.program.channel_axes import NEED_PARAMS, TRANSPARENT
from mil_palettize.program.op_names import check_length, op_name
from mil_palettize.program.values import MIL, immediate_array, static_shape

# A constant made from more is no chain that a compressor writes (they have up to ten); reading one costs as much.
MOST_PARTS = 64


@dataclass(eq=False)
class Node:
    """A declared value: op output (number ``output``), block input or function input. ``block``: path of the block that
    declares it.

    Of a constant op: ``sources``, what its inputs bound by name read (one value each), and ``results``, all its
    outputs, this one included. ``parts``: itself and all it is made from, what is read twice counted twice, up to
    ``MOST_PARTS`` + 1. ``level``: blocks it stands in, nested in its function's. ``repeated``: whether other values are
    declared under the same name and path, so that the two do not say which one is meant.
    """

    name: str
    type: MIL.ValueType
    block: str
    op: MIL.Operation | None = None
    output: int = 0
    constant: bool = False
    uses: list[Use] = field(default_factory=list, repr=False)  # a graph: written out it would not end
    is_block_output: bool = False
    sources: dict[str, Node] = field(default_factory=dict, repr=False)
    results: list[Node] = field(default_factory=list, repr=False)
    parts: int = 1
    level: int = 0
    repeated: bool = False

    @cached_property
    def shape(self) -> tuple[int, ...] | None:
        return static_shape(self.type)


@dataclass(eq=False)
class Use:
    """``node`` read by ``op`` through ``input_name``. ``leads_to``: the values it lives on as (outputs of a
    const-only shape op; block inputs and result of a loop-invariant loop variable). ``reads`` and ``results``: all that
    the op reads and gives."""

    op: MIL.Operation
    input_name: str
    params: dict[str, np.ndarray | None]
    leads_to: list[Node] = field(default_factory=list)
    reads: tuple[Read, ...] = ()
    results: list[Node] = field(default_factory=list)


class Read(NamedTuple):
    """One thing bound to an input of an op: the ``node`` that ``name`` means where the op stands (None where nothing
    before it declares that name), or a ``value`` that stands in the op itself, without a name."""

    input_name: str
    name: str | None
    node: Node | None
    value: MIL.Value | None

    @property
    def constant(self) -> bool:
        return self.value is not None or (self.node is not None and self.node.constant)


class ScopedOp(NamedTuple):
    """An op, the path of the block it stands in, and everything it reads: inputs by name, of each in order."""

    op: MIL.Operation
    block: str
    reads: tuple[Read, ...]


@dataclass(eq=False)
class Scope:
    """All values and ops of a function, in program order, nested blocks included."""

    nodes: list[Node] = field(default_factory=list)
    ops: list[ScopedOp] = field(default_factory=list)
    _first: dict[tuple[str, str], Node] = field(default_factory=dict)  # of each path and name

    def declare(self, node: Node) -> None:
        """Add a value."""
        self.nodes.append(node)
        first = self._first.setdefault((node.block, node.name), node)
        first.repeated = node.repeated = first is not node or first.repeated

    @property
    def constants(self) -> Iterator[Node]:
        """Outputs of ``const`` and ``constexpr_*`` ops."""
        return (n for n in self.nodes if n.op is not None and is_constant_op(n.op.type))

    def reads(self, op: MIL.Operation, input_name: str) -> list[Read]:
        """Everything bound to one input of an op of the function; [] when the input is absent."""
        return [read for read in self._reads[id(op)] if read.input_name == input_name]

    @cached_property
    def _reads(self) -> dict[int, tuple[Read, ...]]:
        return {id(scoped.op): scoped.reads for scoped in self.ops}


def is_constant_op(op_type: str) -> bool:
    return op_type == "const" or op_type.startswith("constexpr_")


def build_scope(function: MIL.Function, block: MIL.Block, path: str = "") -> Scope:
    """Resolve every name of ``block``, one specialization of ``function``; ``path``: that of the block. Raises
    PackageError for a name that is absurdly long."""
    scope = Scope()
    names: ChainMap[str, Node] = ChainMap()
    for value in (*function.inputs, *block.inputs):
        _declare(scope, names, Node(value.name, value.type, path))
    _walk_block(scope, block, path, names)
    return scope


def _declare(scope: Scope, names: ChainMap[str, Node], node: Node) -> Node:
    check_length(node.name)
    names[node.name] = node
    node.level = len(names.maps) - 1
    scope.declare(node)
    return node


def _walk_block(scope: Scope, block: MIL.Block, path: str, names: ChainMap[str, Node]) -> None:
    for op in block.operations:
        _walk_op(scope, ScopedOp(op, path, tuple(_read(op, names))), names)
    for name in block.outputs:
        if name in names:
            names[name].is_block_output = True


def _read(op: MIL.Operation, names: ChainMap[str, Node]) -> Iterator[Read]:
    for input_name, argument in sorted(op.inputs.items()):  # maps have no order of their own
        for binding in argument.arguments:
            if binding.WhichOneof("binding") == "name":
                yield Read(input_name, binding.name, names.get(binding.name), None)
            else:
                yield Read(input_name, None, None, binding.value)


def _walk_op(scope: Scope, scoped: ScopedOp, names: ChainMap[str, Node]) -> None:
    op, block, reads = scoped
    scope.ops.append(scoped)
    for name in (op.type, op_name(op), *op.inputs, *op.attributes, *(output.name for output in op.outputs)):
        check_length(name)
    carried = [read.constant for read in reads if read.input_name == "loop_vars"]
    loop_inputs = _walk_nested(scope, scoped, names, carried)
    constant = is_constant_op(op.type) or (op.type in TRANSPARENT and all(read.constant for read in reads))
    results = [
        _declare(scope, names, Node(out.name, out.type, block, op, i, constant or (i in loop_inputs and carried[i])))
        for i, out in enumerate(op.outputs)
    ]
    if is_constant_op(op.type):
        sources = {read.input_name: read.node for read in reads if read.node is not None}
        parts = min(1 + sum(source.parts for source in sources.values()), MOST_PARTS + 1)
        for result in results:
            result.sources, result.results, result.parts = sources, results, parts
    _add_uses(scoped, results, loop_inputs, constant)


def _add_uses(scoped: ScopedOp, results: list[Node], loop_inputs: dict[int, list[Node]], constant: bool) -> None:
    """Tell the values that an op reads of it. ``constant``: whether its results are constants."""
    op, _, reads = scoped
    params = constant_params(reads) if op.type in NEED_PARAMS else {}
    position: Counter[str] = Counter()
    for read in reads:
        index = position[read.input_name]
        position[read.input_name] += 1
        if read.node is None:
            continue
        use = Use(op, read.input_name, params, reads=reads, results=results)
        if op.type in TRANSPARENT and constant and read.input_name == TRANSPARENT[op.type][0]:
            use.leads_to = results
        elif read.input_name == "loop_vars" and index in loop_inputs:
            use.leads_to = [*loop_inputs[index], *results[index : index + 1]]
        read.node.uses.append(use)


def _walk_nested(
    scope: Scope, scoped: ScopedOp, names: ChainMap[str, Node], carried: list[bool]
) -> dict[int, list[Node]]:
    """Walk the blocks of an op; for a while_loop, the block inputs of each loop-invariant variable, which is
    constant where its initial value is (``carried``)."""
    op, around, _ = scoped
    invariant = [i for i in _loop_invariant(op) if i < len(carried)]
    constant = {i for i in invariant if carried[i]}
    inputs: list[list[Node]] = []
    for number, block in enumerate(op.blocks):
        inner, path = names.new_child(), nested_path(around, op, number)
        nodes = (Node(v.name, v.type, path, constant=i in constant) for i, v in enumerate(block.inputs))
        inputs.append([_declare(scope, inner, node) for node in nodes])
        _walk_block(scope, block, path, inner)
    return {i: [block_inputs[i] for block_inputs in inputs if i < len(block_inputs)] for i in invariant}


def _loop_invariant(op: MIL.Operation) -> list[int]:
    """Which variables of a while_loop its body hands on as they are."""
    if op.type != "while_loop" or len(op.blocks) != 2:
        return []
    body = op.blocks[1]
    return [i for i, (v, output) in enumerate(zip(body.inputs, body.outputs, strict=False)) if v.name == output]


def constant_params(reads: tuple[Read, ...]) -> dict[str, np.ndarray | None]:
    """The op's inputs whose (small, immediate) value is known: axes, permutations, flags."""
    count = Counter(read.input_name for read in reads)
    params = {}
    for read in reads:
        if count[read.input_name] > 1:
            continue
        value = read.value
        if read.node is not None and read.node.op is not None and read.node.op.type == "const":
            value = read.node.op.attributes.get("val")
        if value is not None and value.WhichOneof("value") == "immediateValue":
            params[read.input_name] = immediate_array(value)
    return params
