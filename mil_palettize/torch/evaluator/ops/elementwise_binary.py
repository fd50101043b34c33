"""Elementwise ops of two tensors, with broadcasting."""

from __future__ import annotations

from collections.abc import Callable

import torch

from mil_palettize.torch.evaluator.memory import claim_broadcast
from mil_palettize.torch.evaluator.ops.registry import Tensor, op

OfTwo = Callable[[Tensor, Tensor], Tensor]


def _of_two(name: str, function: OfTwo) -> None:
    """Register an op that torch has as it is."""

    @op(name)
    def apply(x: Tensor, y: Tensor) -> Tensor:
        claim_broadcast(x, y)
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
    return torch.div(x, y) if _is_float(x, y) else _quotient(x, y, "trunc")


@op("floor_div")
def floor_div(x: Tensor, y: Tensor) -> Tensor:
    return torch.floor_divide(x, y) if _is_float(x, y) else _quotient(x, y, "floor")


@op("mod")
def mod(x: Tensor, y: Tensor) -> Tensor:
    """The remainder of ``floor_div``: its sign is that of ``y``."""
    if _is_float(x, y):
        return torch.remainder(x, y)
    return torch.remainder(x, torch.where(_divides_badly(y), 1, y))


def _is_float(x: Tensor, y: Tensor) -> bool:
    return x.is_floating_point() or y.is_floating_point()


def _quotient(x: Tensor, y: Tensor, rounding: str) -> Tensor:
    """Of integers. By zero it is zero, as in numpy; torch raises. The least integer by -1 is itself, as overflows wrap
    around; the processor ends the process."""
    found = torch.div(x, torch.where(_divides_badly(y), 1, y), rounding_mode=rounding)
    return torch.where(y == 0, 0, torch.where(_minus_one(y), -found, found))


def _divides_badly(y: Tensor) -> Tensor:
    """Where 1 has to stand in, of which the remainder is that of -1, and, as we have it, that of 0: none."""
    return (y == 0) | _minus_one(y)


def _minus_one(y: Tensor) -> Tensor:
    """Nowhere in unsigned numbers, whose greatest torch takes for it."""
    return y == -1 if y.dtype.is_signed else torch.zeros_like(y, dtype=torch.bool)
