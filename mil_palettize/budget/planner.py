"""The plan within a budget: the best choice of palettes, as a recipe."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence

from mil_palettize.budget.distortion import Evaluated
from mil_palettize.budget.knapsack import cheapest
from mil_palettize.budget.limits import Budget
from mil_palettize.budget.reach import refuse_unreachable, stored_nbytes
from mil_palettize.budget.recipe import Chosen, Recipe
from mil_palettize.budget.weighed_choices import Weighed
from mil_palettize.planning.device_rules import costs as device_costs
from mil_palettize.reports.curve import Point
from mil_palettize.text import format_count

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
    picked, exact, gap = _within_bytes(from_all, budget.nbytes)
    return recipe_of(from_all, picked, exact, gap, device)


def _within_bytes(from_all: Weighed, nbytes: int) -> tuple[Sequence[int], int, float]:
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
    from_all: Weighed, picked: Sequence[int], nbytes: int, gap: float | None, device: str, uniform: str = "",
    reasons: Mapping[int, str] | None = None,
) -> Recipe:  # fmt: skip
    """With the candidate of each weight that is ``picked``, in a package of ``nbytes``. ``gap``, ``uniform``: as the
    recipe has them; ``reasons``: by number, why weights that could get a palette are left alone, where it is not for
    the sum of errors."""
    told = reasons or {}
    chosen = tuple(
        _chosen(one, i, told.get(number, f"it can have no {uniform}" if uniform else ""))
        for number, (one, i) in enumerate(zip(from_all.choices, picked, strict=True))
    )
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
        notes=(*from_all.notes, *_notes(chosen, device)),
        left=from_all.left,
        uniform=uniform,
        weight_ranks=from_all.weight_ranks,
    )


def _chosen(one: Evaluated, picked: int, reason: str) -> Chosen:
    """``reason``: why it is left alone, if it is, "" for the sum of errors."""
    choice, candidate = one.choice, one.choice.candidates[picked]
    before = choice.candidates[0].stored_nbytes
    weight = choice.weight
    why = "" if candidate.options is not None else choice.why_dense or reason or _within(one)
    return Chosen(
        choice.names, weight.shape, weight.dtype, candidate.options, before, candidate.stored_nbytes,
        one.errors[picked], why,
    )  # fmt: skip


def _within(one: Evaluated) -> str:
    """Why a weight that has palettes gets none: what the best of them would have saved."""
    smaller = [pair for pair in zip(one.errors, one.choice.candidates, strict=True) if pair[1].nbytes < 0]
    if not smaller:
        return "no palette of it makes the package smaller, its op included"
    error, best = min(smaller, key=lambda pair: (pair[0], pair[1].nbytes))
    lost = f"{Point(0, error).told} told beforehand" if error > 0 else "no error"
    return f"there is room for it as it is; {best}, its best palette, would save {-best.nbytes:,} bytes, with {lost}"


def _notes(chosen: Iterable[Chosen], device: str) -> list[str]:
    """What the chosen palettes cost on a device."""
    found: dict[str, int] = {}
    for one in chosen:
        for rule in [] if one.options is None else device_costs(one.options, device):
            told = f"{rule.what} ({rule.source})"
            found[told] = found.get(told, 0) + 1
    return [f"{told}: {format_count(count, 'weight')}" for told, count in found.items()]
