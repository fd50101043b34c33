"""Text for terminals: aligned tables, byte counts, names grouped by what is said of them."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Iterable, Sequence

_GAP = "  "
NARROWEST = 40  # columns; less is not laid out for


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


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], width: int, *, right: int | None = None) -> str:
    """Columns two spaces apart; those from index ``right`` on are aligned right.

    Where that is wider than ``width``, the first column gets a line of its own and, if the rest still does not
    fit, so does the last one.
    """
    first_right = len(header) if right is None else right
    table = [header, *rows]
    widths = [max(columns(row[i]) for row in table) for i in range(len(header))]
    if sum(widths) + len(_GAP) * (len(widths) - 1) <= width:
        lines = [_aligned(row, widths, first_right) for row in table]
        return "\n".join([lines[0], _GAP.join("─" * w for w in widths), *lines[1:]])
    inner = sum(widths[1:]) + len(_GAP) * (len(widths) - 1)
    last = len(header) if inner <= width else len(header) - 1
    lines = []
    rule = 0
    for row in table:
        lines.append(shorten(row[0], width))
        middle = _aligned(row[1:last], widths[1:last], first_right - 1)
        lines += _wrapped(middle, width, _GAP, 2 * _GAP) if columns(middle) > width - len(_GAP) else [_GAP + middle]
        lines += _wrapped(row[last], width, 2 * _GAP, 2 * _GAP) if row[last:] else []
        rule = rule or len(lines)
    lines.insert(rule, "─" * min(width, max(columns(line) for line in lines)))
    return "\n".join(lines)


def _aligned(row: Sequence[str], widths: Sequence[int], first_right: int) -> str:
    cells = []
    for i, (cell, width) in enumerate(zip(row, widths, strict=True)):
        space = " " * (width - columns(cell))
        cells.append(space + cell if i >= first_right else cell + space)
    return _GAP.join(cells).rstrip()


def _wrapped(text: str, width: int, first: str, following: str) -> list[str]:
    return textwrap.wrap(
        text,
        max(width, NARROWEST),
        initial_indent=first,
        subsequent_indent=following,
        break_on_hyphens=False,
    )


def grouped_lines(items: Iterable[tuple[str, str]], width: int, *, names: int = 3, groups: int = 10) -> list[str]:
    """(what, name) pairs by "what", most frequent first: ``   12  what: a, b, c, …``, wrapped at ``width``.

    Up to ``names`` names each; of the groups after the first ``groups``, their number."""
    found: dict[str, list[str]] = {}
    for what, name in items:
        found.setdefault(what, []).append(name)
    ordered = sorted(found.items(), key=lambda item: -len(item[1]))
    # One more line takes no more room than saying that there is one more.
    shown = ordered if len(ordered) <= groups + 1 else ordered[:groups]
    lines = []
    for what, of in shown:
        some = ", ".join(shorten(name, max(width, NARROWEST) - 10) for name in of[:names])
        text = f"{what}: {some}" + (", …" if len(of) > names else "")
        lines += _wrapped(text, width, f"{len(of):5}  ", " " * 7)
    rest = [len(of) for _, of in ordered[len(shown) :]]
    if rest:
        lines.append(f"{sum(rest):5}  in {len(rest)} other groups; the JSON report has them all")
    return lines


def indented_lines(texts: Iterable[str], width: int) -> list[str]:
    """Each of ``texts``, wrapped at ``width``."""
    return [line for text in texts for line in _wrapped(text, width, _GAP, 2 * _GAP)]
