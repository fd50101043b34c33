"""What pages are made of: one file of HTML that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import PurePath

from mil_palettize.reports.page.charts import escaped
from mil_palettize.reports.page.style import STYLE
from mil_palettize.reports.shown_figures import decibels_text
from mil_palettize.text import VERSION


def html_page(title: str, sections: Iterable[str], chart_style: str = "") -> str:
    """The whole page, to be saved as UTF-8; of ``sections`` those that are not empty. ``title``: plain text."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escaped(title)}</title>\n<style>{STYLE}{chart_style}</style>\n</head>\n<body>\n"
        + "\n".join(filter(None, sections))
        + "\n</body>\n</html>\n"
    )


def tile(what: str, figure: str, detail: str) -> str:
    return f'<li><span class="what">{what}</span><span class="large">{figure}</span><span>{detail}</span></li>'


def section(heading: str, content: str) -> str:
    return f"<section>\n<h2>{heading}</h2>\n{content}\n</section>"


def base_name(path: str) -> str:
    return PurePath(path).name or path


def name_shown(name: str) -> str:
    """Isolated, since one written from right to left would turn what follows; one that may be cut has a tooltip."""
    text = escaped(name)
    return f'<bdi title="{text}">{text}</bdi>' if len(name) > 100 else f"<bdi>{text}</bdi>"


def with_unit(value: float) -> str:
    return f"{decibels_text(value)} dB" if math.isfinite(value) else decibels_text(value)


def origin(command: str) -> str:
    """When a page was made, by what, and ``command``, which makes it again."""
    made = f"Made {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC by mil-palettize {VERSION}"
    again = f": <code>{escaped(command)}</code>" if command else "."
    return f'<footer class="muted">{made}{again}</footer>'
