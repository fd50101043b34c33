"""Bits under a budget, for packages on disk: a recipe, or the package that it makes."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from mil_palettize.budget.limits import Budget, Limits
from mil_palettize.budget.planner import Source, planned, weighed
from mil_palettize.budget.recipe import Recipe
from mil_palettize.calibration.request import Calibration, checked_calibration
from mil_palettize.doors.budget_costs import element_costs
from mil_palettize.doors.measured_plans import measured_with, smallest_reaching
from mil_palettize.encoding.workers import Workers
from mil_palettize.errors import ConfigError, memory_told
from mil_palettize.program.opsets.move import parse_target
from mil_palettize.reports.progress import ProgressEvent, make_progress

PathLike = str | os.PathLike[str]


@memory_told()
def plan_mixed_bits(
    source: PathLike,
    budget: Budget | int,
    *,
    limits: Limits | None = None,
    calibration: Calibration | None = None,
    target: object = None,
    workers: int | None = None,
    progress: bool | Callable[[ProgressEvent], object] | None = None,
) -> Recipe:
    """The palettes, one for each weight of the package at ``source``, that lose least within ``budget``.

    ``budget``: a :class:`Budget`, or bytes of the whole package. ``limits``: what palettes may be chosen, and what is
    to keep more (see :class:`Limits`). ``target``: opset that the package will be moved up to; groups need iOS18.
    ``workers``: threads, None for all processors; the plan does not depend on them. ``progress``: True for a bar, or a
    function of :class:`ProgressEvent`.

    ``calibration``: its samples tell what a palette loses: what compensation leaves of an error under the moments of
    the op's inputs, in units of the noise that a palette in its place made at the model's outputs. Without it, or with
    method "weights", the weights alone tell: under moments that inputs of most networks have in common, relative
    to what the op gives. For ``min_snr_db`` plans are written to a temporary package and compared, on the samples that
    calibration held out, else on made-up inputs (needs torch). ``recipe.nbytes`` is what
    ``palettize_package(source, ..., recipe.config, target=target)`` writes, to the byte.

    Raises ConfigError for a wrong request, PackageError for a package that cannot be read, PlanError for a budget that
    cannot be reached, with the smallest that can; with samples also EvaluationError and UnsupportedOpError.
    """
    wanted = budget if isinstance(budget, Budget) else Budget(nbytes=_whole(budget))
    limits = Limits() if limits is None else limits
    calibration = checked_calibration(calibration)
    goal = None if target is None else parse_target(target)
    shown = make_progress(progress)
    try:
        with Workers(workers) as pool:
            costs = None
            if calibration is not None and calibration.method != "weights":
                costs = partial(element_costs, calibration=calibration, tell=shown.calibrate)
            found = weighed(Source(source, goal), limits, wanted, pool, shown.calibrate, costs)
            if wanted.min_snr_db is None:
                return planned(found, wanted, limits.device)
    finally:
        shown.close()
    return smallest_reaching(found, wanted.min_snr_db, limits, measured_with(source, goal, calibration))


def _whole(budget: object) -> int:
    if isinstance(budget, bool) or not isinstance(budget, int):
        raise ConfigError(f"budget is {budget!r}; give a Budget, or bytes of the whole package as a whole number")
    return budget
