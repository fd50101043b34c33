"""Batch norms that a converter fuses into the convolution before them, fused here.

A palette of a convolution's own weight is lost when ``ct.convert`` multiplies each channel by the gain of the batch
norm behind it. So the norm is fused first, and what is palettized is what the package will hold.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import fx, nn

from mil_palettize.torch.training.module_weights import CONVOLUTIONS, TRANSPOSED

BatchNorm: TypeAlias = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def norms_behind(model: nn.Module) -> dict[nn.Module, BatchNorm]:
    """Convolutions whose output goes to one batch norm and nowhere else, each with it.

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


@torch.no_grad()
def fuse_norms(model: nn.Module) -> dict[nn.Module, torch.Tensor]:
    """Fuse in place each batch norm behind a convolution that nothing else reads, as the converter would: what the
    model gives in eval mode stays the same. The gain that each convolution's weight was multiplied by, of its rank."""
    gains = {}
    for module, norm in norms_behind(model).items():
        assert norm.running_var is not None
        assert norm.running_mean is not None
        weight = module.weight
        axis = 1 if isinstance(module, TRANSPOSED) else 0
        gain = torch.rsqrt(norm.running_var.double() + norm.eps)
        gain = gain if norm.weight is None else gain * norm.weight.double()
        shift = -norm.running_mean.double() if module.bias is None else module.bias.double() - norm.running_mean
        bias = shift * gain if norm.bias is None else shift * gain + norm.bias
        gains[module] = gain.reshape([-1 if number == axis else 1 for number in range(weight.ndim)])
        weight.copy_(weight.double() * gains[module])
        module.bias = nn.Parameter(bias.to(weight.dtype), requires_grad=weight.requires_grad)
        _replace(model, norm, nn.Identity())
    return gains


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if child is old:
                setattr(parent, name, new)


def _fuses(module: nn.Module, norm: nn.Module) -> bool:
    single = isinstance(module, TRANSPOSED) and module.groups > 1  # whose channels lie along two axes
    return isinstance(module, (*CONVOLUTIONS, *TRANSPOSED)) and not single and norm.running_var is not None
