"""Packages that others made and that people use, with natural inputs: how near the outputs of palettes are.

They are ``silero`` (voice activity: ``lstm``), ``dtln`` (echo cancelling: a recurrent layer written as a loop),
``basic_pitch`` (audio to notes) and ``adain`` (style transfer). The data is a folder with ``imagenet_sample.zip`` (for
``adain``) and the packages in it or in a folder ``models`` beside it. Speech and music are made by rules (``sounds``).
Of the recurrent ones a sample is one call, with the states that the float network has come to.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mil_palettize.torch import MILModule
from tools.accuracy.network import Place
from tools.accuracy.sounds import music, speech

_TEST = 48
_EVERY = 7  # calls of a recurrent network of which one is a sample

Sample = dict[str, np.ndarray]
# Endless samples, by the float network, the place and a generator of random numbers.
Make = Callable[[MILModule, Place, np.random.Generator], Iterator[Sample]]


class PackageNetwork:
    """One of them. The figure is 10 log10 of the outputs' power by their error's, each output by its own power."""

    figures = ("output SNR, dB",)

    def __init__(self, package: str, make: Make, place: Place) -> None:
        self.source = _found(place.data, package)
        self._float, self._make, self._place = MILModule.from_package(self.source), make, place
        test = make(self._float, place, np.random.default_rng(10_000))
        self._test = list(islice(test, min(_TEST, place.images)))
        self._wanted = [self._float.predict(sample) for sample in self._test]

    def samples(self, count: int, seed: int) -> list[Sample]:
        return list(islice(self._make(self._float, self._place, np.random.default_rng(seed)), count))

    def measured(self, package: Path) -> tuple[float]:
        module = MILModule.from_package(package)
        return (output_snr(self._wanted, [module.predict(sample) for sample in self._test]),)


def output_snr(wanted: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> float:
    """In dB: the mean of the outputs' errors, each relative to the power of the output over all samples."""
    errors = []
    for name in wanted[0]:
        pairs = [(np.float64(one[name]), np.float64(two[name])) for one, two in zip(wanted, found, strict=True)]
        power = sum(float(np.square(one).sum()) for one, _ in pairs)
        errors.append(sum(float(np.square(one - two).sum()) for one, two in pairs) / power)
    mean = float(np.mean(errors))
    return math.inf if mean == 0.0 else -10.0 * math.log10(mean)


def _found(data: Path, package: str) -> Path:
    for folder in (data, data.parent / "models"):
        if (folder / f"{package}.mlpackage").is_dir():
            return folder / f"{package}.mlpackage"
    raise SystemExit(f"there is no {package}.mlpackage in {data} or in a folder models beside it")


def voices(module: MILModule, place: Place, random: np.random.Generator) -> Iterator[Sample]:
    """Frames of 512 at 16 kHz behind the 64 before them."""
    while True:
        sound = speech(4.0, 16_000, random)
        states = {name: np.zeros((1, 128), np.float32) for name in ("hidden_state", "cell_state")}
        for number, start in enumerate(range(0, len(sound) - 576, 512)):
            sample = {"audio_input": sound[None, start : start + 576], **states}
            given = module.predict(sample)
            if number % _EVERY == _EVERY - 1:
                yield sample
            states = {name: given[f"new_{name}"] for name in states}


def echoes(module: MILModule, place: Place, random: np.random.Generator) -> Iterator[Sample]:
    """Magnitudes of frames of 512 at 16 kHz, 128 apart: of a far voice, and of a near one with the far one's echo."""
    while True:
        far, near = speech(2.0, 16_000, random), speech(2.0, 16_000, random) * random.integers(0, 2)
        heard = near + np.convolve(far, random.standard_normal(400) * np.exp(-np.arange(400) / 60.0))[: len(far)] * 0.2
        states = np.zeros((1, 2, 128, 2), np.float32)
        for number, start in enumerate(range(0, len(far) - 512, 128)):
            parts = [np.abs(np.fft.rfft(x[start : start + 512])).astype(np.float32)[None, None] for x in (heard, far)]
            sample = {"mic_magnitude": parts[0], "lpb_magnitude": parts[1], "states_in": states}
            given = module.predict(sample)
            if number % _EVERY == _EVERY - 1:
                yield sample
            states = given["Identity_1"]


def pieces(module: MILModule, place: Place, random: np.random.Generator) -> Iterator[Sample]:
    """Two seconds at 22,050 Hz."""
    while True:
        yield {"input_2": music(43_844 / 22_050 + 0.01, 22_050, random)[None, :43_844, None]}


def pictures(module: MILModule, place: Place, random: np.random.Generator) -> Iterator[Sample]:
    """Two photographs of the set."""
    from PIL import Image

    with zipfile.ZipFile(place.data / "imagenet_sample.zip") as file:
        names = sorted(name for name in file.namelist() if name.lower().endswith(".jpg"))
        while True:
            both = []
            for name in random.choice(names, 2, replace=False):
                image = Image.open(io.BytesIO(file.read(str(name)))).convert("RGB").resize((256, 256))
                both.append(np.ascontiguousarray((np.float32(image) / 255.0).transpose(2, 0, 1))[None])
            yield {"content_image": both[0], "style_image": both[1]}
