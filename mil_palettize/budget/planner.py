"""The plan within a budget: the best choice of palettes, as a recipe."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence

from mil_palettize.budget.distortion import Evaluated
from mil_palettize.budget.knapsack import cheapest
from mil_palettize.budget.limits import Budget
from mil_palettize.budget.reach import refuse_unreachable, stored_nbytes
from mil_palettize.budget.recipe import Chosen, Recipe
from mil_palettize.budget.weighed_choices import Weighed
from mil_palettize.planning.device_rules import costs as device_costs
from mil_palettize.text import format_bytes, format_count, format_some

_TOLD = 3  # constants that a note names
_ROUNDS = 8  # of corrections by the exact size


def planned(from_all: Weighed, budget: Budget, device: str) -> Recipe:
    """The plan with the least sum of errors within ``budget``, which is bytes or bits. Raises PlanError where there is
    none."""
    refuse_unreachable(from_all, budget)
    if budget.bits_per_weight is not None:
        most = stored_nbytes(from_all, budget.bits_per_weight)
        solution = cheapest(from_all.column(lambda c: c.stored_nbytes), from_all.errors, most)
        assert solution is not None  # it can be reached
        return recipe_of(from_all, solution.picked, from_all.written_nbytes(solution.picked), solution.gap, device)
    assert budget.nbytes is not None
    picked, exact, gap = _within(from_all, budget.nbytes)
    return recipe_of(from_all, picked, exact, gap, device)


def _within(from_all: Weighed, nbytes: int) -> tuple[Sequence[int], int, float]:
    """What is picked, the exact size and the gap. Sums of bytes taken one by one are corrected by the exact size until
    that is met."""
    most = float(nbytes - from_all.base)
    for _ in range(_ROUNDS):
        solution = cheapest(from_all.column(lambda c: c.nbytes), from_all.errors, most)
        if solution is None:
            break
        exact = from_all.written_nbytes(solution.picked)
        if exact <= nbytes:
            return solution.picked, exact, solution.gap
        most -= exact - nbytes
    return from_all.fewest_bytes, from_all.smallest, math.inf  # within some bytes of the smallest


def recipe_of(
    from_all: Weighed, picked: Sequence[int], nbytes: int, gap: float | None, device: str, uniform: str = ""
) -> Recipe:
    """With the candidate of each weight that is ``picked``, in a package of ``nbytes``. ``gap``, ``uniform``: as the
    recipe has them."""
    chosen = tuple(_chosen(one, i) for one, i in zip(from_all.choices, picked, strict=True))
    target = from_all.source.target
    return Recipe(
        source=os.fspath(from_all.source.path),
        target=None if target is None else getattr(target, "target", str(target)),
        chosen=chosen,
        nbytes=nbytes,
        bytes_before=from_all.nbytes,
        smallest=from_all.smallest,
        gap=gap,
        curve=from_all.curve,
        notes=(*from_all.notes, *_left(from_all), *_notes(chosen, device)),
        uniform=uniform,
        weight_ranks=from_all.weight_ranks,
    )


def _left(from_all: Weighed) -> list[str]:
    """Of constants that there is no choice for."""
    found: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for key, reason, nbytes in from_all.left:
        found[reason].append((key, nbytes))
    told = []
    for reason, of in found.items():
        size = format_bytes(sum(nbytes for _, nbytes in of))
        which = format_some([key for key, _ in of], _TOLD)
        told.append(f"{format_count(len(of), 'constant')} of {size} left alone: {reason}: {which}")
    return told


def _chosen(one: Evaluated, picked: int) -> Chosen:
    choice, candidate = one.choice, one.choice.candidates[picked]
    before = choice.candidates[0].stored_nbytes
    weight = choice.weight
    return Chosen(
        choice.names, weight.shape, weight.dtype, candidate.options, before, candidate.stored_nbytes, one.errors[picked]
    )


def _notes(chosen: Iterable[Chosen], device: str) -> list[str]:
    """What the chosen palettes cost on a device."""
    found: dict[str, int] = {}
    for one in chosen:
        for rule in [] if one.options is None else device_costs(one.options, device):
            told = f"{rule.what} ({rule.source})"
            found[told] = found.get(told, 0) + 1
    return [f"{told}: {format_count(count, 'weight')}" for told, count in found.items()]
