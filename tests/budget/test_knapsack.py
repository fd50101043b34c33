"""The choice within a budget, against every other choice that there is."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from mil_palettize.budget.knapsack import cheapest
from mil_palettize.budget.relaxation import best_plans, relaxed


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


@pytest.mark.parametrize("seed", range(12))
def test_what_the_relaxation_rules_out(seed: int) -> None:
    """It leaves the best choice, names no sum above the least, and what it picks fits."""
    random = np.random.default_rng(seed)
    costs, errors, every = rows(random, 5)
    most = float(np.quantile([cost for cost, *_ in every], random.uniform(0.05, 0.95)))
    best = min(error for cost, error, _ in every if cost <= most)
    found = relaxed(costs, errors, most)
    assert sum(row[j] for row, j in zip(costs, found.picked, strict=True)) <= most
    assert found.least <= best * (1 + 1e-9)
    assert found.error >= best * (1 - 1e-9)
    possible = found.possible(costs, errors)
    kept = [error for cost, error, picked in every if cost <= most and inside(picked, possible)]
    assert min(kept) == pytest.approx(best)


@pytest.mark.parametrize("seed", range(8))
def test_plans_of_a_curve(seed: int) -> None:
    """None that costs no more than one of them has less error; each but the first costs more than the one before."""
    random = np.random.default_rng(seed)
    costs, errors, every = rows(random, 5)
    budgets = np.linspace(min(cost for cost, *_ in every), max(cost for cost, *_ in every), 9)
    found = best_plans(costs, errors, budgets)
    known = {picked: (cost, error) for cost, error, picked in every}
    points = [known[picked] for picked in found]
    assert [cost for cost, _ in points] == sorted({cost for cost, _ in points})
    assert points[0][0] == budgets[0]
    assert points[-1][1] == pytest.approx(min(error for _, error, _ in every))
    for cost, error in points:
        assert error == pytest.approx(min(other for least, other, _ in every if least <= cost))


def rows(random: np.random.Generator, count: int) -> tuple[list[list[float]], list[list[float]], list[Any]]:
    """Costs, errors, and every choice: its cost, its error, and what is picked."""
    costs = [list(map(float, random.integers(-50, 50, random.integers(1, 6)))) for _ in range(count)]
    errors = [list(random.exponential(size=len(row)) ** 3) for row in costs]
    every = [
        (
            sum(row[i] for row, i in zip(costs, picked, strict=True)),
            sum(row[i] for row, i in zip(errors, picked, strict=True)),
            picked,
        )
        for picked in itertools.product(*(range(len(row)) for row in costs))
    ]
    return costs, errors, every


def inside(picked: Sequence[int], possible: Sequence[Sequence[int]]) -> bool:
    return all(j in row for j, row in zip(picked, possible, strict=True))


def test_without_anything_to_choose() -> None:
    found = cheapest([], [], 0.0)
    assert found is not None
    assert found.picked == ()
    assert cheapest([], [], -1.0) is None
