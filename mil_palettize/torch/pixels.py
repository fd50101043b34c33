"""What becomes of pixels where a model takes an array of numbers for a picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mil_palettize.errors import ConfigError

_CHANNELS = (1, 3)
Numbers = float | Sequence[float]


@dataclass(frozen=True)
class Pixels:
    """(pixel - ``mean``) · ``scale``, of pixels from 0 to 255; one number, or one for each of red, green and blue."""

    mean: tuple[float, ...]
    scale: tuple[float, ...]

    def array(self, picture: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """``picture``, (height, width) or (height, width, 3), as float32 of ``shape``. Raises ConfigError for three
        numbers where there is one channel."""
        planes = picture[..., None] if picture.ndim == 2 else picture
        if max(len(self.mean), len(self.scale)) > planes.shape[-1]:
            raise ConfigError("mean or scale have three numbers, and the model's pictures one channel; give one number")
        values = (planes.astype(np.float64) - np.array(self.mean)) * np.array(self.scale)
        inner = shape[1:] if len(shape) == 4 else shape
        values = values.transpose(2, 0, 1) if inner[0] in _CHANNELS else values
        return values.astype(np.float32).reshape(shape)


def refuse_pixels(source: object, pixels: Pixels | None) -> None:
    """Raise ConfigError where ``pixels`` are said of a file that holds no pictures."""
    if pixels is not None:
        raise ConfigError(f"{source} holds no pictures, which image mean and scale are of; leave them out")


def check_pictures(pixels: Pixels | None, samples: Any) -> None:
    """Raise ConfigError where ``pixels`` are said of samples that are no files: made up ones (None), or arrays."""
    if pixels is not None and not isinstance(samples, str | os.PathLike):
        kind = "made-up samples" if samples is None or isinstance(samples, int) else "samples that are arrays"
        raise ConfigError(f"image mean and scale are of pictures, and these are {kind}; leave them out")


def pixels_of(mean: Numbers | None, scale: Numbers | None) -> Pixels | None:
    """None where neither is given; what is left out is 0, and 1. Raises ConfigError for other than 1 or 3 numbers."""
    if mean is None and scale is None:
        return None
    return Pixels(_numbers("mean", mean, 0.0), _numbers("scale", scale, 1.0))


def _numbers(what: str, given: Numbers | None, default: float) -> tuple[float, ...]:
    try:
        found = np.atleast_1d(np.asarray(default if given is None else given, np.float64))
    except (TypeError, ValueError):
        found = np.empty(0)
    if found.shape not in ((1,), (3,)) or not np.isfinite(found).all():
        raise ConfigError(f"the {what} of images is {given!r}; give one number, or three for red, green and blue")
    return tuple(map(float, found))


def picture_size(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Height, width and channels of pictures in an array: (channels, height, width) or (height, width, channels), with
    1 in front or not; zeros for another shape."""
    inner = shape[1:] if len(shape) == 4 and shape[0] == 1 else shape
    if len(inner) == 3 and inner[0] in _CHANNELS:
        return inner[1], inner[2], inner[0]
    if len(inner) == 3 and inner[2] in _CHANNELS:
        return inner
    return 0, 0, 0
