"""Bits under a budget, for packages on disk: a recipe, or the package that it makes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any

from mil_palettize.budget.limits import Budget, Limits
from mil_palettize.budget.planner import planned
from mil_palettize.budget.recipe import Recipe
from mil_palettize.budget.trials import Trial
from mil_palettize.budget.uniform_plans import uniform_plans
from mil_palettize.budget.weighed_choices import Source, Weighed
from mil_palettize.budget.weighing import weighed
from mil_palettize.calibration.request import Calibration, checked_calibration
from mil_palettize.doors.budget_costs import element_costs
from mil_palettize.doors.labelled_samples import labelled_samples
from mil_palettize.doors.measured_plans import (
    Measure,
    measured_with,
    no_worse,
    predicted_no_worse,
    smallest_reaching,
)
from mil_palettize.encoding.workers import Workers
from mil_palettize.errors import ConfigError, EvaluationError, UnsupportedOpError, memory_told
from mil_palettize.program.opsets.move import parse_target
from mil_palettize.reports.counting import Count
from mil_palettize.reports.progress import ProgressEvent, make_progress
from mil_palettize.request.importance import checked_importance
from mil_palettize.text import format_bytes

PathLike = str | os.PathLike[str]
_MOST = 100_000_000  # bytes of packages that are written and run where nobody asked for it


@memory_told()
def plan_mixed_bits(
    source: PathLike,
    budget: Budget | int,
    *,
    limits: Limits | None = None,
    calibration: Calibration | None = None,
    target: object = None,
    importance: Mapping[str, Any] | None = None,
    labels: Any = None,
    logits: Sequence[str] = (),
    measure: bool = True,
    workers: int | None = None,
    progress: bool | Callable[[ProgressEvent], object] | None = None,
) -> Recipe:
    """The palettes, one for each weight of the package at ``source``, that lose least within ``budget``.

    ``recipe.nbytes`` is what ``palettize_package(source, ..., recipe.config, target=target)`` writes, to the byte.

    Args:
        source: a ``.mlpackage`` folder, which is only read.
        budget: a :class:`Budget`, or bytes of the whole package.
        limits: what palettes may be chosen, and what is to keep more (see :class:`Limits`).
        calibration: its samples tell what a palette loses: what compensation leaves of an error under the moments of
            the op's inputs, in units of the noise that a palette in its place made at the model's outputs. Without it,
            or with method "weights", the weights alone tell: under moments that inputs of most networks have in common,
            relative to what the op gives.
        target: opset that the package will be moved up to; groups need iOS18.
        importance: how much elements of a weight count, as ``palettize_package`` takes it, which makes the palettes by
            it too: relative to the mean of the weight, so that it tells nothing of one weight against another.
        labels: for ``max_drop``, the right classes of the samples of ``calibration``, as ``compare`` takes them;
            accuracy is that of the held out samples.
        logits: outputs whose last axis is of classes, as ``compare`` takes them.
        measure: the plan is written to a temporary package and run beside uniform bits within the same budget (one
            table per weight, and the groups that are predicted to lose least), on the samples that calibration held
            out, else on made-up inputs; where uniform bits measure better they are what is given. That needs torch and
            ops that it knows, and is done of packages of up to 100 MB; the notes say what came of it, or why nothing
            was measured. False: by what is predicted. For ``min_snr_db`` and ``max_drop`` plans are always measured.
        workers: threads, None for all processors; the plan does not depend on them.
        progress: True for a bar, or a function of :class:`ProgressEvent`; also of the palettes of plans that are run.

    Returns:
        The recipe: a palette for each weight, with bytes and errors; its ``config`` is coremltools'.

    Raises:
        ConfigError: for a wrong request.
        PackageError: for a package that cannot be read.
        PlanError: for a budget that cannot be reached, with the smallest that can.
        EvaluationError: with samples, for those that the model does not take.
        UnsupportedOpError: with samples, for ops that the evaluator does not know.

    >>> recipe = plan_mixed_bits("fixtures/conv_fp16_ios18.mlpackage", Budget(bits_per_weight=5), measure=False)
    >>> recipe.bits_per_weight <= 5
    True
    """
    wanted = budget if isinstance(budget, Budget) else Budget(nbytes=_whole(budget))
    limits = _checked_limits(limits)
    calibration = checked_calibration(calibration)
    counted = checked_importance(importance)
    goal = None if target is None else parse_target(target)
    labelled = None
    if wanted.max_drop is not None:
        labelled = labelled_samples(source, calibration, labels, logits)
    elif labels is not None or logits:
        raise ConfigError("labels and logits go with max_drop, which they are looked at for")
    shown = make_progress(progress)
    try:
        with Workers(workers) as pool:
            costs = None
            if calibration is not None and calibration.method != "weights":
                costs = partial(element_costs, calibration=calibration, tell=shown.calibrate)
            found = weighed(Source(source, goal), limits, wanted, pool, shown.calibrate, costs, counted)
        run = measured_with(
            source, goal, calibration, labelled=labelled, importance=importance, workers=workers, progress=progress
        )
        if wanted.measured:
            recipe = smallest_reaching(found, partial(_reaches, wanted), limits, run, shown.trial)
            return recipe if labelled is None else replace(recipe, notes=(*recipe.notes, labelled.note))
        return _best(found, wanted, limits.device, run if measure else None, shown.trial)
    finally:
        shown.close()


def _reaches(wanted: Budget, trial: Trial) -> bool:
    if wanted.max_drop is not None:
        return trial.accuracy_drop is not None and trial.accuracy_drop <= wanted.max_drop
    assert wanted.min_snr_db is not None
    return trial.snr_db >= wanted.min_snr_db


def _best(found: Weighed, wanted: Budget, device: str, measure: Measure | None, tell: Count) -> Recipe:
    """The plan, or uniform bits where these are better."""
    plan, uniform = planned(found, wanted, device), uniform_plans(found, wanted, device)
    if measure is None:
        return predicted_no_worse(plan, uniform, "it was not asked for")
    if found.nbytes > _MOST:
        return predicted_no_worse(plan, uniform, f"the package has more than {format_bytes(_MOST)}")
    if find_spec("torch") is None:
        return predicted_no_worse(plan, uniform, "that needs torch: pip install 'mil-palettize[torch]'")
    try:
        return no_worse(plan, uniform, measure, tell)
    except (EvaluationError, UnsupportedOpError) as error:
        return predicted_no_worse(plan, uniform, str(error))


def _checked_limits(limits: object) -> Limits:
    if limits is None:
        return Limits()
    if not isinstance(limits, Limits):
        raise ConfigError(f"limits is {limits!r}; give Limits(...)")
    return limits


def _whole(budget: object) -> int:
    if isinstance(budget, bool) or not isinstance(budget, int):
        raise ConfigError(f"budget is {budget!r}; give a Budget, or bytes of the whole package as a whole number")
    return budget
