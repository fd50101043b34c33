"""Tables and lists for terminals: aligned columns, names grouped by what is said of them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from mil_palettize.text import columns, shorten

_GAP = "  "
NARROWEST = 40  # columns; less is not laid out for


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


def wrapped_lines(texts: Iterable[str], width: int) -> list[str]:
    """Each of ``texts`` from the margin on, what is wrapped further in."""
    return [line for text in texts for line in _wrapped(text, width, "", 2 * _GAP)]
