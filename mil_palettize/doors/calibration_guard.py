"""Whether a whole function gives better outputs with calibrated palettes than with plain ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mil_palettize.text import format_count

Outputs = Sequence[Mapping[str, Any]]
GUARDS = 16  # samples that a whole function is looked at with


@dataclass(frozen=True)
class Comparison:
    """Errors of all outputs with plain and with calibrated palettes, each relative to its power; ``told``: of what."""

    told: str
    plain: float
    calibrated: float

    @property
    def holds(self) -> bool:
        """Whether calibration is no loss."""
        return self.calibrated <= self.plain

    @property
    def figures(self) -> str:
        return f"{_decibels(self.plain)} → {_decibels(self.calibrated)} dB"

    @property
    def sentence(self) -> str:
        if self.holds:
            return f"{self.told}: {self.figures} by calibration"
        plain, calibrated = _decibels(self.plain), _decibels(self.calibrated)
        return f"{self.told}: {plain} dB with plain palettes, {calibrated} with calibrated ones, which were given up"


def on_held(module: Any, held: Sequence[int], walked: Any, without: Outputs) -> Comparison:
    """On samples that palettes were not made of, by number. ``without``: outputs with plain palettes."""
    wanted = [walked.before[i] for i in held]
    told = f"outputs of {module.function_name!r} on {format_count(len(held), 'sample')} held out"
    return Comparison(told, _noise(wanted, without), _noise(wanted, [walked.after[i] for i in held]))


def on_another_kind(
    module: Any, plain: Mapping[str, np.ndarray], calibrated: Mapping[str, np.ndarray], *, seed: int, device: str
) -> Comparison:
    """On samples made up in another way than those of the fit: seeded noise. Arrays by slot."""
    from mil_palettize.torch.calibration.walk import outputs_with
    from mil_palettize.torch.made_up_inputs import plausible_inputs

    made = [module.features.tensors(sample) for sample in plausible_inputs(module, GUARDS, seed + 1)]
    wanted, without, found = (outputs_with(module, made, x, device=device) for x in ({}, plain, calibrated))
    told = f"outputs of {module.function_name!r} on {format_count(GUARDS, 'sample')} of noise"
    return Comparison(told, _noise(wanted, without), _noise(wanted, found))


def _noise(wanted: Outputs, found: Outputs) -> float:
    """Squared error of all outputs of floats, each relative to its power."""
    total = 0.0
    for name in wanted[0] if wanted else ():
        pairs = [(one[name], two[name]) for one, two in zip(wanted, found, strict=True)]
        pairs = [(a, b) for a, b in pairs if hasattr(a, "is_floating_point") and a.is_floating_point()]
        power = sum(float(a.double().square().sum()) for a, _ in pairs)
        error = sum(float((a.double() - b.double()).square().sum()) for a, b in pairs)
        total += error / power if power else error
    return total


def _decibels(noise: float) -> str:
    return "exact" if noise == 0.0 else f"{-10.0 * math.log10(noise):.1f}"
