"""What a plan of mixed bits has to be better than: uniform bits within the same budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mil_palettize.budget.granularities import GRANULARITIES, Granularity
from mil_palettize.budget.limits import Budget
from mil_palettize.budget.planner import recipe_of
from mil_palettize.budget.recipe import Recipe
from mil_palettize.budget.weighed_choices import Weighed

_NEAR = 4096  # bytes that sums of sizes may be off by


def uniform_plans(from_all: Weighed, budget: Budget, device: str) -> list[Recipe]:
    """With the most bits within ``budget``: one table for each weight, and of the other granularities the one that is
    predicted to lose least; those of them that there are."""
    found = [found for sizes in GRANULARITIES if (found := _largest(from_all, budget, sizes, device)) is not None]
    one_table = [recipe for granularity, recipe in found if not granularity.group_size]
    grouped = [recipe for granularity, recipe in found if granularity.group_size]
    return one_table + sorted(grouped, key=lambda recipe: recipe.error)[:1]


def _largest(
    from_all: Weighed, budget: Budget, falling: Sequence[Granularity], device: str
) -> tuple[Granularity, Recipe] | None:
    """The first of ``falling`` that fits."""
    for granularity, picked in _all_picked(from_all, falling):
        nbytes = _fitting(from_all, budget, picked)
        if nbytes is not None:
            return granularity, recipe_of(from_all, picked, nbytes, None, device, str(granularity))
    return None


def _all_picked(
    from_all: Weighed, granularities: Sequence[Granularity]
) -> Iterator[tuple[Granularity, tuple[int, ...]]]:
    for granularity in granularities:
        picked = granularity.picked(from_all.choices)
        if picked is not None:
            yield granularity, picked


def _fitting(from_all: Weighed, budget: Budget, picked: Sequence[int]) -> int | None:
    """Bytes of the package, None where they are too many."""
    candidates = [one.choice.candidates[i] for one, i in zip(from_all.choices, picked, strict=True)]
    if budget.bits_per_weight is not None:
        stored = sum(candidate.stored_nbytes for candidate in candidates)
        return from_all.written_nbytes(picked) if 8.0 * stored <= budget.bits_per_weight * from_all.elements else None
    assert budget.nbytes is not None
    if from_all.base + sum(candidate.nbytes for candidate in candidates) > budget.nbytes + _NEAR:
        return None
    exact = from_all.written_nbytes(picked)
    return exact if exact <= budget.nbytes else None
