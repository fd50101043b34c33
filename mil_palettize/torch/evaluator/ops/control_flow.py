"""Ops with blocks, and ``select``."""

from __future__ import annotations

from typing import Any

import torch

from mil_palettize.torch.evaluator.memory import claim_broadcast
from mil_palettize.torch.evaluator.ops.registry import Blocks, Flag, Tensor, op

MOST_ROUNDS = 1 << 18  # a loop that has not ended by then is taken to have no end


@op("cond")
def cond(pred: Flag, blocks: Blocks) -> tuple[Any, ...]:
    first, second = blocks
    return tuple((first if pred else second)())


@op("while_loop")
def while_loop(loop_vars: Any, blocks: Blocks) -> tuple[Any, ...]:
    """The first block says whether to go on, the second makes the next variables."""
    condition, body = blocks
    values = loop_vars if isinstance(loop_vars, list) else [loop_vars]
    for _ in range(MOST_ROUNDS):
        if not bool(condition(*values)[0]):
            return tuple(values)
        values = body(*values)
    raise RuntimeError(f"the loop has not ended after {MOST_ROUNDS} rounds")


@op("select")
def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    claim_broadcast(cond, a, b)
    return torch.where(cond.bool(), a, b)
