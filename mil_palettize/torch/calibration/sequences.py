"""Calls of a model with states, one after another: what states hold before each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mil_palettize.torch.calibration.part import one_thread
from mil_palettize.torch.evaluator.module import MILModule


def states_before(
    module: MILModule, calls: Sequence[Mapping[str, Any]], begins: Sequence[bool]
) -> list[dict[str, torch.Tensor]] | None:
    """By name, before each of ``calls`` (tensors by input), as the network has them with its weights as they are.

    ``begins``: whether a call is the first of a sample, where states are zeros again. None for a model without states,
    and where every call is a sample of its own. Raises EvaluationError.
    """
    if not module.function.states or all(begins):
        return None
    found: list[dict[str, torch.Tensor]] = []
    state = module.make_state()
    with torch.no_grad(), one_thread():
        for inputs, first in zip(calls, begins, strict=True):
            if first:
                state = module.make_state()
            found.append({name: held.value.clone() for name, held in state.items()})
            module.run(inputs, state)
    return found
