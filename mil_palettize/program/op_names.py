"""What ops are called: by their own name, and by what they make."""

from __future__ import annotations

from mil_palettize.errors import PackageError
from mil_palettize.program.values import MIL, scalar

# Reports and paths of blocks repeat a name wherever it matters; converters' names have a few hundred characters.
LONGEST_NAME = 2000


def check_length(name: str) -> None:
    """Raise PackageError for a name that is longer than ``LONGEST_NAME``."""
    if len(name) > LONGEST_NAME:
        raise PackageError(
            f"the program has a name of {len(name)} characters, {name[:40]!r}...; up to {LONGEST_NAME} are read: "
            "convert the model again with shorter names"
        )


def op_name(op: MIL.Operation) -> str:
    """Attribute ``name``, else the first output's name."""
    name = scalar(op.attributes["name"]) if "name" in op.attributes else None
    if isinstance(name, str) and name:
        return name
    return op.outputs[0].name if op.outputs else op.type


def result_name(op: MIL.Operation) -> str:
    """The first output's name, which no other op of the same block has; of an op without outputs, its own name."""
    return op.outputs[0].name if op.outputs else op_name(op)


def other_names(op: MIL.Operation) -> tuple[str, ...]:
    """What the outputs are called, where that is not the op's own name: viewers show these."""
    own = op_name(op)
    return tuple(output.name for output in op.outputs if output.name != own)
