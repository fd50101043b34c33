"""What a calibration is."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mil_palettize.errors import ConfigError
from mil_palettize.program.given_samples import is_by_function

_EMPTY = "is empty; give samples, or leave it out to have some made up"
_WANTED = "give mappings of input names to arrays, a list of them, or the path of a file or folder of samples"
METHODS = ("reconstruct", "importance", "weights")
Sample = Mapping[str, Any] | Sequence[Mapping[str, Any]]
Given = Iterable[Sample] | Mapping[str, Any]
Numbers = float | Sequence[float]
DEVICES = ("cpu", "cuda", "mps")
HELD = 5  # every so many samples one is held out of the fit


def held_out(count: int) -> frozenset[int]:
    """Numbers of those of ``count`` samples that palettes are not made of."""
    return frozenset(range(HELD - 1, count, HELD))


@dataclass(frozen=True)
class Calibration:
    """How palettes are made for what ops give, not for what weights are.

    ``sample_data``: samples as ``MLModel.predict`` takes them, as coremltools calls it: a mapping of names to arrays,
    or any iterable of these (which is gone through once, here), of which each may also be a list of mappings: calls of
    a model with states, one after another; or a mapping of that by the names of a model's functions, which may lack
    some; or where they lie: a ``.npz`` file of arrays by input, of one sample, of several along an axis more in front,
    or along the first axis where the model's own is 1; a ``.npy`` file for a model with one input; a folder of images
    for a model that takes one, or of ``NAME.npz`` by function; ``FILE.py:NAME``, a function that yields samples. None
    for ``samples`` made up from the description of the model. ``method``: "reconstruct" chooses for each weight among
    its plain palette, importance, and assignment with compensation, by the error of what comes out behind the op (its
    non-linearity, shortcut and layer norm) on samples held out of the fit; "importance" keeps to the weighted optimum;
    "weights" looks at no sample at all. ``positions``: of a convolution's output that are looked at in each sample.
    ``seed``: of these, and of made-up samples; every fifth sample is held out. ``memory``: bytes of values kept in
    memory, above which they go to a temporary folder; None for a quarter of what is free. ``rounds``: of tables and
    indices in turn, at most. ``device``: what torch computes the network on, "cpu", "cuda" or "mps"; the same samples
    give the same bytes on one and the same only. ``bias``: correct the mean of what palettized ops give in biases that
    they have, where that makes the outputs on samples held out better; on transformers it is dangerous. ``image_mean``,
    ``image_scale``: of pictures for a model that takes an array, as of ``mil_palettize.compare``.

    >>> import numpy as np
    >>> samples = ({"image": np.full((1, 16, 12, 12), level, np.float32)} for level in range(40))
    >>> len(Calibration(samples).sample_data)
    40
    """

    sample_data: Given | Mapping[str, Given] | str | os.PathLike[str] | None = None
    method: str = "reconstruct"
    samples: int = 64
    positions: int = 64
    seed: int = 0
    memory: int | None = None
    rounds: int = 15
    device: str = "cpu"
    bias: bool = False
    image_mean: Numbers | None = None
    image_scale: Numbers | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigError(f"calibration method is {self.method!r}; use one of {list(METHODS)}")
        if self.device not in DEVICES:
            raise ConfigError(f"calibration device is {self.device!r}; use one of {list(DEVICES)}")
        if not isinstance(self.bias, bool):
            raise ConfigError(f"calibration bias is {self.bias!r}; give True or False")
        if self.bias and self.method == "weights":
            raise ConfigError("calibration bias needs samples, which method 'weights' looks at none of; leave one out")
        for name, least in (("samples", 1), ("positions", 1), ("seed", 0), ("rounds", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"calibration {name} is {value!r}; give a whole number from {least} on")
        memory = self.memory
        if memory is not None and (isinstance(memory, bool) or not isinstance(memory, int) or memory < 1):
            raise ConfigError(f"calibration memory is {memory!r}; give a whole number of bytes, or None")
        if self.sample_data is not None and not isinstance(self.sample_data, str | os.PathLike):
            object.__setattr__(self, "sample_data", _kept(self.sample_data))
        elif self.sample_data == "":
            raise ConfigError(f"calibration sample_data {_EMPTY}")

    @property
    def made_up(self) -> bool:
        return self.sample_data is None


def checked_calibration(given: object) -> Calibration | None:
    """``given`` as the argument of a door. Raises ConfigError for what is no calibration."""
    if given is None or isinstance(given, Calibration):
        return given
    raise ConfigError(
        f"calibration is {reprlib.repr(given)}, it must be a mil_palettize.Calibration or None: of samples "
        "Calibration(samples), without any Calibration(method='weights')"
    )


def _kept(given: object) -> list[Sample] | dict[str, list[Sample]]:
    """Samples given as such, one by one, by function where they are."""
    if isinstance(given, Mapping) and is_by_function(given):
        return {name: _listed(samples, f"sample_data of {name!r}") for name, samples in given.items()}
    return _listed(given, "sample_data")


def _listed(given: object, what: str) -> list[Sample]:
    if isinstance(given, Mapping):
        return [given]
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise ConfigError(f"calibration {what} is {reprlib.repr(given)}; {_WANTED}")
    samples = [list(sample) if isinstance(sample, list | tuple) else sample for sample in given]
    if not samples:
        raise ConfigError(f"calibration {what} {_EMPTY}")
    for number, sample in enumerate(samples):
        calls = sample if isinstance(sample, list) else [sample]
        if not calls or not all(_is_named(call) for call in calls):
            raise ConfigError(f"sample {number} of calibration {what} is {reprlib.repr(sample)}; {_WANTED}")
    return samples


def _is_named(call: object) -> bool:
    return isinstance(call, Mapping) and all(isinstance(name, str) for name in call)
