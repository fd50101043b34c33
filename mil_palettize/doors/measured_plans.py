"""Plans by what they measure: written, run and compared, beside uniform bits in as many bytes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mil_palettize.budget.limits import Budget, Limits
from mil_palettize.budget.planner import planned
from mil_palettize.budget.recipe import Recipe
from mil_palettize.budget.trials import Trial, kind_of
from mil_palettize.budget.uniform_plans import uniform_plans
from mil_palettize.budget.weighed_choices import Weighed
from mil_palettize.calibration.request import Calibration
from mil_palettize.doors.labelled_samples import Labelled
from mil_palettize.doors.package import palettize_package
from mil_palettize.errors import EvaluationError
from mil_palettize.reports.counting import Count, counting, untold
from mil_palettize.reports.progress import ProgressEvent

_TRIALS = 9  # sizes
_NEAR = 1.02  # sizes that lie no farther apart are as good as one
_NOT_REACHED = "no palette that loses anything measured as is asked for"
Measure = Callable[[Recipe], Trial]


class _Told:
    """A measure that tells of its trials: what is tried, beside what the one before measured. ``done`` of ``total``
    are; what these are is the caller's."""

    def __init__(self, measure: Measure, tell: Count, total: int) -> None:
        self.done = 0
        self._measure, self._tell, self._total = measure, tell, total
        self._last = ""

    def __call__(self, recipe: Recipe) -> Trial:
        before = f" ({self._last})" if self._last else ""
        self._tell(f"trying {kind_of(recipe.uniform)}, {recipe.nbytes:,} bytes{before}", self.done, self._total)
        trial = self._measure(recipe)
        self._last = str(trial)
        return trial

    def end(self) -> None:
        """Tell what the last one measured."""
        self._tell(self._last, self._total, self._total)


def smallest_reaching(
    found: Weighed, reaches: Callable[[Trial], bool], limits: Limits, measure: Measure, tell: Count = untold
) -> Recipe:
    """Of plans of ``found`` the smallest whose trial by ``measure`` ``reaches`` what is asked for: by bisection over
    their sizes, as far as two per cent. Where mixed bits do not, uniform ones of the size are tried. The package as it
    is always does. ``tell``: of each trial, in words, and how many sizes are done, of how many at most."""
    failing, passing = found.smallest, max(found.base, found.smallest)
    best, reached = planned(found, Budget(nbytes=passing), limits.device), False
    trials: dict[tuple[str, int], Trial] = {}
    told = _Told(measure, tell, _TRIALS)
    for number in range(_TRIALS):
        told.done = number
        if passing <= failing * _NEAR and number:
            break
        tried = failing if number == 0 else round((failing * passing) ** 0.5)
        recipe = _first_reaching(found, Budget(nbytes=tried), limits.device, reaches, told, trials)
        if recipe is None:
            failing = tried
            continue
        best, passing, reached = recipe, recipe.nbytes, True
        if number == 0:
            break
    told.end()
    notes = best.notes if reached else (*best.notes, _NOT_REACHED)
    return replace(best, trials=tuple(trials.values()), notes=notes)


def _first_reaching(
    found: Weighed, budget: Budget, device: str, reaches: Callable[[Trial], bool], measure: Measure,
    trials: dict[tuple[str, int], Trial],
) -> Recipe | None:  # fmt: skip
    """Within ``budget``. ``trials``: by granularity and bytes, are added to."""
    mixed = planned(found, budget, device)
    for number in range(2):
        for recipe in uniform_plans(found, budget, device) if number else [mixed]:
            key = recipe.uniform, recipe.nbytes
            if key not in trials:
                trials[key] = measure(recipe)
            if reaches(trials[key]):
                return recipe
    return None


def no_worse(plan: Recipe, uniform: Sequence[Recipe], measure: Measure, tell: Count = untold) -> Recipe:
    """``plan``, or that of ``uniform`` which measures better, where one does. ``tell``: of each trial, in words, and
    how many are done, of how many."""
    others = [one for one in uniform if one.requests() != plan.requests()]
    if not others or not plan.error:
        return plan
    same = [one.uniform for one in uniform if one not in others]
    recipes = [replace(plan, uniform="".join(same[:1])), *others]  # bits of a plan may turn out to be uniform
    trials, told = [], _Told(measure, tell, len(recipes))
    for told.done, recipe in enumerate(recipes):
        trials.append(told(recipe))
    told.end()
    best = max(range(len(recipes)), key=lambda i: trials[i].snr_db)  # the first of equal ones
    first, given = trials[0], trials[best]
    if best:
        note = f"{given.kind} are what is given: they measured {given.quality} at the outputs, "
        note += f"{first.kind} {first.quality}"
    else:
        rival = max(trials[1:], key=lambda trial: trial.snr_db)
        note = f"{first.kind} measured {first.quality} at the outputs, {rival.kind} {rival.quality}"
    return replace(recipes[best], trials=tuple(trials), notes=(*recipes[best].notes, note))


def predicted_no_worse(plan: Recipe, uniform: Sequence[Recipe], why: str) -> Recipe:
    """The same by what is predicted. ``why``: nothing was measured, for the notes."""
    best = min((plan, *uniform), key=lambda recipe: recipe.error)
    told = f"not measured beside uniform bits: {why}"
    if best.uniform:
        told = f"uniform bits are what is given, as mixed ones are predicted to lose more; {told}"
    return replace(best, notes=(*best.notes, told))


def measured_with(
    source: str | os.PathLike[str],
    target: object,
    calibration: Calibration | None,
    *,
    labelled: Labelled | None = None,
    importance: Mapping[str, Any] | None = None,
    workers: int | None = None,
    progress: bool | Callable[[ProgressEvent], object] | None = None,
) -> Measure:
    """Palettizes by a recipe into a temporary package, with palettes kept between, and compares: on the samples that
    ``calibration`` held out, else on inputs made up from the description. ``labelled``: those whose right classes are
    known, for accuracy; ``importance``, ``progress``: as ``palettize_package`` takes them."""
    kept = tempfile.TemporaryDirectory(prefix="mil_palettize_plans_")

    def measure(recipe: Recipe) -> Trial:
        with tempfile.TemporaryDirectory(prefix="mil_palettize_plan_") as folder:
            out = Path(folder, "planned.mlpackage")
            report = palettize_package(
                source, out, recipe, target=target, calibration=calibration or Calibration(method="weights"),
                importance=importance, check=labelled is None, resume=kept.name, workers=workers,
                progress=progress,
            )  # fmt: skip
            if labelled is not None:
                with counting(progress is True) as count:
                    snr_db, drop = labelled.measured(source, out, count)
                return Trial(recipe.nbytes, recipe.error, snr_db, recipe.uniform, drop)
        if report.check is None:
            raise EvaluationError(f"the outputs cannot be measured: {'; '.join(report.notes[-1:])}")
        return Trial(recipe.nbytes, recipe.error, report.check.snr_db, recipe.uniform)

    return measure
