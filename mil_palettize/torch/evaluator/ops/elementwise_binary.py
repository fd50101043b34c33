"""Elementwise ops of two tensors, with broadcasting."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from mil_palettize.torch.evaluator.ops.registry import Tensor, op

OfTwo = Callable[[Tensor, Tensor], Tensor]


def _of_two(name: str, function: OfTwo) -> None:
    """Register an op that torch has as it is."""

    @op(name)
    def apply(x: Tensor, y: Tensor) -> Tensor:
        return function(x, y)


TORCH: dict[str, OfTwo] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "pow": torch.pow,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "equal": torch.eq,
    "not_equal": torch.ne,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
}
for mil_name, torch_function in TORCH.items():
    _of_two(mil_name, torch_function)


@op("real_div")
def real_div(x: Tensor, y: Tensor) -> Tensor:
    """The result has the type of the inputs: of integers it is an integer, rounded towards zero."""
    if _is_float(x, y):
        return torch.div(x, y)
    return _of_integers(partial(torch.div, rounding_mode="trunc"), x, y)


@op("floor_div")
def floor_div(x: Tensor, y: Tensor) -> Tensor:
    return torch.floor_divide(x, y) if _is_float(x, y) else _of_integers(torch.floor_divide, x, y)


@op("mod")
def mod(x: Tensor, y: Tensor) -> Tensor:
    """The remainder of ``floor_div``: its sign is that of ``y``."""
    return torch.remainder(x, y) if _is_float(x, y) else _of_integers(torch.remainder, x, y)


def _is_float(x: Tensor, y: Tensor) -> bool:
    return x.is_floating_point() or y.is_floating_point()


def _of_integers(divide: OfTwo, x: Tensor, y: Tensor) -> Tensor:
    """Division by zero gives zero, as in numpy; torch raises."""
    zero = y == 0
    return torch.where(zero, 0, divide(x, torch.where(zero, 1, y)))
