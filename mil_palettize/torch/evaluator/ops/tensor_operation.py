"""Ops that make, fill, pad, join, sort and count tensors."""

from __future__ import annotations

from math import ceil, prod
from typing import Any

import torch
from torch.nn import functional as F

from mil_palettize.torch.evaluator.memory import claim
from mil_palettize.torch.evaluator.ops.registry import DTYPES, Flag, Int, Ints, Number, Tensor, Tensors, Text, op


def _dtype_of(value: float) -> torch.dtype:
    """Of a tensor that holds this constant: MIL has a type for each of Python's."""
    if isinstance(value, bool):
        return torch.bool
    return torch.int32 if isinstance(value, int) else torch.float32


@op("band_part")
def band_part(x: Tensor, lower: Int = -1, upper: Int = -1) -> Tensor:
    if lower >= 0:
        x = x.triu(-lower)
    return x.tril(upper) if upper >= 0 else x


@op("cumsum")
def cumsum(x: Tensor, axis: Int = 0, exclusive: Flag = False, reverse: Flag = False) -> Tensor:
    if reverse:
        x = x.flip(axis)
    if exclusive:
        x = torch.cat([torch.zeros_like(x.narrow(axis, 0, 1)), x.narrow(axis, 0, x.shape[axis] - 1)], axis)
    total = x.cumsum(axis, dtype=x.dtype)
    return total.flip(axis) if reverse else total


@op("fill")
def fill(shape: Ints, value: Number = 0.0) -> Tensor:
    claim(shape, _dtype_of(value))
    return torch.full(tuple(shape), value, dtype=_dtype_of(value))


@op("fill_like")
def fill_like(ref_tensor: Tensor, value: Number = 0.0) -> Tensor:
    return torch.full(ref_tensor.shape, value, dtype=_dtype_of(value), device=ref_tensor.device)


@op("non_zero")
def non_zero(x: Tensor) -> Tensor:
    return x.nonzero().int()


@op("one_hot")
def one_hot(
    indices: Tensor, one_hot_vector_size: Int, axis: Int = -1, on_value: Number = 1, off_value: Number = 0
) -> Tensor:
    """All off for an index that is out of range."""
    claim((*indices.shape, one_hot_vector_size), torch.int64)
    shape = [1] * (indices.ndim + 1)
    shape[axis] = one_hot_vector_size
    on = indices.unsqueeze(axis) == torch.arange(one_hot_vector_size, device=indices.device).reshape(shape)
    return torch.where(on, on_value, off_value).to(_dtype_of(on_value))


@op("pad")
def pad(x: Tensor, pad: Ints, mode: Text = "constant", constant_val: Number = 0.0) -> Tensor:
    """``pad``: before and after, of the last axes, in the order of the axes."""
    pairs = list(zip(pad[::2], pad[1::2], strict=True))
    untouched, padded = x.shape[: x.ndim - len(pairs)], x.shape[x.ndim - len(pairs) :]
    claim((*untouched, *(size + sum(pair) for size, pair in zip(padded, pairs, strict=True))), x.dtype)
    if mode == "constant":
        return F.pad(x, [amount for pair in reversed(pairs) for amount in pair], value=constant_val)
    # torch reflects and replicates some ranks only
    for axis, (before, after) in enumerate(pairs, start=x.ndim - len(pairs)):
        if before or after:
            size = x.shape[axis]
            positions = torch.arange(-before, size + after, device=x.device)
            x = x.index_select(axis, _reflected(positions, size) if mode == "reflect" else positions.clamp(0, size - 1))
    return x


def _reflected(positions: Tensor, size: int) -> Tensor:
    """Positions outside, up to ``size - 1`` of them on either side, mirrored at the first and at the last element."""
    last = size - 1
    return last - (last - positions.abs()).abs()


@op("range_1d")
def range_1d(end: Number, start: Number, step: Number) -> Tensor:
    """Empty where ``step`` leads away from ``end``, as in numpy."""
    reached = max(start, end) if step > 0 else min(start, end)
    claim([ceil((reached - start) / step)], _dtype_of(start))
    return torch.arange(start, reached, step, dtype=_dtype_of(start))


@op("tile")
def tile(x: Tensor, reps: Ints) -> Tensor:
    """Repeats are 1 or more: coremltools converts ``expand(…, -1)`` of a length that is not fixed to less."""
    if len(reps) != x.dim() or min(reps, default=1) < 1:
        raise ValueError(f"reps is {list(reps)}; it has to be {x.dim()} numbers from 1 up")
    claim((*x.shape, *reps), x.dtype)
    return x.tile(tuple(reps))


@op("argsort")
def argsort(x: Tensor, axis: Int = -1, ascending: Flag = False) -> Tensor:
    return x.argsort(dim=axis, descending=not ascending, stable=True).int()


@op("topk")
def topk(
    x: Tensor,
    k: Int = 1,
    axis: Int = -1,
    ascending: Flag = False,
    sort: Flag = True,
    return_indices: Flag = True,
    output_indices_dtype: Text = "int32",
) -> Any:
    """Always sorted, and equal values in the order they had: without ``sort`` any order will do. ``k`` -1: all."""
    count = x.shape[axis] if k == -1 else k
    values, indices = (s.narrow(axis, 0, count) for s in x.sort(dim=axis, descending=not ascending, stable=True))
    return (values, indices.to(DTYPES[output_indices_dtype])) if return_indices else values


@op("flatten2d")
def flatten2d(x: Tensor, axis: Int = 1) -> Tensor:
    return x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))


@op("shape")
def shape(x: Tensor) -> Tensor:
    return torch.tensor(x.shape, dtype=torch.int32)


@op("concat")
def concat(values: Tensors, axis: Int, interleave: Flag = False) -> Tensor:
    """Scalars make a vector."""
    rank = values[0].ndim
    if not rank:
        return torch.stack(list(values))
    if interleave:
        axis %= rank
        return torch.stack(list(values), axis + 1).flatten(axis, axis + 1)
    return torch.cat(list(values), axis)


@op("split")
def split(x: Tensor, axis: Int, num_splits: Int | None = None, split_sizes: Ints | None = None) -> tuple[Tensor, ...]:
    if split_sizes is not None:
        return x.split(list(split_sizes), axis)
    assert num_splits is not None, "split needs num_splits or split_sizes"
    return x.split([x.shape[axis] // num_splits] * num_splits, axis)


@op("stack")
def stack(values: Tensors, axis: Int) -> Tensor:
    return torch.stack(list(values), axis)


@op("identity")
def identity(x: Any) -> Any:
    return x
