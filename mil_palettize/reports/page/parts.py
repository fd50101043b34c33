"""Pieces of the page that its sections share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from mil_palettize.reports.page.charts import escaped
from mil_palettize.reports.shown_figures import decibels_text
from mil_palettize.text import VERSION


def whole(title: str, sections: Sequence[str], style: str) -> str:
    """A document of ``sections``; those that are "" are left out."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escaped(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        + "\n".join(filter(None, sections))
        + "\n</body>\n</html>\n"
    )


def origin(command: str) -> str:
    """When a page was made, by what, and ``command``, which makes it again."""
    made = f"Made {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by mil-palettize {VERSION}"
    again = f": <code>{escaped(command)}</code>" if command else "."
    return f'<footer class="muted">{made}{again}</footer>'


def section(heading: str, content: str) -> str:
    return f"<section>\n<h2>{heading}</h2>\n{content}\n</section>"


def name_html(name: str) -> str:
    """Isolated, since one written from right to left would turn what follows; one that may be cut has a tooltip."""
    text = escaped(name)
    return f'<bdi title="{text}">{text}</bdi>' if len(name) > 100 else f"<bdi>{text}</bdi>"


def with_unit(value: float) -> str:
    return f"{decibels_text(value)} dB" if math.isfinite(value) else decibels_text(value)
