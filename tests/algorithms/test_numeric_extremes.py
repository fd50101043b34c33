"""Where floating point is at its limits: long sums, outliers far outside the rest."""

from __future__ import annotations

import math

import numpy as np
import pytest
from made_palettes import make_one

from mil_palettize.algorithms import distribution
from mil_palettize.algorithms.making import ArraySource


def palette(array: np.ndarray, nbits: int):
    return make_one(ArraySource("w", array), mode="kmeans", nbits=nbits, allowed_nbits=(nbits,))


def test_error_of_many_equal_terms_is_summed_without_drift() -> None:
    """One running sum of 2**24 equal terms is off by 1e-9 and more; verification compares to 1e-9."""
    array = np.zeros(1 << 24, np.float32)
    array[: 1 << 22] = np.random.default_rng(0).standard_normal(1 << 22)
    made = palette(array.reshape(4096, -1), 4)
    difference = array - made.expr.decode().reshape(-1).astype(np.float64)
    exact = math.fsum(float(np.dot(part, part)) for part in np.split(difference, 4096))
    assert made.sse == pytest.approx(exact, rel=2e-12)
    assert made.signal == pytest.approx(
        math.fsum(np.square(array, dtype=np.float64).reshape(4096, -1).sum(1)), rel=2e-12
    )


@pytest.mark.parametrize("outlier", [1e6, 1e10])
@pytest.mark.parametrize("nbits", [4, 8])
def test_outlier_does_not_take_the_cells_of_the_rest(
    outlier: float, nbits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = (np.random.default_rng(5).standard_normal((1100, 1024)) * 0.02).astype(np.float32)
    array[3, 3] = outlier
    found = palette(array, nbits).sse
    monkeypatch.setattr(distribution, "EXACT_SIZE", 1 << 30)
    assert found <= palette(array, nbits).sse * (1 + 1e-6)
