"""The globally optimal k-means palette (see ``solver``)."""

from __future__ import annotations

import numpy as np

from mil_palettize.algorithms.compiled.solver import optimal_centers_of_groups
from mil_palettize.algorithms.distribution import Distribution

PICKS = 2048  # boundaries to choose from for each entry, where the values are means of cells in any case


def entries(distribution: Distribution, nbits: int) -> np.ndarray:
    """``2**nbits`` float64 entries with the smallest weighted squared error, ascending.

    The distinct values themselves where there are no more than that. Of cells the error is 1e-6 (about 4 /
    ``PICKS**2``) above the smallest.
    """
    offsets = np.array([0, len(distribution.values)])
    out = np.empty((1, 1 << nbits))
    half, most = distribution.dtype == np.float16, 0 if distribution.exact else PICKS << nbits
    optimal_centers_of_groups(distribution.values, distribution.weights, offsets, half, most, out)
    return out[0]


def entries_of_groups(
    values: np.ndarray, weights: np.ndarray, offsets: np.ndarray, half: bool, nbits: int
) -> np.ndarray:
    """``entries`` of many distributions in one compiled call: float64 (groups, 2**nbits).

    Group g holds ``values[offsets[g] : offsets[g + 1]]``; ``half``: the entries will be stored as float16.
    """
    out = np.empty((len(offsets) - 1, 1 << nbits))
    optimal_centers_of_groups(values, weights, offsets, half, 0, out)
    return out
