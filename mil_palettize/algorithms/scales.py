"""Scales of channels, as they can be stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class ScaledFit(Protocol):
    """What a table leaves of the elements that it stands for. ``cross`` and ``power``: float64 (channels,), sums of
    importance times ``w * entry`` and ``entry**2``."""

    @property
    def cross(self) -> np.ndarray: ...

    @property
    def power(self) -> np.ndarray: ...


def stored_scales(scales: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The positive normal numbers of ``dtype`` nearest to ``scales``, float64."""
    info = np.finfo(dtype)
    return np.clip(scales, float(info.tiny), float(info.max)).astype(dtype).astype(np.float64)


def least_squares_scales(fits: Sequence[ScaledFit], before: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Those that suit entries as they are best, as stored; ``before`` where nothing tells."""
    cross, power = sum(made.cross for made in fits), sum(made.power for made in fits)
    with np.errstate(all="ignore"):
        scales = np.where((cross > 0.0) & (power > 0.0), cross / power, before)
    return stored_scales(scales, dtype)
