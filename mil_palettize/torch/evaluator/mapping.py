"""A program of one sample mapped over several (``torch.vmap``), also where it is fixed to a batch of 1."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch

from mil_palettize.torch.evaluator.memory import copies

Tensors: TypeAlias = Mapping[str, torch.Tensor]


def mapped(run: Callable[[Tensors], Tensors], samples: Sequence[Tensors]) -> list[Tensors]:
    """What ``run``, which takes and gives tensors by name, gives of each of ``samples``, which are alike. Raises what
    torch does for ops that cannot be mapped, as those that look at values, and MemoryError where all together are too
    large."""
    stacked = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
    with copies(len(samples)):
        found = {name: out.unbind() for name, out in torch.vmap(run)(stacked).items()}
    return [{name: outs[number] for name, outs in found.items()} for number in range(len(samples))]


def are_alike(samples: Sequence[Tensors]) -> bool:
    """Whether they are tensors of the same shapes and dtypes."""
    kinds = [{name: _kind(value) for name, value in sample.items()} for sample in samples]
    return None not in kinds[0].values() and all(kind == kinds[0] for kind in kinds[1:])


def _kind(value: object) -> tuple[torch.Size, torch.dtype] | None:
    return (value.shape, value.dtype) if isinstance(value, torch.Tensor) else None
