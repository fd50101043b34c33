"""Figures as they are shown, in a terminal and on the page."""

from __future__ import annotations

import math

from mil_palettize.reports.compared_parts import OutputComparison


def loss(snr_db: float, unknown: float = -math.inf) -> float:
    """To sort by, what lost most first: NaN has no place of its own and takes that of ``unknown``."""
    return unknown if math.isnan(snr_db) else snr_db


def decibels_text(value: float) -> str:
    """``31.4``; "equal" where nothing differs, "lost" where something is not finite any more, "nothing" (NaN) where
    nothing could be compared."""
    if math.isfinite(value):
        return f"{value:.1f}"
    if math.isnan(value):
        return "nothing"
    return "equal" if value > 0 else "lost"


STEPS = ("first", "middle", "last", "worst")  # calls of a sequence that are shown


def steps_row(output: OutputComparison) -> list[str]:
    """The SNR of :data:`STEPS`, the last of them with its number."""
    values = [step.snr_db for step in output.steps]
    worst = min(range(len(values)), key=lambda i: loss(values[i], unknown=math.inf))
    shown = [decibels_text(values[i]) for i in (0, len(values) // 2, len(values) - 1)]
    return [*shown, f"{decibels_text(values[worst])} at {worst + 1}"]
