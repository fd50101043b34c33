"""Values as integers with a scale and a zero point, of the whole tensor or along an axis."""

from __future__ import annotations

import torch

from mil_palettize.torch.evaluator.ops.registry import DTYPES, Int, Tensor, Text, op


@op("quantize")
def quantize(
    input: Tensor, scale: Tensor, output_dtype: Text, zero_point: Tensor | None = None, axis: Int | None = None
) -> Tensor:
    dtype = DTYPES[output_dtype]
    values = torch.round(input / _along(scale, input, axis))
    if zero_point is not None:
        values = values + _along(zero_point, input, axis)
    limits = torch.iinfo(dtype)
    return values.clamp(limits.min, limits.max).to(dtype)


@op("dequantize")
def dequantize(input: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: Int | None = None) -> Tensor:
    values = input.to(scale.dtype)
    if zero_point is not None:
        values = values - _along(zero_point, input, axis)
    return values * _along(scale, input, axis)


def _along(parameter: Tensor, data: Tensor, axis: int | None) -> Tensor:
    """A scale or a zero point so that it broadcasts: a vector lies along the axis."""
    if parameter.ndim != 1 or axis is None:
        return parameter
    shape = [1] * data.ndim
    shape[axis] = -1
    return parameter.reshape(shape)
