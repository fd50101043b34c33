"""The globally optimal k-means palette (see ``solver``)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mil_palettize.algorithms.compiled.solver import optimal_centers_of_groups
from mil_palettize.algorithms.distribution import Distribution
from mil_palettize.errors import AlgorithmError

PICKS = 2048  # boundaries to choose from for each entry, where the values are means of cells in any case


def entries(distribution: Distribution, nbits: int) -> np.ndarray:
    """``2**nbits`` float64 entries with the smallest weighted squared error, ascending.

    The distinct values themselves where there are no more than that. Of cells the error is 1e-6 (about 4 /
    ``PICKS**2``) above the smallest.
    """
    return _solved(distribution, nbits, np.empty(0))


def errors(distribution: Distribution, nbits_list: Sequence[int]) -> tuple[float, ...]:
    """The least weighted squared error for each number of bits: what they would cost, without looking at the weight.

    Of tables stored in the distribution's dtype, float16 or float32, as ``make_palette`` has it for one plain table:
    exact where the distribution is (see ``Distribution.exact``), else of its cells. Raises ``AlgorithmError`` for
    other dtypes.
    """
    if distribution.dtype not in (np.float16, np.float32):
        raise AlgorithmError(f"weight '{distribution.name}' is {distribution.dtype}; give one of float16 or float32")
    reached = np.empty((len(nbits_list), 1))
    for nbits, error in zip(nbits_list, reached, strict=True):
        _solved(distribution, nbits, error)
    return tuple(reached[:, 0].tolist())


def entries_of_groups(
    values: np.ndarray, weights: np.ndarray, offsets: np.ndarray, half: bool, nbits: int
) -> np.ndarray:
    """``entries`` of many distributions in one compiled call: float64 (groups, 2**nbits).

    Group g holds ``values[offsets[g] : offsets[g + 1]]``; ``half``: the entries will be stored as float16.
    """
    out = np.empty((len(offsets) - 1, 1 << nbits))
    optimal_centers_of_groups(values, weights, offsets, half, 0, out, np.empty(0))
    return out


def _solved(distribution: Distribution, nbits: int, errors: np.ndarray) -> np.ndarray:
    """The entries; ``errors`` (1,) gets the squared error, unless it is empty."""
    offsets, half = np.array([0, len(distribution.values)]), distribution.dtype == np.float16
    out, most = np.empty((1, 1 << nbits)), 0 if distribution.exact else PICKS << nbits
    optimal_centers_of_groups(distribution.values, distribution.weights, offsets, half, most, out, errors)
    return out[0]
