"""Where a block stands in its function, in words that tell it from every other block there.

"" is the block that the function runs: its own. A block nested in an op is called by the op's result and its number
among the op's blocks, ``while_loop_0[1]``, after the path of the block around it: ``while_loop_0[1]/cond_2[0]``. Where
a function has blocks for other opsets than its own too, their paths begin with the opset: ``CoreML7``,
``CoreML7/while_loop_0[1]``. A move to a later opset changes no path of the block it moves.
"""

from __future__ import annotations

import hashlib

from mil_palettize.program.op_names import result_name
from mil_palettize.program.values import MIL

_LONGEST = 4000


def specializations(function: MIL.Function) -> list[tuple[str, str, MIL.Block]]:
    """(opset, path, block) of every block specialization of a function, by opset."""
    blocks = sorted(function.block_specializations.items())
    return [(opset, specialization_path(function, opset), block) for opset, block in blocks]


def specialization_path(function: MIL.Function, opset: str) -> str:
    """The path of the function's block for ``opset``."""
    return "" if opset == function.opset or len(function.block_specializations) == 1 else opset


def nested_path(around: str, op: MIL.Operation, number: int) -> str:
    """The path of block ``number`` of an ``op`` in the block at ``around``."""
    return _joined(around, f"{result_name(op)}[{number}]")


def bound_path(around: str, op: MIL.Operation, input_name: str, number: int) -> str:
    """In place of a block's path, where value ``number`` stands that is bound in place to an input of ``op``."""
    return _joined(around, f"{result_name(op)}.{input_name}[{number}]")


def _joined(around: str, own: str) -> str:
    """Paths that are absurdly long end in a digest of the rest: every block below would repeat them."""
    path = f"{around}/{own}" if around else own
    if len(path) <= _LONGEST:
        return path
    return f"{path[:_LONGEST]}~{hashlib.sha256(path.encode('utf-8', 'surrogatepass')).hexdigest()}"
