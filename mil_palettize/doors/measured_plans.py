"""The smallest plan whose outputs measure as well as is asked for: plans are written, run and compared."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mil_palettize.budget.limits import Budget, Limits
from mil_palettize.budget.planner import Weighed, planned
from mil_palettize.budget.recipe import Recipe
from mil_palettize.calibration.request import Calibration
from mil_palettize.doors.package import palettize_package
from mil_palettize.errors import EvaluationError

_TRIALS = 9
_NEAR = 1.02  # sizes that lie no farther apart are as good as one
Measure = Callable[[Recipe], float]


def smallest_reaching(found: Weighed, decibels: float, limits: Limits, measure: Measure) -> Recipe:
    """Of plans of ``found`` the smallest that ``measure`` (signal to noise of the outputs) has at ``decibels`` or
    above: by bisection over their sizes, as far as two per cent. The package as it is always does."""
    failing, passing = found.smallest, max(found.base, found.smallest)
    best = planned(found, Budget(nbytes=passing), limits.device)
    trials: list[tuple[int, float]] = []
    for number in range(_TRIALS):
        if passing <= failing * _NEAR and number:
            break
        tried = failing if number == 0 else round((failing * passing) ** 0.5)
        recipe = planned(found, Budget(nbytes=tried), limits.device)
        trials.append((recipe.nbytes, measure(recipe)))
        if trials[-1][1] >= decibels:
            best, passing = recipe, recipe.nbytes
            if number == 0:
                break
        else:
            failing = tried
    return replace(best, trials=tuple(trials))


def measured_with(source: str | os.PathLike[str], target: object, calibration: Calibration | None) -> Measure:
    """Palettizes by a recipe into a temporary package, with palettes kept between, and compares: on the samples that
    ``calibration`` held out, else on inputs made up from the description."""
    kept = tempfile.TemporaryDirectory(prefix="mil_palettize_plans_")

    def measure(recipe: Recipe) -> float:
        with tempfile.TemporaryDirectory(prefix="mil_palettize_plan_") as folder:
            out = Path(folder, "planned.mlpackage")
            report = palettize_package(
                source, out, recipe, target=target, calibration=calibration or Calibration(method="weights"),
                check=True, resume=kept.name,
            )  # fmt: skip
        if report.check is None:
            raise EvaluationError(f"the outputs cannot be measured: {'; '.join(report.notes[-1:])}")
        return report.check.snr_db

    return measure
