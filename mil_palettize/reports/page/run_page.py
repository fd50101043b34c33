"""The page of a run that made a package: what became of each weight."""

from __future__ import annotations

from collections.abc import Sequence

from mil_palettize.reports.compared_models import ComparedModels
from mil_palettize.reports.page.charts import escaped
from mil_palettize.reports.page.document import outputs_section
from mil_palettize.reports.page.parts import base_name
from mil_palettize.reports.page.tables import Table, table_page


def run_page(
    source: str, totals: Sequence[str], tables: Sequence[Table], notes: Sequence[str], check: ComparedModels | None
) -> str:
    """``totals``: lines on the whole; ``check``: how the packages compare, where that was looked at."""
    sections = ["".join(f"<p>{escaped(line)}</p>" for line in totals)]
    sections += [] if check is None else [outputs_section(check.outputs)]
    return table_page(base_name(source), [], notes, tables, sections)
