"""Whether what is told beforehand puts things in the order that measuring does."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_FEWEST = 3  # whose order says anything


def rank_correlation(told: Sequence[float], measured: Sequence[float]) -> float | None:
    """Spearman's, of the pairs whose figures are finite: 1 where both have the same order. None of fewer than three
    pairs, and where all are alike by one of the two."""
    pairs = [pair for pair in zip(told, measured, strict=True) if all(map(math.isfinite, pair))]
    if len(pairs) < _FEWEST:
        return None
    one, two = (_ranks(values) for values in zip(*pairs, strict=True))
    if not one.std() or not two.std():
        return None
    return float(np.corrcoef(one, two)[0, 1])


def _ranks(values: Sequence[float]) -> np.ndarray:
    """Equal values share the mean of their places."""
    array = np.asarray(values)
    return (array[:, None] > array).sum(axis=1) + (array[:, None] == array).sum(axis=1) / 2.0
