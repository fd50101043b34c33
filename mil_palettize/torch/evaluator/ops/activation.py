"""Activations."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from mil_palettize.torch.evaluator.ops.registry import Int, Number, Tensor, Text, op


@op("clamped_relu")
def clamped_relu(x: Tensor, alpha: Number, beta: Number) -> Tensor:
    return F.leaky_relu(x, alpha).clamp(max=beta)


@op("elu")
def elu(x: Tensor, alpha: Number) -> Tensor:
    return F.elu(x, alpha)


@op("gelu")
def gelu(x: Tensor, mode: Text = "EXACT") -> Tensor:
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    return F.gelu(x, approximate={"EXACT": "none", "TANH_APPROXIMATION": "tanh"}[mode])


@op("leaky_relu")
def leaky_relu(x: Tensor, alpha: Number) -> Tensor:
    return F.leaky_relu(x, alpha)


@op("linear_activation")
def linear_activation(x: Tensor, alpha: Number, beta: Number) -> Tensor:
    return alpha * x + beta


@op("prelu")
def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    return F.prelu(x, alpha)


@op("relu")
def relu(x: Tensor) -> Tensor:
    return F.relu(x)


@op("relu6")
def relu6(x: Tensor) -> Tensor:
    return F.relu6(x)


@op("scaled_tanh")
def scaled_tanh(x: Tensor, alpha: Number, beta: Number) -> Tensor:
    return alpha * torch.tanh(beta * x)


@op("sigmoid")
def sigmoid(x: Tensor) -> Tensor:
    return torch.sigmoid(x)


@op("sigmoid_hard")
def sigmoid_hard(x: Tensor, alpha: Number, beta: Number) -> Tensor:
    return (alpha * x + beta).clamp(0, 1)


@op("silu")
def silu(x: Tensor) -> Tensor:
    return F.silu(x)


@op("softplus")
def softplus(x: Tensor) -> Tensor:
    return F.softplus(x)


@op("softplus_parametric")
def softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """``alpha`` and ``beta``: one for each channel, axis 1."""
    channels = (-1, *[1] * (x.ndim - 2))
    return alpha.reshape(channels) * F.softplus(beta.reshape(channels) * x)


@op("softmax")
def softmax(x: Tensor, axis: Int = -1) -> Tensor:
    return torch.softmax(x, axis)


@op("softsign")
def softsign(x: Tensor) -> Tensor:
    return F.softsign(x)


@op("thresholded_relu")
def thresholded_relu(x: Tensor, alpha: Number) -> Tensor:
    return torch.where(x < alpha, 0, x)  # F.threshold drops what equals alpha
