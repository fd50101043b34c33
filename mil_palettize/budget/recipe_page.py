"""A recipe as one HTML page: the curve with the point that was chosen, what was measured, and every weight."""

from __future__ import annotations

from collections.abc import Sequence

from mil_palettize.budget.recipe import Chosen, Recipe
from mil_palettize.budget.trials import Trial
from mil_palettize.reports.curve import curve_svg
from mil_palettize.reports.page.charts import escaped
from mil_palettize.reports.page.parts import base_name, section, tile
from mil_palettize.reports.page.tables import Table, table_page
from mil_palettize.text import format_bytes, format_count


def recipe_page(recipe: Recipe) -> str:
    """The whole page, to be saved as UTF-8; it needs nothing else."""
    title = f"{base_name(recipe.source)}: palettes within {format_bytes(recipe.nbytes)}"
    ratio = recipe.bytes_before / recipe.nbytes
    tiles = [
        tile("Size", format_bytes(recipe.nbytes), f"of {format_bytes(recipe.bytes_before)}: {ratio:.2f}× smaller"),
        tile("Bits per weight", f"{recipe.bits_per_weight:.2f}", format_count(len(recipe.chosen), "weight")),
        tile("Error, as told beforehand", f"{recipe.point.decibels:.1f} dB", escaped(recipe.kind)),
        tile("Smallest possible", format_bytes(recipe.smallest), "with what may be chosen"),
    ]
    tables = [_trials(recipe.trials), _weights(recipe.chosen)]
    return table_page(title, tiles, recipe.notes, tables, [_curve(recipe)])


def _curve(recipe: Recipe) -> str:
    legend = (
        '<p class="muted">The line: the best plan of each size. Dots: uniform bits, one table for each weight, and '
        "what was chosen. Higher is better: errors are as they are told beforehand.</p>"
    )
    drawn = f'<figure style="max-width:60rem">{curve_svg(recipe.curve, recipe.point)}</figure>'
    return section("Size against error", legend + drawn)


def _trials(trials: Sequence[Trial]) -> Table:
    ordered = sorted(trials, key=lambda trial: trial.nbytes)
    rows = [(trial.kind, f"{trial.nbytes:,}", trial.quality) for trial in ordered]
    return Table("Measured", ("plan", "bytes", "at the outputs"), rows, numbers=frozenset({1}))


def _weights(chosen: Sequence[Chosen]) -> Table:
    rows = [
        (
            ", ".join(one.names),
            f"{'×'.join(map(str, one.shape))} {one.dtype}",
            one.palette,
            format_bytes(one.bytes_before),
            format_bytes(one.bytes_after),
            f"{one.error:.2g}",
        )
        for one in chosen
    ]
    header = ("weight", "shape", "palette", "before", "after", "error")
    return Table("Weights", header, rows, numbers=frozenset({3, 4, 5}))
