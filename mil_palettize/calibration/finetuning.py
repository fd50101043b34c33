"""What a fine tuning is."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mil_palettize.calibration.request import Calibration, Numbers
from mil_palettize.errors import ConfigError


@dataclass(frozen=True)
class Finetuning:
    """Tables and indices of calibrated palettes, and biases, trained on samples.

    ``sample_data``: as of ``Calibration``; None for the samples of the calibration, of which training takes more. The
    loss is how far outputs are from those of the float network: the squared error relative to the output's power, for
    one output of classes also the divergence of its answers at ``temperature``, and with ``labels``, one class for each
    sample, their cross entropy. ``epochs``: times that the samples which are not held out are gone
    through. ``batch``: samples of a step. ``learning_rate``: of Adam, relative to the root of the mean square of each
    weight, at its highest. ``seed``: of the samples' order. ``image_mean``, ``image_scale``: as of ``Calibration``, of
    ``sample_data``.
    """

    sample_data: Iterable[Mapping[str, Any]] | Mapping[str, Any] | str | os.PathLike[str] | None = None
    epochs: int = 3
    labels: Sequence[int] | None = None
    batch: int = 32
    learning_rate: float = 0.01
    temperature: float = 4.0
    seed: int = 0
    image_mean: Numbers | None = None
    image_scale: Numbers | None = None

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"finetuning {name} is {value!r}; give a whole number from {least} on")
        for name in ("learning_rate", "temperature"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not (value > 0.0 and math.isfinite(value)):
                raise ConfigError(f"finetuning {name} is {value!r}; give a finite number above 0")
        if self.sample_data is not None:
            object.__setattr__(self, "sample_data", Calibration(self.sample_data).sample_data)

    def samples_of(self, calibration: Calibration) -> Calibration:
        """Where its samples come from: ``calibration``, or one that is like it."""
        if self.sample_data is None:
            return calibration
        return replace(
            calibration, sample_data=self.sample_data, image_mean=self.image_mean, image_scale=self.image_scale
        )
