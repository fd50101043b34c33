"""A lossless palette of the distinct values."""

from __future__ import annotations

import numpy as np

from mil_palettize.algorithms.distribution import Distribution
from mil_palettize.algorithms.vector.vectors import VectorSet
from mil_palettize.errors import AlgorithmError


class TooManyValuesError(AlgorithmError):
    """A weight, or one group of it, has more than ``limit`` distinct values, which is how many can be told apart.

    ``what``: "values", or "vectors" of them. The line is the same for all weights, so that reports group them.
    """

    def __init__(self, name: str, limit: int, what: str = "values") -> None:
        super().__init__(
            f"weight '{name}' has more than {limit} distinct {what} in one look-up table. Unique values in weight "
            f"cannot be represented by {limit.bit_length() - 1} bits palettization: use mode 'kmeans', or smaller "
            "groups"
        )
        self.limit = limit


def entries(distribution: Distribution, nbits: int) -> np.ndarray:
    """The distinct values, float64; ``nbits`` is the most that may be used. Raises ``TooManyValuesError``.

    0.0 and -0.0 are one value, which is stored as 0.0.
    """
    limit = 1 << nbits
    if len(distribution.values) > limit:
        raise TooManyValuesError(distribution.name, limit)
    return distribution.values


def vector_entries(vectors: VectorSet, nbits: int) -> np.ndarray:
    """The distinct vectors, float64 (k, dim); ``nbits`` is the most that may be used. Raises ``TooManyValuesError``."""
    found = vectors.distinct(1 << nbits)
    if found is None:
        raise TooManyValuesError(vectors.name, 1 << nbits, "vectors")
    return found
