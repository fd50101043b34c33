"""The page of a run that made a package: what became of each weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mil_palettize.reports.compared_models import ComparedModels
from mil_palettize.reports.page.charts import CHART_STYLE, escaped
from mil_palettize.reports.page.document import outputs_section
from mil_palettize.reports.page.parts import base_name, html_page, name_shown, origin, section


class Listed(NamedTuple):
    """A table. ``rows``: cells as text; what a row is of comes first."""

    heading: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def run_page(
    source: str, totals: Sequence[str], tables: Sequence[Listed], notes: Sequence[str], check: ComparedModels | None
) -> str:
    """``totals``: lines on the whole; ``check``: how the packages compare, where that was looked at."""
    name = base_name(source)
    listed = f'<aside class="notes" aria-label="Notes"><ul>{"".join(map(_item, notes))}</ul></aside>' if notes else ""
    lines = "".join(f"<p>{escaped(line)}</p>" for line in totals)
    header = f"<header>\n<h1>{name_shown(name)}</h1>\n{lines}{listed}</header>"
    sections = [header, "" if check is None else outputs_section(check.outputs), *map(_table, tables), origin("")]
    return html_page(name, sections, CHART_STYLE)


def _item(note: str) -> str:
    return f"<li>{escaped(note)}</li>"


def _table(table: Listed) -> str:
    if not table.rows:
        return ""
    header = "".join(f'<th scope="col">{escaped(cell)}</th>' for cell in table.header)
    rows = "".join(map(_row, table.rows))
    content = f'<table class="listed"><thead><tr>{header}</tr></thead><tbody>{rows}</tbody></table>'
    return section(escaped(table.heading), f'<div class="scroll">{content}</div>')


def _row(cells: Sequence[str]) -> str:
    others = "".join(f"<td>{escaped(cell)}</td>" for cell in cells[1:])
    return f'<tr><th scope="row">{name_shown(cells[0])}</th>{others}</tr>\n'
