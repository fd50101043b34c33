"""Batch norms that a converter fuses into the convolution before them, and fusing them here.

A palette of a convolution's own weight is lost when ``ct.convert`` multiplies each channel by the gain of the batch
norm behind it. So what is palettized is the product: training divides by the gain again, and the norm goes on as it
is; at the end it is fused into the convolution, whose weight then is the palette, exactly.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import fx, nn

from mil_palettize.torch.training.module_weights import CONVOLUTIONS, TRANSPOSED

BatchNorm: TypeAlias = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_LEAST = 1e-6  # of gains, which are divided by


def norms_behind(model: nn.Module) -> dict[nn.Module, BatchNorm]:
    """Convolutions and linear layers whose output goes to one batch norm and nowhere else, each with it.

    Empty for a model that ``torch.fx`` cannot trace. Both are called once in a forward pass; the norm keeps running
    statistics, without which nothing can be fused.
    """
    try:
        graph = fx.Tracer().trace(model)
    except Exception:  # whatever the model's code does with what is no number yet
        return {}
    modules = dict(model.named_modules())
    calls: dict[nn.Module, int] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            module = modules[node.target]
            calls[module] = calls.get(module, 0) + 1
    found: dict[nn.Module, BatchNorm] = {}
    for node in graph.nodes:
        if node.op != "call_module" or not isinstance(modules[node.target], _NORMS) or len(node.args) != 1:
            continue
        norm, source = modules[node.target], node.args[0]
        if source.op != "call_module" or len(source.users) != 1:
            continue
        module = modules[source.target]
        if _fuses(module, norm) and calls[module] == calls[norm] == 1:
            found[module] = norm
    return found


def gain(norm: BatchNorm, like: torch.Tensor, axis: int) -> torch.Tensor:
    """What each channel is multiplied by, of the rank of ``like``; no gradient goes through it."""
    assert norm.running_var is not None
    scale = torch.rsqrt(norm.running_var.float() + norm.eps)
    scale = scale if norm.weight is None else scale * norm.weight.detach().float()
    scale = torch.where(scale < 0, -1.0, 1.0) * scale.abs().clamp_min(_LEAST)
    return scale.reshape([-1 if number == axis else 1 for number in range(like.ndim)])


@torch.no_grad()
def fuse(model: nn.Module, module: nn.Module, norm: BatchNorm, axis: int) -> None:
    """Put what ``norm`` adds into the bias of ``module``, and an identity in its place; the weight is already fused."""
    assert norm.running_mean is not None
    weight: torch.Tensor = module.weight
    scale = gain(norm, weight, axis).reshape(-1)
    bias = -norm.running_mean if module.bias is None else module.bias - norm.running_mean
    shift = 0.0 if norm.bias is None else norm.bias
    module.bias = nn.Parameter((bias * scale + shift).to(weight.dtype))
    for parent in model.modules():
        for name, child in parent.named_children():
            if child is norm:
                setattr(parent, name, nn.Identity())


def _fuses(module: nn.Module, norm: nn.Module) -> bool:
    single = isinstance(module, TRANSPOSED) and module.groups > 1  # whose channels lie along two axes
    return isinstance(module, (*CONVOLUTIONS, *TRANSPOSED)) and not single and norm.running_var is not None
