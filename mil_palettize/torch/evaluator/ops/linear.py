"""Products of matrices."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from mil_palettize.torch.evaluator.memory import broadcast_sizes, claim
from mil_palettize.torch.evaluator.ops.registry import Flag, Tensor, Tensors, Text, Weight, op

_WIDENED_AT_ONCE = 1 << 18  # elements


@op("linear")
def linear(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    """The result is of the type of ``x``, whatever that of ``weight``."""
    if weight.dtype == torch.float16:
        return _widened(x, weight, bias)
    dtype = torch.promote_types(x.dtype, weight.dtype)
    claim((*x.shape[:-1], weight.shape[0]), dtype)
    return F.linear(x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)).to(x.dtype)


def _widened(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """By rows of the weight, as many as stay in a processor's cache until they are used."""
    claim((*x.shape[:-1], weight.shape[0]))
    rows = max(1, _WIDENED_AT_ONCE // max(1, weight.shape[1]))
    products = torch.cat([F.linear(x.float(), part.float()) for part in weight.split(rows)], dim=-1)
    return (products if bias is None else products + bias).to(x.dtype)


@op("matmul")
def matmul(x: Tensor, y: Tensor, transpose_x: Flag = False, transpose_y: Flag = False) -> Tensor:
    """Vectors are not transposed."""
    dtype = torch.promote_types(x.dtype, y.dtype)
    x = x.mT if transpose_x and x.ndim > 1 else x
    y = y.mT if transpose_y and y.ndim > 1 else y
    if x.ndim > 1 and y.ndim > 1:
        claim((*broadcast_sizes(x.shape[:-2], y.shape[:-2]), x.shape[-2], y.shape[-1]), dtype)
    return torch.matmul(x.to(dtype), y.to(dtype))


@op("einsum")
def einsum(values: Tensors, equation: Text) -> Tensor:
    inputs, _, output = equation.replace(" ", "").partition("->")
    sizes = {
        label: size
        for labels, value in zip(inputs.split(","), values, strict=True)
        for label, size in zip(labels, value.shape, strict=True)
    }
    claim([sizes[label] for label in output], values[0].dtype)
    return torch.einsum(equation, *values)
