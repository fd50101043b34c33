"""Tables on pages, and pages of little else than tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mil_palettize.reports.page.charts import CHART_STYLE, escaped
from mil_palettize.reports.page.parts import html_page, name_shown, notes_aside, origin, section

TABLE_STYLE = """
.listed td,.listed thead th{text-align:left}
.listed :is(td,thead th).right{text-align:right}
.listed td:last-child{white-space:normal}
.listed :is(th,td):nth-child(3){display:table-cell}
"""


@dataclass(frozen=True)
class Table:
    """A section of a page, of plain text; the first cell of a row is what it is of. ``numbers``: columns that are
    aligned right; ``folded``: hidden until it is asked for."""

    heading: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: frozenset[int] = frozenset()
    folded: bool = False


def table_page(
    title: str, tiles: Iterable[str], notes: Iterable[str], tables: Iterable[Table], sections: Iterable[str] = ()
) -> str:
    """The whole page, to be saved as UTF-8. ``title``, ``notes``: plain text; ``tiles``: as ``parts.tile`` makes them;
    ``sections``: HTML that stands before the tables."""
    figures = "".join(tiles)
    listed = f'<ul class="tiles" role="list">{figures}</ul>\n' if figures else ""
    header = f"<header>\n<h1>{name_shown(title)}</h1>\n{listed}{notes_aside(notes)}</header>"
    return html_page(title, [header, *sections, *map(table_section, tables), origin("")], CHART_STYLE + TABLE_STYLE)


def table_section(table: Table) -> str:
    """Nothing where there are no rows."""
    if not table.rows:
        return ""
    header = "".join(
        f'<th scope="col"{_kind(i, table)}>{escaped(column)}</th>' for i, column in enumerate(table.header)
    )
    rows = "\n".join(_row(row, table) for row in table.rows)
    listed = f'<table class="listed"><thead><tr>{header}</tr></thead><tbody>\n{rows}\n</tbody></table>'
    content = f'<div class="scroll">{listed}</div>'
    if table.folded:
        content = f"<details><summary>{len(table.rows):,}</summary>{content}</details>"
    return section(escaped(table.heading), content)


def _row(row: Sequence[str], table: Table) -> str:
    first, *others = row
    cells = "".join(f"<td{_kind(i, table)}>{escaped(cell)}</td>" for i, cell in enumerate(others, start=1))
    return f'<tr><th scope="row">{name_shown(first)}</th>{cells}</tr>'


def _kind(column: int, table: Table) -> str:
    return ' class="right"' if column in table.numbers else ""
