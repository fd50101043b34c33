"""Copies of torch models, also of those that coremltools compressed before."""

from __future__ import annotations

import copy

from torch import nn

_LEFT = "__getstate__"


def copied(model: nn.Module) -> nn.Module:
    """A deep copy. Layers that a pruner of coremltools finalized keep a ``__getstate__`` that is bound to the layer in
    training: a copy would be of that one, or fail on its masked weight. So it is put aside meanwhile."""
    left = {
        module: vars(module).pop(_LEFT)
        for module in model.modules()
        if _LEFT in vars(module) and not hasattr(module, "pruning_method")
    }
    try:
        return copy.deepcopy(model)
    finally:
        for module, method in left.items():
            vars(module)[_LEFT] = method
