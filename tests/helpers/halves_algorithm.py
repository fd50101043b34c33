"""An algorithm as somebody might add it: entries in the middle of equal parts of the sorted elements."""

from __future__ import annotations

import numpy as np

from mil_palettize.algorithms.distribution import Distribution
from mil_palettize.algorithms.registry import Algorithm

HALVES = Algorithm("halves", entries="halves_algorithm:entries")


def entries(distribution: Distribution, nbits: int) -> np.ndarray:
    """Halve the elements ``nbits`` times; the value at the middle of each part."""
    ranks = np.cumsum(distribution.weights)
    middles = (np.arange(1 << nbits) + 0.5) / (1 << nbits) * ranks[-1]
    return distribution.values[np.searchsorted(ranks, middles)]
