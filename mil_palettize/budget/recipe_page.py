"""A recipe as one HTML page: the curve with the point that was chosen, what was measured, and every weight."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mil_palettize.budget.recipe import Chosen, Recipe
from mil_palettize.budget.trials import Trial
from mil_palettize.reports.curve import curve_svg
from mil_palettize.reports.page.charts import escaped
from mil_palettize.reports.page.frame import base_name, html_page, name_shown, section, tile
from mil_palettize.text import format_bytes, format_count

_STYLE = """
svg{display:block;width:100%;height:auto;max-width:60rem}
.plain th:first-child{width:auto;text-align:left;white-space:normal;min-width:9rem}
.plain th:nth-child(2){text-align:right;min-width:0}
.plain th:nth-child(3),.plain td:nth-child(3){display:table-cell;text-align:left}
"""


def recipe_page(recipe: Recipe) -> str:
    """The whole page, to be saved as UTF-8; it needs nothing else."""
    title = f"{base_name(recipe.source)}: palettes within {format_bytes(recipe.nbytes)}"
    sections = [_header(recipe), _curve(recipe), _trials(recipe.trials), _weights(recipe.chosen)]
    return html_page(title, sections, _STYLE)


def _header(recipe: Recipe) -> str:
    ratio = recipe.bytes_before / recipe.nbytes
    tiles = [
        tile("Size", format_bytes(recipe.nbytes), f"of {format_bytes(recipe.bytes_before)}: {ratio:.2f}× smaller"),
        tile("Bits per weight", f"{recipe.bits_per_weight:.2f}", format_count(len(recipe.chosen), "weight")),
        tile("Error, as told beforehand", f"{recipe.point.decibels:.1f} dB", escaped(recipe.kind)),
        tile("Smallest possible", format_bytes(recipe.smallest), "with what may be chosen"),
    ]
    notes = "".join(f"<li>{escaped(note)}</li>" for note in recipe.notes)
    aside = f'<aside class="notes" aria-label="Notes"><ul>{notes}</ul></aside>\n' if notes else ""
    return (
        f'<header>\n<h1>{name_shown(base_name(recipe.source))} <span class="arrow">→</span> '
        f"{format_bytes(recipe.nbytes)}</h1>\n"
        f'<ul class="tiles" role="list">{"".join(tiles)}</ul>\n{aside}</header>\n'
    )


def _curve(recipe: Recipe) -> str:
    legend = (
        '<p class="muted">The line: the best plan of each size. Dots: uniform bits, one table for each weight, and '
        "what was chosen. Higher is better: errors are as they are told beforehand.</p>"
    )
    return section("Size against error", f"{legend}<figure>{curve_svg(recipe.curve, recipe.point)}</figure>")


def _trials(trials: Sequence[Trial]) -> str:
    if not trials:
        return ""
    rows = (
        [escaped(trial.kind), f"{trial.nbytes:,}", escaped(trial.quality)]
        for trial in sorted(trials, key=lambda trial: trial.nbytes)
    )
    return section("Measured", _table(("Plan", "Bytes", "At the outputs"), rows))


def _weights(chosen: Sequence[Chosen]) -> str:
    rows = (
        [
            ", ".join(map(name_shown, one.names)),
            escaped("×".join(map(str, one.shape)) + f" {one.dtype}"),
            escaped(one.palette),
            format_bytes(one.bytes_before),
            format_bytes(one.bytes_after),
            f"{one.error:.2g}",
        ]
        for one in chosen
    )
    return section("Weights", _table(("Weight", "Shape", "Palette", "Before", "After", "Error"), rows))


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    header = "".join(f'<th scope="col">{column}</th>' for column in columns)
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in others)}</tr>\n'
        for first, *others in rows
    )
    table = f'<table class="plain"><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="scroll">{table}</div>'
