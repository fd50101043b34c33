"""The globally optimal k-means palette (see ``solver``)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mil_palettize.algorithms.compiled.solver import optimal_centers_of_groups
from mil_palettize.algorithms.distribution import Distribution
from mil_palettize.errors import AlgorithmError


def entries(distribution: Distribution, nbits: int) -> np.ndarray:
    """``2**nbits`` float64 entries with the smallest weighted squared error, ascending.

    The distinct values themselves where there are no more than that.
    """
    return _solved(distribution, nbits)[0][0]


def errors(distribution: Distribution, nbits_list: Sequence[int]) -> tuple[float, ...]:
    """The least weighted squared error for each number of bits: what they would cost, without looking at the weight.

    Of tables stored in the distribution's dtype, float16 or float32, as ``make_palette`` has it for one plain table:
    exact where the distribution is (see ``Distribution.exact``), else of its cells. Raises ``AlgorithmError`` for
    other dtypes.
    """
    if distribution.dtype not in (np.float16, np.float32):
        raise AlgorithmError(f"weight '{distribution.name}' is {distribution.dtype}; give one of float16 or float32")
    return tuple(float(_solved(distribution, nbits)[1][0]) for nbits in nbits_list)


def entries_of_groups(
    values: np.ndarray, weights: np.ndarray, offsets: np.ndarray, half: bool, nbits: int
) -> np.ndarray:
    """``entries`` of many distributions in one compiled call: float64 (groups, 2**nbits).

    Group g holds ``values[offsets[g] : offsets[g + 1]]``; ``half``: the entries will be stored as float16.
    """
    return _solved_groups(values, weights, offsets, half, nbits)[0]


def _solved(distribution: Distribution, nbits: int) -> tuple[np.ndarray, np.ndarray]:
    offsets, half = np.array([0, len(distribution.values)]), distribution.dtype == np.float16
    return _solved_groups(distribution.values, distribution.weights, offsets, half, nbits)


def _solved_groups(
    values: np.ndarray, weights: np.ndarray, offsets: np.ndarray, half: bool, nbits: int
) -> tuple[np.ndarray, np.ndarray]:
    """Entries (groups, 2**nbits) and the squared error of each group."""
    out, reached = np.empty((len(offsets) - 1, 1 << nbits)), np.empty(len(offsets) - 1)
    optimal_centers_of_groups(values, weights, offsets, half, out, reached)
    return out, reached
