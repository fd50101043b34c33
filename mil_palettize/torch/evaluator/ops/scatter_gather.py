"""Elements picked by indices, and put where indices say."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch

from mil_palettize.torch.evaluator.memory import claim
from mil_palettize.torch.evaluator.ops.elementwise_binary import real_div
from mil_palettize.torch.evaluator.ops.registry import Flag, Int, Tensor, Text, Weight, op


def _counted(indices: Tensor, size: int, validate: bool, *, refused: bool = True) -> Tensor:
    """``indices`` counted from 0: negative ones count from the end. Raises IndexError for those beyond the ends; where
    they are to be validated, for negative ones too. ``refused``: whether the kernel that gets them does so, too."""
    indices, least = indices.long(), 0 if validate else -size
    try:
        beyond = indices[(indices < least) | (indices >= size)]
    except RuntimeError:  # inside torch.vmap, where nobody can look
        if validate or not refused:
            raise
        return _from_start(indices, size)
    if beyond.numel():
        raise IndexError(f"index {int(beyond[0])} is beyond [{least}, {size})")
    return _from_start(indices, size)


def _from_start(indices: Tensor, size: int) -> Tensor:
    return torch.where(indices < 0, indices + size, indices)


def _rows(indices: Tensor, sizes: Sequence[int], validate: bool) -> Tensor:
    """Tuples of indices (the last axis of ``indices``), one for each axis of ``sizes``, as single indices into these
    axes flattened to one."""
    row = indices.new_zeros(indices.shape[:-1], dtype=torch.int64)
    for part, size in zip(indices.unbind(-1), sizes, strict=True):
        row = row * size + (_counted(part, size, validate) if validate else _from_start(part, size))
    return row


@op("gather")
def gather(x: Weight, indices: Tensor, axis: Int = 0, batch_dims: Int = 0, validate_indices: Flag = False) -> Tensor:
    axis %= x.ndim
    index = _counted(indices, x.shape[axis], validate_indices)
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    shape = (*before, *indices.shape[batch_dims:], *after)
    half = x.dtype == torch.float16  # of a table that is stored so
    claim(shape, torch.float32 if half else x.dtype)
    if not batch_dims:
        found = x.index_select(axis, index.reshape(-1)).reshape(shape)
        return found.float() if half else found
    x = x.float() if half else x
    batch, middle, tail = prod(before[:batch_dims]), prod(before[batch_dims:]), prod(after)
    count = prod(indices.shape[batch_dims:])
    index = index.reshape(batch, 1, count, 1).expand(batch, middle, count, tail)
    return x.reshape(batch, middle, x.shape[axis], tail).gather(2, index).reshape(shape)


@op("gather_along_axis")
def gather_along_axis(x: Tensor, indices: Tensor, axis: Int = 0, validate_indices: Flag = False) -> Tensor:
    claim(map(max, x.shape, indices.shape), x.dtype)
    index = _counted(indices, x.shape[axis], validate_indices, refused=False)  # torch's wraps around
    return torch.take_along_dim(x, index, axis)


@op("gather_nd")
def gather_nd(x: Tensor, indices: Tensor, batch_dims: Int = 0, validate_indices: Flag = False) -> Tensor:
    depth = indices.shape[-1]
    sizes, after = x.shape[batch_dims : batch_dims + depth], x.shape[batch_dims + depth :]
    batch, count, tail = prod(x.shape[:batch_dims]), prod(indices.shape[batch_dims:-1]), prod(after)
    claim((*indices.shape[:-1], *after), x.dtype)
    rows = _rows(indices, sizes, validate_indices).reshape(batch, count, 1).expand(batch, count, tail)
    return x.reshape(batch, prod(sizes), tail).gather(1, rows).reshape(*indices.shape[:-1], *after)


@op("scatter")
def scatter(
    data: Tensor, indices: Tensor, updates: Tensor, axis: Int = 0, mode: Text = "add", validate_indices: Flag = False
) -> Tensor:
    axis %= data.ndim
    index = _counted(indices, data.shape[axis], validate_indices).reshape(-1)
    shape = (*data.shape[:axis], index.numel(), *data.shape[axis + 1 :])
    index = index.reshape(-1, *[1] * (data.ndim - axis - 1)).expand(shape)
    return _scattered(data, axis, index, updates.reshape(shape), mode)


@op("scatter_along_axis")
def scatter_along_axis(
    data: Tensor, indices: Tensor, updates: Tensor, axis: Int = 0, mode: Text = "add", validate_indices: Flag = False
) -> Tensor:
    return _scattered(data, axis, _counted(indices, data.shape[axis], validate_indices), updates, mode)


@op("scatter_nd")
def scatter_nd(
    data: Tensor, indices: Tensor, updates: Tensor, mode: Text = "add", validate_indices: Flag = False
) -> Tensor:
    depth = indices.shape[-1]
    sizes, tail = data.shape[:depth], prod(data.shape[depth:])
    rows = _rows(indices, sizes, validate_indices).reshape(-1, 1)
    flat = data.reshape(prod(sizes), tail)
    index = rows.expand(rows.shape[0], tail)
    return _scattered(flat, 0, index, updates.reshape(index.shape), mode).reshape(data.shape)


_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _scattered(data: Tensor, axis: int, index: Tensor, updates: Tensor, mode: str) -> Tensor:
    """``index`` and ``updates`` have one shape; where an index is repeated, all its updates apply, in their order."""
    if mode == "update":
        return data.scatter(axis, index, updates)
    if mode == "sub":
        return data.scatter_add(axis, index, -updates)
    if mode == "div":
        divisor = torch.ones_like(data).scatter_reduce(axis, index, updates, "prod")
        return real_div(data, divisor)
    return data.scatter_reduce(axis, index, updates, _REDUCTIONS[mode])
