"""Elementwise ops of one tensor."""

from __future__ import annotations

from collections.abc import Callable

import torch

from mil_palettize.torch.evaluator.ops.registry import DTYPES, Number, Tensor, Text, op

INT32 = torch.iinfo(torch.int32)


def _of_one(name: str, function: Callable[[Tensor], Tensor]) -> None:
    """Register an op that torch has as it is."""

    @op(name)
    def apply(x: Tensor) -> Tensor:
        return function(x)


for same_name in (
    "abs", "acos", "asin", "atan", "atanh", "ceil", "cos", "cosh", "erf", "exp", "floor", "logical_not", "round",
    "sign", "sin", "sinh", "sqrt", "square", "tan", "tanh",
):  # fmt: skip
    _of_one(same_name, getattr(torch, same_name))


@op("exp2")
def exp2(x: Tensor) -> Tensor:
    return torch.exp2(x) if x.is_floating_point() else torch.pow(2, x)


@op("clip")
def clip(x: Tensor, alpha: Number, beta: Number) -> Tensor:
    return x.clamp(alpha, beta)


@op("threshold")
def threshold(x: Tensor, alpha: Number) -> Tensor:
    return x.clamp(min=alpha)


@op("inverse")
def inverse(x: Tensor, epsilon: Number = 1e-4) -> Tensor:
    return torch.reciprocal(x + epsilon)


@op("log")
def log(x: Tensor, epsilon: Number = 1e-45) -> Tensor:
    return torch.log(x + epsilon)


@op("rsqrt")
def rsqrt(x: Tensor, epsilon: Number = 1e-12) -> Tensor:
    return torch.rsqrt(x + epsilon)


@op("cast")
def cast(x: Tensor, dtype: Text) -> Tensor:
    """Integers that a smaller type cannot hold wrap around."""
    wanted = DTYPES[dtype]
    if x.is_floating_point() and not wanted.is_floating_point and wanted != torch.bool:
        x = _truncated(x)
    found = x.to(wanted)
    return found & 0xFFFF if dtype == "uint16" else found  # held in an int32


def _truncated(x: Tensor) -> Tensor:
    """As int32: towards zero, what is too large is the largest, NaN is 0. So do the processors of devices; C and torch
    leave it open."""
    return x.double().nan_to_num(0.0).clamp(INT32.min, INT32.max).to(torch.int32)
