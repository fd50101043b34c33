"""What a fine tuning is."""

from __future__ import annotations

import math
import os
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mil_palettize.calibration.request import Calibration, Numbers
from mil_palettize.errors import ConfigError

AUGMENTATIONS = ("flip", "shift", "mix")


@dataclass(frozen=True)
class Finetuning:
    """Tables and indices of calibrated palettes, and biases, trained on samples.

    ``sample_data``: as of ``Calibration``; None for the samples of the calibration, of which training takes more. The
    loss is how far outputs are from those of the float network: the squared error relative to the output's power, for
    one output of classes also the divergence of its answers at ``temperature``, and with ``labels``, one class for each
    sample, their cross entropy. ``epochs``: times that the samples which are not held out are gone
    through. ``batch``: samples of a step. ``learning_rate``: of Adam, relative to the root of the mean square of each
    weight, at its highest, for palettes of 1 bit (half of it with each bit more, for each element of a vector); None
    for 0.03, of blocks, where indices stay, 0.02 for all. ``seed``: of the samples' order. ``augment``: how pictures
    (inputs of four axes) are changed at random in each step: "flip", left to right; "shift", by up to an eighth;
    "mix", each with up to half of another one laid over it.
    ``image_mean``, ``image_scale``: as of ``Calibration``, of ``sample_data``.

    ``blocks``: instead, tables, scales and biases of one block after another are fitted to what it gives in the float
    network, and kept where that error falls on samples held out; indices stay. ``epochs`` are those of each block.
    ``stop_here``: no epoch and no block more; the best epoch, or the blocks, that ``resume`` has of the same run are
    written.

    >>> Finetuning("pictures", epochs=10, augment=("flip", "shift")).learning_rate is None  # the usual one
    True
    """

    sample_data: Iterable[Mapping[str, Any]] | Mapping[str, Any] | str | os.PathLike[str] | None = None
    epochs: int = 3
    labels: Sequence[int] | None = None
    batch: int = 32
    learning_rate: float | None = None
    temperature: float = 4.0
    seed: int = 0
    image_mean: Numbers | None = None
    image_scale: Numbers | None = None
    augment: Sequence[str] = ()
    blocks: bool = False
    stop_here: bool = False

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"finetuning {name} is {value!r}; give a whole number from {least} on")
        for name in ("learning_rate", "temperature"):
            value = getattr(self, name)
            given = isinstance(value, int | float) and not isinstance(value, bool)
            if not (given and value > 0.0 and math.isfinite(value)) and (name, value) != ("learning_rate", None):
                raise ConfigError(f"finetuning {name} is {value!r}; give a finite number above 0")
        for name in ("blocks", "stop_here"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"finetuning {name} is {getattr(self, name)!r}; give True or False")
        object.__setattr__(self, "augment", _augmentations(self.augment))
        if self.labels is not None:
            object.__setattr__(self, "labels", _classes(self.labels))
        for name in ("labels", "augment"):
            if self.blocks and getattr(self, name):
                raise ConfigError(f"finetuning {name} has no effect where blocks are fitted; leave it out")
        if self.sample_data is not None:
            object.__setattr__(self, "sample_data", Calibration(self.sample_data).sample_data)

    @property
    def rate(self) -> float:
        """The learning rate, where none is given the one that is meant by that."""
        return self.learning_rate or (0.02 if self.blocks else 0.03)


def _augmentations(given: object) -> tuple[str, ...]:
    kinds = (given,) if isinstance(given, str) else given
    if not isinstance(kinds, list | tuple) or not all(kind in AUGMENTATIONS for kind in kinds):
        raise ConfigError(f"finetuning augment is {given!r}; give some of {list(AUGMENTATIONS)}")
    return tuple(kinds)


def _classes(given: object) -> tuple[int, ...]:
    array = np.asarray(given) if isinstance(given, list | tuple | np.ndarray) else None
    if array is None or array.ndim != 1 or array.dtype.kind not in "iu":
        raise ConfigError(
            f"finetuning labels is {reprlib.repr(given)}; give a list of class numbers, one for each sample"
        )
    return tuple(int(label) for label in array)
