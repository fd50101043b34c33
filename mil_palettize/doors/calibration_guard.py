"""Whether a whole function gives better outputs with calibrated palettes than with plain ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mil_palettize.text import format_count

Outputs = Sequence[Mapping[str, Any]]
Arrays = Mapping[str, np.ndarray]
GUARDS = 16  # samples that a whole function is looked at with
_MOST_OF = 0.5


@dataclass(frozen=True)
class Comparison:
    """Noise of the outputs with plain and with calibrated palettes; ``told``: of which outputs."""

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


@dataclass(frozen=True, eq=False)
class Guard:
    """Samples of a function to compare palettes with. ``samples``: as a palettized network before it has them;
    ``states``: what states hold before each, None without any; ``wanted``: outputs of the float network."""

    module: Any
    samples: Sequence[Mapping[str, Any]]
    states: Sequence[Mapping[str, Any]] | None
    wanted: Outputs
    device: str

    def noise(self, arrays: Arrays) -> float:
        """Of the outputs with these arrays in the place of constants, by slot."""
        from mil_palettize.torch.calibration.walk import outputs_with
        from mil_palettize.torch.metrics import outputs_noise

        found = outputs_with(self.module, self.samples, arrays, states=self.states, device=self.device)
        return outputs_noise(self.wanted, found)

    def held(self, plain: Arrays, calibrated: Outputs) -> Comparison:
        """On samples that palettes were not made of. ``calibrated``: outputs with all calibrated palettes."""
        from mil_palettize.torch.metrics import outputs_noise

        count = format_count(len(self.samples), "sample")
        told = f"outputs of {self.module.function_name!r} on {count} held out"
        return Comparison(told, self.noise(plain), outputs_noise(self.wanted, calibrated))

    def tables_told(self, tables: Arrays, whole: float) -> str | None:
        """Where palettes of look-up tables alone make most of the noise of the outputs, which is ``whole``."""
        own = self.noise(tables)
        if own < _MOST_OF * whole or not own:
            return None
        named = ", ".join(map(repr, tables))
        return (
            f"outputs of {self.module.function_name!r}: tables that are looked up ({named}) make most of the error "
            f"({_decibels(own)} of {_decibels(whole)} dB), and nothing behind them makes it good; give them more bits "
            "(op_type_configs: gather)"
        )


def on_noise(module: Any, plain: Arrays, calibrated: Arrays, *, seed: int, device: str) -> Comparison:
    """On samples made up in another way than those of the fit: seeded noise."""
    from mil_palettize.torch.calibration.walk import outputs_with
    from mil_palettize.torch.made_up_inputs import plausible_inputs

    made = [module.features.tensors(sample) for sample in plausible_inputs(module, GUARDS, seed + 1)]
    guard = Guard(module, made, None, outputs_with(module, made, {}, device=device), device)
    told = f"outputs of {module.function_name!r} on {format_count(GUARDS, 'sample')} of noise"
    return Comparison(told, guard.noise(plain), guard.noise(calibrated))


def _decibels(found: float) -> str:
    return "exact" if found == 0.0 else f"{-10.0 * math.log10(found):.1f}"
