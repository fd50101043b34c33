"""``plan``, and the plan of ``palettize``: what each weight gets within a budget, or as another tool has it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mil_palettize.cli import output
from mil_palettize.cli.arguments import calibration_of
from mil_palettize.cli.budget_arguments import budget_of, check_import, limits_of
from mil_palettize.cli.common_arguments import samples_given
from mil_palettize.cli.loading import load
from mil_palettize.cli.running import check_given
from mil_palettize.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from mil_palettize.budget.limits import Budget
    from mil_palettize.budget.recipe import Recipe

_PLACES = ("out", "plot", "html")


def plan(options: argparse.Namespace) -> int:
    """The command ``plan``."""
    check_import(options)
    budget = budget_of(options) if options.imported is None else None
    samples = samples_given(options.calibrate)
    read = {
        "--calibrate": samples,
        "--sensitivity": options.sensitivity,
        "--labels": options.labels,
        "--import": options.imported,
        "--checkpoint": options.checkpoint,
    }
    for name in _PLACES:
        place = getattr(options, name)
        if place is not None:
            output.check_report_path(place, [options.source], read, f"--{name}")
            read[f"--{name}"] = place
    drawn = None if options.plot is None else _drawing(options.plot)
    check_given([options.source], samples)
    options.quiet, options.bias = False, None
    recipe = _imported(options) if budget is None else planned(options, budget)
    if options.out is not None:
        output.write_report(options.out, recipe.to_yaml())
    if drawn is not None:
        output.write_report(options.plot, drawn(recipe))
    if options.html is not None:
        output.write_report(options.html, recipe.to_html())
    output.show(recipe.to_json() if options.json else recipe.to_text(output.width()))
    return 0


def planned(options: argparse.Namespace, budget: Budget) -> Recipe:
    """Of ``palettize`` and ``plan``."""
    destination = getattr(options, "destination", None)
    if destination is not None and not options.dry_run:  # a plan may take minutes
        load("package.replacement").check_destination(Path(options.source), Path(destination), options.overwrite)
    recipe: Recipe = load("doors.budget").plan_mixed_bits(
        options.source,
        budget,
        limits=limits_of(options),
        calibration=calibration_of(options),
        target=options.target,
        importance=importance_of(options),
        labels=options.labels,
        logits=options.logits or (),
        measure=not options.unmeasured,
        workers=options.workers,
        progress=output.progress(options),
    )
    return recipe


def importance_of(options: argparse.Namespace) -> dict[str, np.ndarray] | None:
    """What ``--sensitivity`` holds."""
    if options.sensitivity is None:
        return None
    found: dict[str, np.ndarray] = load("doors.sensitivity").read_importance(options.sensitivity, options.source)
    return found


def _imported(options: argparse.Namespace) -> Recipe:
    recipe: Recipe = load("doors.imported_recipes").import_recipe(
        options.source,
        options.imported,
        options.checkpoint,
        name=options.selected_recipe,
        target=options.target,
        workers=options.workers,
        progress=output.progress(options),
    )
    return recipe


def _drawing(place: str) -> Callable[[Recipe], str | bytes]:
    """By the end of its name. Raises ConfigError for another, before a plan takes minutes."""
    kind = Path(place).suffix.lower().removeprefix(".")
    if kind == "svg":
        return lambda recipe: str(load("reports.curve").curve_svg(recipe.curve, recipe.point))
    pictures = load("budget.curve_picture")
    if kind not in pictures.KINDS:
        raise ConfigError(f"--plot {place} ends in none of .svg, .{', .'.join(pictures.KINDS)}")
    pictures.check_matplotlib(kind)
    return lambda recipe: bytes(pictures.curve_picture(recipe.curve, recipe.point, kind))
