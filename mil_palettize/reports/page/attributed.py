"""Which weights make the error of outputs, along the network and as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mil_palettize.reports.attribution import Attribution, WeightLoss
from mil_palettize.reports.compared_parts import OpComparison
from mil_palettize.reports.page.charts import escaped, share_chart
from mil_palettize.reports.page.frame import name_shown, section, with_unit

_SHOWN = 20
_COLUMNS = ("", "Weight", "Alone", "Share", "So far", "Without")


def attributed(found: Sequence[Attribution]) -> str:
    """A section, "" where nothing was attributed."""
    return section("Where it was lost", "".join(map(_table, found))) if found else ""


def shares_along(ops: Sequence[OpComparison], found: Sequence[Attribution]) -> str:
    """A chart of what each weight makes of the error, at the place of the first op that reads it; "" where no such op
    is among ``ops``."""
    places = {op.name: position for position, op in enumerate(ops)}
    shares: dict[int, float] = {}
    for one, share, _ in (row for part in found for row in part.rows):
        if one.reader in places and math.isfinite(share):
            position = places[one.reader]
            shares[position] = shares.get(position, 0.0) + share
    return share_chart(shares, len(ops)) if shares else ""


def _table(found: Attribution) -> str:
    header = "".join(f'<th scope="col">{column}</th>' for column in _COLUMNS)
    rows = "".join(_row(rank, *row) for rank, row in enumerate(found.rows[:_SHOWN], start=1))
    more = len(found.losses) - _SHOWN
    rest = f" {more} more do less." if more > 0 else ""
    heading = f"<h3>{name_shown(found.function)}</h3>" if found.function else ""
    return (
        f'{heading}<p class="muted">{escaped(found.sentence())}{rest}</p><div class="scroll"><table class="losses">'
        f"<thead><tr>{header}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _row(rank: int, one: WeightLoss, share: float, total: float) -> str:
    without = "" if one.snr_db_without is None else with_unit(one.snr_db_without)
    shares = "".join(f"<td>{value:.1%}</td>" if math.isfinite(value) else "<td></td>" for value in (share, total))
    return (
        f'<tr><td><span class="rank">{rank}</span></td><th scope="row">{name_shown(one.name)}</th>'
        f"<td>{with_unit(one.snr_db)}</td>{shares}<td>{without}</td></tr>\n"
    )
