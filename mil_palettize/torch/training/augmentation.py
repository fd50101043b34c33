"""Samples changed at random, for a network that is asked what it makes of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from mil_palettize.torch.training.batches import Tensors

_MIX = "mix"
_SHIFTED = 8  # by up to this part of the height and the width


def augmented(samples: Sequence[Tensors], kinds: Sequence[str], random: np.random.Generator) -> list[Tensors]:
    """``samples`` with their pictures (floats of four axes, the last two those of the picture) changed by each of
    ``kinds``; all else as it is."""
    found = list(samples)
    for kind in kinds:
        if kind == _MIX:
            found = _mixed(found, random)
        else:
            change = _KINDS[kind]
            found = [{n: change(x, random) if is_picture(x) else x for n, x in sample.items()} for sample in found]
    return found


def _mixed(samples: Sequence[Tensors], random: np.random.Generator) -> list[Tensors]:
    """Each with up to half of another one, of the same shape, laid over it (mixup, arXiv 1710.09412): what a network
    gives for such pictures can be learned from it, though nothing is right or wrong (arXiv 2106.05237)."""
    others, parts = random.permutation(len(samples)), random.random(len(samples)) / 2

    def over(sample: Tensors, other: Tensors, part: float) -> Tensors:
        same = {n for n, x in sample.items() if is_picture(x) and x.shape == other[n].shape}
        return {n: x.lerp(other[n], part) if n in same else x for n, x in sample.items()}

    return [over(sample, samples[n], float(part)) for sample, n, part in zip(samples, others, parts, strict=True)]


def is_picture(value: Any) -> bool:
    """Whether it has four axes, of which the last two are more than a point."""
    floats = isinstance(value, torch.Tensor) and value.is_floating_point()
    return floats and value.ndim == 4 and min(value.shape[2:]) > 1


def _flipped(picture: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    return picture.flip(3) if random.random() < 0.5 else picture


def _shifted(picture: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """What comes in at an edge repeats its pixels."""
    places = []
    for size in picture.shape[2:]:
        most = size // _SHIFTED
        places.append((torch.arange(size) + int(random.integers(-most, most + 1))).clamp(0, size - 1))
    return picture[:, :, places[0]][:, :, :, places[1]]


_KINDS: dict[str, Callable[[torch.Tensor, np.random.Generator], torch.Tensor]] = {"flip": _flipped, "shift": _shifted}
