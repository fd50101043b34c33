"""Words for terminals: byte counts, plurals, names made printable and shortened."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

VERSION = "0.1.0"  # of this library


def format_bytes(count: int) -> str:
    """``882 B``, ``12.3 kB``, ``1.98 MB``: decimal units, three digits."""
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(value) < 999.5 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}"


def format_count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def format_some(parts: Sequence[str], most: int = 5, total: int | None = None) -> str:
    """The first few, and how many more there are: what a package has thousands of is no sentence. ``total``: of all, of
    which ``parts`` are the first."""
    others = (len(parts) if total is None else total) - most
    more = f" and {others} more" if others > 0 else ""
    return ", ".join(parts[:most]) + more


def format_first(sentences: Sequence[str], most: int = 3) -> str:
    """The first few, and how many more there are."""
    more = f" (and {len(sentences) - most} more)" if len(sentences) > most else ""
    return "; ".join(sentences[:most]) + more


def printable(text: str) -> str:
    """``text`` with control characters escaped: names come from packages, and terminals obey them."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def columns(text: str) -> int:
    """Terminal columns ``text`` takes: East Asian wide characters two, combining ones none."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


def shorten(text: str, width: int) -> str:
    """``text`` in at most ``width`` columns, cut in the middle: both ends of a weight's name tell it apart."""
    if columns(text) <= width:
        return text
    head = _start(text, (width - 1) // 2)
    return f"{head}…{_start(text[::-1], width - 1 - columns(head))[::-1]}"


def _start(text: str, width: int) -> str:
    cut = text[: max(width, 0)]
    while columns(cut) > width:
        cut = cut[:-1]
    return cut


def python_name(text: str) -> tuple[str, str] | None:
    """FILE.py and NAME of ``FILE.py:NAME``; None for what is no such thing."""
    file, _, name = text.rpartition(":")
    return (file, name) if file.endswith(".py") and name.isidentifier() else None
