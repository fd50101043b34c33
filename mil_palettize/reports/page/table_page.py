"""A page of figures, notes and tables, of what is no comparison: it needs nothing else, and looks as that one does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mil_palettize.reports.page.charts import escaped
from mil_palettize.reports.page.style import STYLE

_TABLES = """
.scroll th:first-child{width:auto;text-align:left;white-space:normal;overflow-wrap:anywhere;font-weight:600}
.scroll td,.scroll thead th{text-align:left}
.scroll th:nth-child(2){font-weight:400;min-width:0}
.scroll td.number,.scroll thead th.number{text-align:right}
.scroll td:last-child{white-space:normal}
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


def table_page(title: str, tiles: Sequence[Tile], notes: Sequence[str], tables: Sequence[Table]) -> str:
    """The whole page, to be saved as UTF-8. Tables without rows are left out."""
    listed = "".join(f"<li>{escaped(note)}</li>" for note in notes)
    aside = f'<aside class="notes" aria-label="Notes"><ul>{listed}</ul></aside>\n' if notes else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escaped(title)}</title>\n<style>{STYLE}{_TABLES}</style>\n</head>\n<body>\n"
        f'<header>\n<h1>{escaped(title)}</h1>\n<ul class="tiles" role="list">{"".join(map(_tile, tiles))}</ul>\n'
        f"{aside}</header>\n" + "\n".join(_table(table) for table in tables if table.rows) + "\n</body>\n</html>\n"
    )


def _tile(tile: Tile) -> str:
    return (
        f'<li><span class="what">{escaped(tile.what)}</span><span class="large">{escaped(tile.figure)}</span>'
        f"<span>{escaped(tile.detail)}</span></li>"
    )


def _table(table: Table) -> str:
    header = "".join(
        f'<th scope="col"{_kind(i, table)}>{escaped(column)}</th>' for i, column in enumerate(table.header)
    )
    rows = "\n".join(_row(row, table) for row in table.rows)
    content = f'<div class="scroll"><table><thead><tr>{header}</tr></thead><tbody>\n{rows}\n</tbody></table></div>'
    if table.folded:
        content = f"<details><summary>{len(table.rows):,}</summary>{content}</details>"
    return f"<section>\n<h2>{escaped(table.heading)}</h2>\n{content}\n</section>"


def _row(row: Sequence[str], table: Table) -> str:
    first, *others = row
    cells = "".join(f"<td{_kind(i, table)}>{escaped(cell)}</td>" for i, cell in enumerate(others, start=1))
    return f'<tr><th scope="row"><bdi>{escaped(first)}</bdi></th>{cells}</tr>'


def _kind(column: int, table: Table) -> str:
    return ' class="number"' if column in table.numbers else ""
