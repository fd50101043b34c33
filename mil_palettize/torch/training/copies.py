"""Copies of torch models, also of those that coremltools compressed before."""

from __future__ import annotations

import copy

from torch import nn

from mil_palettize.errors import PlanError

_LEFT = "__getstate__"


def copied(model: nn.Module) -> nn.Module:
    """A deep copy. Raises PlanError where a weight is computed by a hook, which torch copies no tensors of.

    Layers that a pruner of coremltools finalized keep a ``__getstate__`` that is bound to the layer in
    training: a copy would be of that one, or fail on its masked weight. So it is put aside meanwhile."""
    left = {
        module: vars(module).pop(_LEFT)
        for module in model.modules()
        if _LEFT in vars(module) and not hasattr(module, "pruning_method")
    }
    try:
        return copy.deepcopy(model)
    except RuntimeError as error:
        raise PlanError(
            f"the model cannot be copied ({str(error).partition('.')[0]}); where hooks compute weights, make these "
            "parameters first (torch.nn.utils.prune.remove, remove_weight_norm, or finalize of a pruner)"
        ) from error
    finally:
        for module, method in left.items():
            vars(module)[_LEFT] = method
