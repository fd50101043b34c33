"""Normalizations."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from mil_palettize.torch.evaluator.ops.registry import Int, Ints, Number, Tensor, op


@op("batch_norm")
def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Number = 1e-5,
) -> Tensor:
    return F.batch_norm(x, mean, variance, gamma, beta, eps=epsilon)


@op("instance_norm")
def instance_norm(x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: Number = 1e-5) -> Tensor:
    """Groups of one channel: torch's own instance norm refuses channels of one element."""
    return torch.group_norm(x, x.shape[1], gamma, beta, epsilon)


@op("l2_norm")
def l2_norm(x: Tensor, epsilon: Number = 1e-6) -> Tensor:
    return x / (x.square().sum((-3, -2, -1), keepdim=True) + epsilon).sqrt()


@op("layer_norm")
def layer_norm(
    x: Tensor,
    axes: Ints | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Number = 1e-5,
) -> Tensor:
    """``gamma`` and ``beta`` have the axes in the order in which ``x`` has them, however ``axes`` lists them."""
    axes = sorted(axis % x.ndim for axis in axes) if axes is not None else list(range(x.ndim))
    last = list(range(-len(axes), 0))
    moved = x.movedim(axes, last)
    return F.layer_norm(moved, moved.shape[-len(axes) :], gamma, beta, epsilon).movedim(last, axes)


@op("local_response_norm")
def local_response_norm(x: Tensor, size: Int, alpha: Number = 1e-4, beta: Number = 0.75, k: Number = 1.0) -> Tensor:
    """Channels are the third axis from the end, and all before them batch, as Core ML has them: ``x`` of rank 3 is one
    image, though the documentation has it begin with a batch."""
    images = x.reshape(-1, *x.shape[-3:])
    return F.local_response_norm(images, size, alpha, beta, k).reshape(x.shape)
