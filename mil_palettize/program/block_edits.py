"""Ops taken out of a program's blocks, put into them, and outputs called otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mil_palettize.program.scopes import Node
from mil_palettize.program.stages import Stage
from mil_palettize.program.values import MIL


def remove_ops(stage: Stage, ops: Mapping[int, MIL.Operation]) -> None:
    """Take ``ops`` (by ``id``) out of the blocks of a program."""
    for block in _blocks(stage):
        for index in range(len(block.operations) - 1, -1, -1):
            if id(block.operations[index]) in ops:
                del block.operations[index]


def insert_ops(stage: Stage, before: Mapping[int, Sequence[MIL.Operation]]) -> None:
    """Put copies of new ops in front of the ones whose ``id`` they are listed under."""
    for block in _blocks(stage):
        for index in range(len(block.operations) - 1, -1, -1):
            for op in reversed(before.get(id(block.operations[index]), ())):
                block.operations.insert(index, op)


def rebind(node: Node, name: str) -> None:
    """Let everything that reads ``node`` read ``name`` instead."""
    for use in node.uses:
        for binding in use.op.inputs[use.input_name].arguments:
            if binding.WhichOneof("binding") == "name" and binding.name == node.name:
                binding.name = name


def _blocks(stage: Stage) -> Iterable[MIL.Block]:
    """Every block of a program, those around others first."""
    waiting = [
        block for function in stage.program.functions.values() for block in function.block_specializations.values()
    ]
    while waiting:
        block = waiting.pop()
        yield block
        waiting += [inner for op in block.operations for inner in op.blocks]
