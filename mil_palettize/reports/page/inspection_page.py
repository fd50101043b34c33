"""An :class:`Inspection` as one HTML page."""

from __future__ import annotations

from pathlib import PurePath

from mil_palettize.reports.inspection import (
    Inspection,
    constant_rows,
    feature_rows,
    head_lines,
    rest_lines,
    total_lines,
)
from mil_palettize.reports.orders import Order
from mil_palettize.reports.page.table_page import Table, Tile, table_page
from mil_palettize.text import format_bytes, format_count

_BYTES = 3  # column of a constant's row


def inspection_page(inspected: Inspection, sort: Order = "bytes", every: bool = False) -> str:
    """The whole page, to be saved as UTF-8. ``sort``, ``every``: as for :meth:`Inspection.listed`."""
    header, rows = constant_rows(inspected, sort, every)
    features, of_features = feature_rows(inspected)
    taken = sum(not constant.reason for constant in inspected.constants)
    tiles = [
        Tile("Package", format_bytes(inspected.nbytes), format_count(len(inspected.functions), "function")),
        Tile("Constants", f"{len(inspected.constants):,}", f"{format_bytes(inspected.constant_nbytes)} of values"),
        Tile("Would be palettized", f"{taken:,}", format_bytes(inspected.taken_nbytes)),
        Tile("Ops", f"{sum(inspected.op_counts.values()):,}", format_count(len(inspected.op_counts), "type")),
    ]
    notes = [*head_lines(inspected)[1:], *total_lines(inspected), *rest_lines(inspected, len(rows))]
    numbers = frozenset({_BYTES, *((header.index("4 bits, dB"),) if "4 bits, dB" in header else ())})
    # The name stands in front, as in the other table.
    of_features = [(name, role, *others) for role, name, *others in of_features]
    return table_page(
        PurePath(inspected.path).name or inspected.path,
        tiles,
        notes,
        [
            Table("Inputs and outputs", ("name", "what", *features[2:]), of_features),
            Table("Constants" if every or inspected.match else "Weights", header, rows, numbers),
        ],
    )
