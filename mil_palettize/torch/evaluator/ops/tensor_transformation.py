"""Ops that rearrange elements and change none of them."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from mil_palettize.torch.evaluator.memory import claim
from mil_palettize.torch.evaluator.ops.registry import Int, Ints, Tensor, Tensors, op


@op("expand_dims")
def expand_dims(x: Tensor, axes: Ints) -> Tensor:
    """``axes``: of the result."""
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


@op("squeeze")
def squeeze(x: Tensor, axes: Ints | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


@op("reshape")
def reshape(x: Tensor, shape: Ints) -> Tensor:
    """0 stands for the size of ``x`` at that axis, counted from the end as iOS 17 does, and for 1 where it has none.
    Earlier opsets have 0 only where the ranks are equal, which is the same."""
    sizes = [1] * (len(shape) - x.ndim) + list(x.shape[max(x.ndim - len(shape), 0) :])
    return x.reshape([size or own for size, own in zip(shape, sizes, strict=True)])


@op("reshape_like")
def reshape_like(x: Tensor, ref_tensors: Tensors, begins: Ints, ends: Ints, end_masks: Ints) -> Tensor:
    """The sizes of every reference from ``begins`` to ``ends``, or to its last where ``end_masks`` says so."""
    shape: list[int] = []
    for ref, begin, end, masked in zip(ref_tensors, begins, ends, end_masks, strict=True):
        shape += ref.shape[begin:] if masked else ref.shape[begin:end]
    return x.reshape(shape)


@op("transpose")
def transpose(x: Tensor, perm: Ints) -> Tensor:
    return x.permute(tuple(perm))


@op("reverse")
def reverse(x: Tensor, axes: Ints | None = None) -> Tensor:
    return x.flip(tuple(range(x.ndim) if axes is None else axes))


@op("reverse_sequence")
def reverse_sequence(x: Tensor, lengths: Tensor, seq_axis: Int = 0, batch_axis: Int = 0) -> Tensor:
    """The first ``lengths[i]`` elements along ``seq_axis`` of batch ``i`` are reversed."""
    rows = x.movedim((batch_axis, seq_axis), (0, 1))
    position = torch.arange(rows.shape[1], device=x.device)
    length = lengths.long().reshape(-1, 1)
    source = torch.where(position < length, length - 1 - position, position)
    batch = torch.arange(rows.shape[0], device=x.device).reshape(-1, 1)
    return rows[batch, source].movedim((0, 1), (batch_axis, seq_axis))


@op("slice_by_size")
def slice_by_size(x: Tensor, begin: Ints, size: Ints) -> Tensor:
    """Size -1: all that follow."""
    for axis, (first, count) in enumerate(zip(begin, size, strict=True)):
        first = first + x.shape[axis] if first < 0 else first
        x = x.narrow(axis, first, x.shape[axis] - first if count == -1 else count)
    return x


@op("sliding_windows")
def sliding_windows(x: Tensor, axis: Int, size: Int, stride: Int = 1) -> Tensor:
    claim((*x.shape, size), x.dtype)
    return x.unfold(axis, size, stride).movedim(-1, axis % x.ndim + 1)


@op("depth_to_space")
def depth_to_space(x: Tensor, block_size: Int) -> Tensor:
    """Channels are ordered by place in the block, then by channel of the result; in ``pixel_shuffle`` the other way."""
    n, c, h, w = x.shape
    b = block_size
    blocks = x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return blocks.reshape(n, c // b**2, h * b, w * b)


@op("space_to_depth")
def space_to_depth(x: Tensor, block_size: Int) -> Tensor:
    n, c, h, w = x.shape
    b = block_size
    blocks = x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4)
    return blocks.reshape(n, c * b**2, h // b, w // b)


@op("space_to_batch")
def space_to_batch(x: Tensor, block_shape: Ints, paddings: Ints) -> Tensor:
    """Batches of the result are ordered by place in the block, then by batch. ``paddings``: before and after, of the
    height and of the width."""
    top, bottom, left, right = paddings
    claim((*x.shape[:2], x.shape[2] + top + bottom, x.shape[3] + left + right), x.dtype)
    padded = F.pad(x, (left, right, top, bottom))
    n, c, h, w = padded.shape
    bh, bw = block_shape
    blocks = padded.reshape(n, c, h // bh, bh, w // bw, bw).permute(3, 5, 0, 1, 2, 4)
    return blocks.reshape(n * bh * bw, c, h // bh, w // bw)


@op("batch_to_space")
def batch_to_space(x: Tensor, block_shape: Ints, crops: Ints) -> Tensor:
    n, c, h, w = x.shape
    bh, bw = block_shape
    blocks = x.reshape(bh, bw, n // (bh * bw), c, h, w).permute(2, 3, 4, 0, 5, 1)
    top, bottom, left, right = crops
    return blocks.reshape(n // (bh * bw), c, h * bh, w * bw)[:, :, top : h * bh - bottom, left : w * bw - right]


@op("pixel_shuffle")
def pixel_shuffle(x: Tensor, upscale_factor: Int) -> Tensor:
    return F.pixel_shuffle(x, upscale_factor)


@op("pixel_unshuffle")
def pixel_unshuffle(x: Tensor, downscale_factor: Int) -> Tensor:
    return F.pixel_unshuffle(x, downscale_factor)
