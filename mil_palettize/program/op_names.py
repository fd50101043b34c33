"""What ops are called: by their own name, and by what they make."""

from __future__ import annotations

from mil_palettize.program.values import MIL, scalar


def op_name(op: MIL.Operation) -> str:
    """Attribute ``name``, else the first output's name."""
    name = scalar(op.attributes["name"]) if "name" in op.attributes else None
    if isinstance(name, str) and name:
        return name
    return op.outputs[0].name if op.outputs else op.type


def result_name(op: MIL.Operation) -> str:
    """The first output's name, which no other op of the same block has; of an op without outputs, its own name."""
    return op.outputs[0].name if op.outputs else op_name(op)
