"""Palettes and biases on their way, whatever the loss: what a step changes of them, and what is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mil_palettize.torch.training.learned_palette import LearnedPalette
from mil_palettize.torch.training.relative_adam import RelativeAdam
from mil_palettize.torch.training.trained_palette import TrainedPalette

State = dict[str, np.ndarray]


@dataclass(frozen=True)
class Stored:
    """By slot, as they are stored."""

    palettes: Mapping[str, TrainedPalette]
    biases: Mapping[str, torch.Tensor]

    @property
    def values(self) -> dict[str, Any]:
        return {**{slot: palette.values for slot, palette in self.palettes.items()}, **self.biases}


class FreeParts:
    """By slot. ``fixed``: whether indices stay; ``biases`` are copied."""

    def __init__(
        self, palettes: Mapping[str, TrainedPalette], biases: Mapping[str, torch.Tensor], *, fixed: bool
    ) -> None:
        self.palettes = {slot: LearnedPalette(palette, fixed=fixed) for slot, palette in palettes.items()}
        self.biases = {slot: value.clone().requires_grad_(True) for slot, value in biases.items()}

    def parts(self) -> list[torch.Tensor]:
        """What is trained of the palettes."""
        return [part for palette in self.palettes.values() for part in palette.parts()]

    def optimizer(self, learning_rate: float, steps: int) -> RelativeAdam:
        """``learning_rate``: of palettes of 1 bit. Where indices may change it is half of that with each bit more, as
        entries are about half as far from each other; biases have that of the palette of fewest bits."""
        rates = [learning_rate * palette.pace for palette in self.palettes.values()]
        rated = [(part, rate) for palette, rate in zip(self.palettes.values(), rates, strict=True)
                 for part in palette.parts()]  # fmt: skip
        highest = max(rates, default=learning_rate)
        return RelativeAdam(rated, [(value, highest) for value in self.biases.values()], steps)

    def values(self) -> dict[str, Any]:
        """With gradients."""
        return {**{slot: palette.value() for slot, palette in self.palettes.items()}, **self.biases}

    def state(self) -> State:
        """Copies of what is trained."""
        return {name: value.detach().numpy().copy() for name, value in self._trained().items()}

    def check(self, state: State) -> None:
        """Raise KeyError, and ValueError, for what is no :meth:`state` of these."""
        for name, value in self._trained().items():
            if state[name].shape != tuple(value.shape):
                raise ValueError(f"{name} has another shape")

    def restore(self, state: State) -> None:
        """Go back to one of :meth:`state`."""
        for name, value in self._trained().items():
            value.data.copy_(torch.from_numpy(np.array(state[name])))

    def as_stored(self) -> Stored:
        palettes = {slot: palette.stored() for slot, palette in self.palettes.items()}
        return Stored(palettes, {slot: value.detach().clone() for slot, value in self.biases.items()})

    def _trained(self) -> dict[str, torch.Tensor]:
        """By kind and number: slots may be called anything."""
        named = {"palette": self.parts(), "bias": list(self.biases.values())}
        return {f"{kind} {number}": value for kind, some in named.items() for number, value in enumerate(some)}
