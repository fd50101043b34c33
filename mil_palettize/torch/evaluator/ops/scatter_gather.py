"""Elements picked by indices, and put where indices say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod

import torch

from mil_palettize.torch.evaluator.memory import claim
from mil_palettize.torch.evaluator.ops.elementwise_binary import real_div
from mil_palettize.torch.evaluator.ops.registry import Flag, Int, Tensor, Text, Weight, op


def _indexed(use: Callable[[Tensor], Tensor], indices: Tensor, size: int, validate: bool) -> Tensor:
    """What ``use`` gives for ``indices`` counted from 0: negative ones count from the end. It has to refuse those
    beyond the ends, as torch does but for ``take_along_dim``, which wraps around. Raises IndexError for these; where
    they are to be validated, for negative ones too. Values are looked at only then, and where torch refuses them:
    samples that are run together have none to look at."""
    indices = indices.long()
    if validate:
        _check(indices, 0, size)
    try:
        return use(_from_start(indices, size))
    except (IndexError, RuntimeError):
        _check(indices, -size, size)
        raise


def _check(indices: Tensor, least: int, size: int) -> None:
    beyond = indices[(indices < least) | (indices >= size)]
    if beyond.numel():
        raise IndexError(f"index {int(beyond[0])} is beyond [{least}, {size})")


def _from_start(indices: Tensor, size: int) -> Tensor:
    return torch.where(indices < 0, indices + size, indices)


def _rows(indices: Tensor, sizes: Sequence[int], validate: bool) -> Tensor:
    """Tuples of indices (the last axis of ``indices``), one for each axis of ``sizes``, as single indices into these
    axes flattened to one."""
    row = indices.new_zeros(indices.shape[:-1], dtype=torch.int64)
    for part, size in zip(indices.unbind(-1), sizes, strict=True):
        part = part.long()
        if validate:
            _check(part, 0, size)
        row = row * size + _from_start(part, size)
    return row


@op("gather")
def gather(x: Weight, indices: Tensor, axis: Int = 0, batch_dims: Int = 0, validate_indices: Flag = False) -> Tensor:
    axis %= x.ndim
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    shape = (*before, *indices.shape[batch_dims:], *after)
    half = x.dtype == torch.float16  # of a table that is stored so
    claim(shape, torch.float32 if half else x.dtype)
    if not batch_dims:
        found = _indexed(partial(x.index_select, axis), indices.reshape(-1), x.shape[axis], validate_indices)
        return (found.float() if half else found).reshape(shape)
    x = x.float() if half else x
    batch, middle, tail = prod(before[:batch_dims]), prod(before[batch_dims:]), prod(after)
    flat = x.reshape(batch, middle, x.shape[axis], tail)
    count = prod(indices.shape[batch_dims:])
    index = indices.reshape(batch, 1, count, 1).expand(batch, middle, count, tail)
    return _indexed(partial(flat.gather, 2), index, x.shape[axis], validate_indices).reshape(shape)


@op("gather_along_axis")
def gather_along_axis(x: Tensor, indices: Tensor, axis: Int = 0, validate_indices: Flag = False) -> Tensor:
    axis %= x.ndim
    shape = list(map(max, x.shape, indices.shape))
    claim(shape, x.dtype)
    x = x.expand(*shape[:axis], x.shape[axis], *shape[axis + 1 :])
    indices = indices.expand(*shape[:axis], indices.shape[axis], *shape[axis + 1 :])
    return _indexed(partial(x.gather, axis), indices, x.shape[axis], validate_indices)


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
    shape = (*data.shape[:axis], indices.numel(), *data.shape[axis + 1 :])
    index = indices.reshape(-1, *[1] * (data.ndim - axis - 1)).expand(shape)
    use = partial(_scattered, data, axis, updates.reshape(shape), mode)
    return _indexed(use, index, data.shape[axis], validate_indices)


@op("scatter_along_axis")
def scatter_along_axis(
    data: Tensor, indices: Tensor, updates: Tensor, axis: Int = 0, mode: Text = "add", validate_indices: Flag = False
) -> Tensor:
    return _indexed(partial(_scattered, data, axis, updates, mode), indices, data.shape[axis], validate_indices)


@op("scatter_nd")
def scatter_nd(
    data: Tensor, indices: Tensor, updates: Tensor, mode: Text = "add", validate_indices: Flag = False
) -> Tensor:
    depth = indices.shape[-1]
    sizes, tail = data.shape[:depth], prod(data.shape[depth:])
    rows = _rows(indices, sizes, validate_indices).reshape(-1, 1)
    flat = data.reshape(prod(sizes), tail)
    index = rows.expand(rows.shape[0], tail)
    return _scattered(flat, 0, updates.reshape(index.shape), mode, index).reshape(data.shape)


_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _scattered(data: Tensor, axis: int, updates: Tensor, mode: str, index: Tensor) -> Tensor:
    """``index`` and ``updates`` have one shape; where an index is repeated, all its updates apply, in their order."""
    if mode == "update":
        return data.scatter(axis, index, updates)
    if mode == "sub":
        return data.scatter_add(axis, index, -updates)
    if mode == "div":
        divisor = torch.ones_like(data).scatter_reduce(axis, index, updates, "prod")
        return real_div(data, divisor)
    return data.scatter_reduce(axis, index, updates, _REDUCTIONS[mode])
