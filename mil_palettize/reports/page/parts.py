"""Pieces of the page that its sections share."""

from __future__ import annotations

import math

from mil_palettize.reports.model_comparison import decibels_text
from mil_palettize.reports.page.charts import escaped


def section(heading: str, content: str) -> str:
    return f"<section>\n<h2>{heading}</h2>\n{content}\n</section>"


def name_html(name: str) -> str:
    """Isolated, since one written from right to left would turn what follows; one that may be cut has a tooltip."""
    text = escaped(name)
    return f'<bdi title="{text}">{text}</bdi>' if len(name) > 100 else f"<bdi>{text}</bdi>"


def with_unit(value: float) -> str:
    return f"{decibels_text(value)} dB" if math.isfinite(value) else decibels_text(value)
