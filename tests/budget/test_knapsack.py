"""The choice within a budget, against every other choice that there is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mil_palettize.budget.knapsack import cheapest


@pytest.mark.parametrize("seed", range(12))
def test_no_other_choice_loses_less(seed: int) -> None:
    random = np.random.default_rng(seed)
    costs = [list(map(float, random.integers(-50, 50, random.integers(1, 5)))) for _ in range(6)]
    errors = [list(random.exponential(size=len(row)) ** 3) for row in costs]
    most = float(random.integers(-120, 60))
    fits = []
    for picked in itertools.product(*(range(len(row)) for row in costs)):
        if sum(row[i] for row, i in zip(costs, picked, strict=True)) <= most:
            fits.append(sum(row[i] for row, i in zip(errors, picked, strict=True)))
    found = cheapest(costs, errors, most)
    if not fits:
        assert found is None
        return
    assert found is not None
    assert sum(row[i] for row, i in zip(costs, found.picked, strict=True)) <= most
    assert sum(row[i] for row, i in zip(errors, found.picked, strict=True)) == pytest.approx(min(fits), rel=1e-5)
    assert found.gap <= 1e-5


def test_without_anything_to_choose() -> None:
    found = cheapest([], [], 0.0)
    assert found is not None
    assert found.picked == ()
    assert cheapest([], [], -1.0) is None
