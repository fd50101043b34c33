"""Samples changed at random in ways that leave what they show as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

_SHIFTED = 8  # by up to this part of the height and the width


def augmented(
    sample: Mapping[str, torch.Tensor], kinds: Sequence[str], random: np.random.Generator
) -> dict[str, torch.Tensor]:
    """``sample`` with its pictures (floats of four axes, the last two those of the picture) changed by each of
    ``kinds``; all else as it is."""
    found = dict(sample)
    for kind in kinds:
        found = {name: _KINDS[kind](value, random) if is_picture(value) else value for name, value in found.items()}
    return found


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
