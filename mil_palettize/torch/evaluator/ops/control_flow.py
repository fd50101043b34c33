"""Ops with blocks, and ``select``."""

from __future__ import annotations

from typing import Any

import torch

from mil_palettize.torch.evaluator.ops.registry import Blocks, Flag, Tensor, op


@op("cond")
def cond(pred: Flag, blocks: Blocks) -> tuple[Any, ...]:
    return tuple(blocks[0 if pred else 1]())


@op("while_loop")
def while_loop(loop_vars: Any, blocks: Blocks) -> tuple[Any, ...]:
    """The first block says whether to go on, the second makes the next variables."""
    condition, body = blocks
    values = loop_vars if isinstance(loop_vars, list) else [loop_vars]
    while bool(condition(*values)[0]):
        values = body(*values)
    return tuple(values)


@op("select")
def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(cond.bool(), a, b)
