"""One of several for each, where shares of candidates could be picked too: what that gives in no time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

Rows = Sequence[Sequence[float]]


@dataclass(frozen=True)
class _Step:
    """From one candidate of a row to a dearer one. ``gain``: error that it saves for each unit of cost."""

    gain: float
    row: int
    to: int


@dataclass(frozen=True)
class Relaxed:
    """``picked``: what fits, of little error, a number for each row; ``error``: its sum; ``least``: no choice that fits
    has a sum below; ``price``: error that a unit of cost is worth there."""

    picked: tuple[int, ...]
    error: float
    least: float
    price: float

    def possible(self, costs: Rows, errors: Rows) -> list[list[int]]:
        """The candidates of each row that a better choice than ``picked`` can hold, and that of ``picked``."""
        found = []
        room = (self.error - self.least) * (1 + 1e-9) + 1e-12 * abs(self.error)
        for own, cost, error in zip(self.picked, costs, errors, strict=True):
            priced = [e + self.price * c for c, e in zip(cost, error, strict=True)]
            best = min(priced)
            found.append([j for j, value in enumerate(priced) if j == own or value - best <= room])
        return found


def relaxed(costs: Rows, errors: Rows, most: float) -> Relaxed:
    """For costs of ``most`` or less in sum, which the cheapest candidates of all rows have. Each row is a convex curve
    of falling errors, and all curves are gone along together, the steepest first (Dantzig's bound)."""
    picked, price = _cheapest(costs, errors), 0.0
    spent = sum(row[j] for row, j in zip(costs, picked, strict=True))
    for step in _steps(costs, errors):
        dearer = spent + costs[step.row][step.to] - costs[step.row][picked[step.row]]
        if dearer <= most:
            picked[step.row], spent = step.to, dearer
        elif not price:
            price = step.gain
    least = -price * most
    for cost, row in zip(costs, errors, strict=True):
        least += min(e + price * c for c, e in zip(cost, row, strict=True))
    error = sum(row[j] for row, j in zip(errors, picked, strict=True))
    return Relaxed(tuple(picked), error, min(least, error), price)


def best_plans(costs: Rows, errors: Rows, rising: Iterable[float]) -> list[tuple[int, ...]]:
    """Of choices than which none of their cost has less error, the dearest within each sum of ``rising``, each once."""
    picked = _cheapest(costs, errors)
    spent = sum(row[j] for row, j in zip(costs, picked, strict=True))
    steps = iter(_steps(costs, errors))
    step, found = next(steps, None), dict[tuple[int, ...], None]()
    for most in rising:
        while step is not None:
            dearer = spent + costs[step.row][step.to] - costs[step.row][picked[step.row]]
            if dearer > most:
                break
            picked[step.row], spent, step = step.to, dearer, next(steps, None)
        if spent <= most:
            found[tuple(picked)] = None
    return list(found)


def undominated(costs: Sequence[float], errors: Sequence[float]) -> list[int]:
    """Those that no other is better than in one and as good in the other, by cost; of equal ones the first."""
    order = sorted(range(len(costs)), key=lambda j: (costs[j], errors[j], j))
    kept: list[int] = []
    for j in order:
        if not kept or errors[j] < errors[kept[-1]]:
            kept.append(j)
    return kept


def _cheapest(costs: Rows, errors: Rows) -> list[int]:
    return [undominated(cost, error)[0] for cost, error in zip(costs, errors, strict=True)]


def _steps(costs: Rows, errors: Rows) -> list[_Step]:
    """Of all rows, those that gain most first."""
    found = []
    for row, (cost, error) in enumerate(zip(costs, errors, strict=True)):
        for before, after in pairwise(_convex(cost, error)):
            gain = (error[before] - error[after]) / (cost[after] - cost[before])
            found.append(_Step(gain, row, after))
    return sorted(found, key=lambda step: -step.gain)  # stable: of a row in its order


def _convex(costs: Sequence[float], errors: Sequence[float]) -> list[int]:
    """Of the undominated candidates those below all lines between others."""
    kept: list[int] = []
    for j in undominated(costs, errors):
        while len(kept) > 1 and _above(costs, errors, kept[-2], kept[-1], j):
            kept.pop()
        kept.append(j)
    return kept


def _above(costs: Sequence[float], errors: Sequence[float], first: int, between: int, last: int) -> bool:
    """Whether ``between`` lies on or above the line from ``first`` to ``last``."""
    fallen = (errors[first] - errors[between]) * (costs[last] - costs[first])
    return fallen <= (errors[first] - errors[last]) * (costs[between] - costs[first])
