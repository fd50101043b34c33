"""A page of figures, notes and tables, of what is no comparison: it needs nothing else, and looks as that one does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mil_palettize.reports.page.charts import CHART_STYLE, escaped
from mil_palettize.reports.page.frame import html_page, origin, section
from mil_palettize.reports.page.frame import tile as tile_shown

_TABLES = """
.scroll th:first-child{width:auto;text-align:left;white-space:normal;overflow-wrap:anywhere;font-weight:600}
.scroll td,.scroll thead th{text-align:left}
.scroll th:nth-child(2){font-weight:400;min-width:0}
.scroll td.number,.scroll thead th.right{text-align:right}
.scroll td:last-child{white-space:normal}
.scroll :is(th,td):nth-child(3){display:table-cell}
"""


@dataclass(frozen=True)
class Tile:
    """A figure in large letters: ``what`` it is, and a ``detail``."""

    what: str
    figure: str
    detail: str = ""


@dataclass(frozen=True)
class Table:
    """A section of the page; the first cell of a row is what it is of. ``numbers``: columns that are aligned right;
    ``folded``: hidden until it is asked for."""

    heading: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: frozenset[int] = frozenset()
    folded: bool = False


def table_page(
    title: str, tiles: Sequence[Tile], notes: Sequence[str], tables: Sequence[Table], sections: Sequence[str] = ()
) -> str:
    """The whole page, to be saved as UTF-8. Tables without rows are left out. ``sections``: HTML that stands before
    them."""
    items = "".join(f"<li>{escaped(note)}</li>" for note in notes)
    aside = f'<aside class="notes" aria-label="Notes"><ul>{items}</ul></aside>\n' if notes else ""
    header = (
        f'<header>\n<h1>{escaped(title)}</h1>\n<ul class="tiles" role="list">{"".join(map(_tile, tiles))}</ul>\n'
        f"{aside}</header>\n"
    )
    listed = (_table(table) for table in tables if table.rows)
    return html_page(title, [header, *sections, *listed, origin("")], CHART_STYLE + _TABLES)


def _tile(tile: Tile) -> str:
    return tile_shown(escaped(tile.what), escaped(tile.figure), escaped(tile.detail))


def _table(table: Table) -> str:
    header = "".join(
        f'<th scope="col"{_kind(i, table)}>{escaped(column)}</th>' for i, column in enumerate(table.header)
    )
    rows = "\n".join(_row(row, table) for row in table.rows)
    content = f'<div class="scroll"><table><thead><tr>{header}</tr></thead><tbody>\n{rows}\n</tbody></table></div>'
    if table.folded:
        content = f"<details><summary>{len(table.rows):,}</summary>{content}</details>"
    return section(escaped(table.heading), content)


def _row(row: Sequence[str], table: Table) -> str:
    first, *others = row
    cells = "".join(f"<td{_kind(i, table)}>{escaped(cell)}</td>" for i, cell in enumerate(others, start=1))
    return f'<tr><th scope="row"><bdi>{escaped(first)}</bdi></th>{cells}</tr>'


def _kind(column: int, table: Table) -> str:
    return ' class="right"' if column in table.numbers else ""
