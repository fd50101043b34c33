"""A constant where it stands in a program, and what can be said of it there without reading its values."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from mil_palettize.program.block_paths import bound_path
from mil_palettize.program.consumers import Known, consumers
from mil_palettize.program.op_names import op_name
from mil_palettize.program.scopes import Node, ScopedOp, is_constant_op
from mil_palettize.program.values import MIL, scalar, static_shape, type_name, value_nbytes
from mil_palettize.program.weight import Consumer, Weight

# Readers take messages nested up to 100 deep. Block L of a pipeline stage's program is 9 + 2 L deep, a palette's op has
# 9 more in it.
DEEPEST_LEVEL = 40
# Of a constant op: what says how its data is to be read.
_NO_DATA = ("name", "shape", "axis", "vector_axis", "output_dtype")
_FLOATS = tuple(MIL.DataType.Value(n) for n in ("FLOAT16", "FLOAT32"))
_NIBBLES = tuple(MIL.DataType.Value(n) for n in ("INT4", "UINT4"))
_INTEGERS = (*(MIL.DataType.Value(n) for n in ("INT8", "UINT8")), *_NIBBLES)
# Op type -> what it is to joint compression, the input that holds the values, and their types.
_JOINT = {
    "constexpr_sparse_to_dense": ("sparse", "nonzero_data", _FLOATS),
    "constexpr_blockwise_shift_scale": ("scaled", "data", _INTEGERS),
}


@dataclass(frozen=True, eq=False)
class Site:
    """A constant where it stands: ``op`` is the message to replace, ``value`` holds or points at its data (of a
    compressed constant what joint compression takes, or nothing). ``node``: None for a tensor bound to its op in
    place."""

    weight: Weight
    op: MIL.Operation
    value: MIL.Value
    node: Node | None = None


def site_of(node: Node, function: str, opset: str, known: Known) -> Site | None:
    """The site of a constant op's result; None for one without a fixed shape, and for all results but the first.

    ``known``: as for ``consumers``, which raises PackageError.
    """
    assert node.op is not None
    shape = node.shape
    if shape is None or node.op.outputs[0].name != node.name:
        return None
    joint, value = _joint(node)
    if not joint and "val" in node.op.attributes:
        value = node.op.attributes["val"]
    data_type = node.type.tensorType.dataType
    weight = Weight(
        name=node.name,
        op_name=op_name(node.op),
        function=function,
        shape=shape,
        dtype=type_name(data_type),
        nbytes=stored_nbytes(node.op),
        opset=opset,
        consumers=consumers(node, known),
        storage=_storage(value),
        form=node.op.type,
        obstacle=_obstacle(node, value, data_type),
        block=node.block,
        joint=joint,
        stored=math.prod(static_shape(value.type) or ()) if joint else math.prod(shape),
        stored_nbytes=value_nbytes(value),
        blocks=_scale_shape(node.op) if joint == "scaled" else (),
    )
    return Site(weight, node.op, value, node)


def _joint(node: Node) -> tuple[str, MIL.Value]:
    """What of a compressed constant joint compression can palettize, and the value that holds it; ("", empty) when
    there is none: all parts stand in the op (iOS18), and other ops than constants read the result."""
    assert node.op is not None
    nothing = "", MIL.Value()
    if node.op.type not in _JOINT or len(node.op.outputs) != 1 or place_obstacle(node):
        return nothing
    if set(node.op.attributes) - {"name"} or node.op.blocks:  # which a palette would lose
        return nothing
    joint, main, types = _JOINT[node.op.type]
    bound = {name: argument.arguments for name, argument in node.op.inputs.items()}
    if main not in bound or any(len(b) != 1 or b[0].WhichOneof("binding") != "value" for b in bound.values()):
        return nothing
    value = bound[main][0].value
    data_type = value.type.tensorType.dataType
    if data_type not in types or static_shape(value.type) is None or node.type.tensorType.dataType not in _FLOATS:
        return nothing
    if data_type in _NIBBLES and "offset" in bound:  # an offset has the type of the data, and no table has that one
        return nothing
    return joint, value


def _scale_shape(op: MIL.Operation) -> tuple[int, ...]:
    return static_shape(op.inputs["scale"].arguments[0].value.type) or ()


def place_obstacle(node: Node) -> str:
    """What in the constant's place rules a palette out."""
    if node.level > DEEPEST_LEVEL:
        return f"stands {node.level} blocks deep, where readers would not take a palette's op"
    if node.repeated:
        return "shares its name with another value of its block, so that it cannot be told which of them is meant"
    if node.op is not None and "name" in node.op.attributes and not isinstance(scalar(node.op.attributes["name"]), str):
        return "has a name that is no text in the program, which a palette's op must have"
    if node.is_block_output:
        return "is an output of its block, which a compressed constant cannot be"
    feeds = next((use.op.type for use in node.uses if use.op.type.startswith("constexpr_")), None)
    return f"feeds {feeds}" if feeds else ""


def _storage(value: MIL.Value) -> tuple[str, int] | None:
    if value.WhichOneof("value") != "blobFileValue":
        return None
    return value.blobFileValue.fileName, int(value.blobFileValue.offset)


def _obstacle(node: Node, value: MIL.Value, data_type: int) -> str:
    """What in the constant's own form rules a palette out, "" when nothing does."""
    assert node.op is not None
    if node.op.type != "const":
        return f"already compressed ({node.op.type})"
    if node.op.blocks or node.op.inputs or len(node.op.outputs) != 1:
        return "has inputs, blocks or several outputs, which constants have not"
    unknown = sorted(set(node.op.attributes) - {"name", "val"})
    if unknown:
        return f"has attributes that a palette would lose ({', '.join(unknown)})"
    if data_type not in _FLOATS:
        return f"{type_name(data_type)} values; palettes hold fp16 and fp32"
    if value.type.tensorType.dataType != data_type or static_shape(value.type) != node.shape:
        return "its value's type differs from its output's"
    return place_obstacle(node)


def stored_nbytes(op: MIL.Operation) -> int:
    """Bytes the constant's data takes: for a compressed one, of all parts stored with it."""
    values = [v for name, v in op.attributes.items() if name not in _NO_DATA]
    arguments = (a for name, a in op.inputs.items() if name not in _NO_DATA)
    values += [b.value for a in arguments for b in a.arguments if b.WhichOneof("binding") == "value"]
    return sum(value_nbytes(value) for value in values)


def inline_sites(scoped: ScopedOp, function: str, opset: str) -> list[Site]:
    """Tensors bound to inputs of an op in place, without a const op: reported, never rewritten."""
    op = scoped.op
    if is_constant_op(op.type):
        return []
    found = []
    number: Counter[str] = Counter()
    for input_name, _, _, value in scoped.reads:
        number[input_name] += 1
        shape = static_shape(value.type) if value is not None else None
        if value is None or shape is None:
            continue
        name = f"{op_name(op)}.{input_name}"
        weight = Weight(
            name=name,
            op_name=name,  # it has no op of its own, and the one that reads it is its consumer
            function=function,
            shape=shape,
            dtype=type_name(value.type.tensorType.dataType),
            nbytes=value_nbytes(value),
            opset=opset,
            consumers=(Consumer(op.type, op_name(op), input_name, None),),
            storage=_storage(value),
            form="inline",
            obstacle="is bound to its op in place, not by a const op",
            block=bound_path(scoped.block, op, input_name, number[input_name] - 1),
        )
        found.append(Site(weight, op, value))
    return found
