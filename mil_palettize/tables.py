"""Text for terminals: aligned tables, byte counts, names grouped by what is said of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


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


def shorten(text: str, width: int) -> str:
    """``text`` in at most ``width`` columns, cut in the middle: both ends of a weight's name tell it apart."""
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: int | None = None) -> str:
    """Columns two spaces apart; those from index ``right`` on are aligned right."""
    first_right = len(header) if right is None else right
    table = [header, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    lines = []
    for row in table:
        cells = [
            c.rjust(w) if i >= first_right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("─" * w for w in widths))
    return "\n".join(lines)


def grouped_lines(items: Iterable[tuple[str, str]], width: int, *, names: int = 3) -> list[str]:
    """(what, name) pairs as one line per "what", most frequent first: ``   12  what: a, b, c, …``."""
    groups: dict[str, list[str]] = {}
    for what, name in items:
        groups.setdefault(what, []).append(name)
    lines = []
    for what, of in sorted(groups.items(), key=lambda item: -len(item[1])):
        shown = ", ".join(of[:names]) + (", …" if len(of) > names else "")
        lines.append(f"{len(of):5}  {what}: {shorten(shown, max(24, width - 9 - len(what)))}")
    return lines
