"""Entries at equal distances between the extremes."""

from __future__ import annotations

import numpy as np

from mil_palettize.algorithms.distribution import Distribution


def entries(distribution: Distribution, nbits: int) -> np.ndarray:
    """``min + i * (max - min) / (2**nbits - 1)`` for i in 0 .. 2**nbits - 1, float64."""
    steps = (1 << nbits) - 1
    low, high = distribution.low, distribution.high
    spaced = low + np.arange(steps + 1) * ((high - low) / steps)
    spaced[-1] = high
    return spaced
