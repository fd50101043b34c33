"""Size against quality: what other budgets would give, and uniform palettes beside them, as a picture (SVG)."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from mil_palettize.text import format_bytes

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _EDGE = 720, 440, 64, 48, 16
# In a page its variables apply, and its own rules for charts do not.
_STYLE = (
    ".curve{max-width:100%;height:auto}"
    ".curve text{font:12px sans-serif;fill:var(--muted,#444);text-anchor:start}.curve line{stroke:var(--line,#ddd)}"
    ".curve .plan{fill:none;stroke:var(--accent,#06c);stroke-width:2}.curve .uniform{fill:var(--muted,#999)}"
    ".curve .chosen{fill:var(--far,#c30)}"
)
_DECIBELS, _SIZES = 10, 6  # lines, about


@dataclass(frozen=True)
class Point:
    """A package's size, and the sum of its weights' errors, relative. ``label``: what it is, ""
    for a plan."""

    nbytes: int
    error: float
    label: str = ""

    @property
    def decibels(self) -> float:
        return math.inf if self.error <= 0 else -10.0 * math.log10(self.error)

    @property
    def told(self) -> str:
        """The error in words."""
        return f"{self.decibels:.1f} dB" if math.isfinite(self.decibels) else "none"


def curve_svg(points: Sequence[Point], chosen: Point) -> str:
    """Plans as a line, the others as dots with their labels, and ``chosen`` among them. Lossless ones, which no axis of
    decibels has a place for, are left out."""
    shown = [point for point in (*points, chosen) if math.isfinite(point.decibels)]
    if not shown:
        return _svg([])
    axes = _Axes(shown)
    plans = sorted((point for point in points if not point.label and point in shown), key=lambda p: p.nbytes)
    line = " ".join(f"{axes.x(p):.1f},{axes.y(p):.1f}" for p in plans)
    parts = [*axes.lines(), f'<polyline class="plan" points="{line}"/>']
    for point in shown:
        if point.label:
            kind = "chosen" if point is shown[-1] else "uniform"
            parts.append(f'<circle class="{kind}" cx="{axes.x(point):.1f}" cy="{axes.y(point):.1f}" r="5"/>')
            parts.append(_text(axes.x(point) + 8, axes.y(point) + 14, point.label))
    return _svg(parts)


class _Axes:
    def __init__(self, points: Sequence[Point]) -> None:
        sizes, decibels = [p.nbytes for p in points], [p.decibels for p in points]
        self.low, self.high = min(sizes), max(max(sizes), min(sizes) + 1)
        self.bottom, self.top = min(decibels), max(max(decibels), min(decibels) + 1.0)

    def x(self, point: Point) -> float:
        return self._x(point.nbytes)

    def y(self, point: Point) -> float:
        return self._y(point.decibels)

    def _x(self, nbytes: float) -> float:
        return _LEFT + (nbytes - self.low) / (self.high - self.low) * (_WIDTH - _LEFT - 5 * _EDGE)

    def _y(self, decibels: float) -> float:
        return _HEIGHT - _BOTTOM - (decibels - self.bottom) / (self.top - self.bottom) * (_HEIGHT - _BOTTOM - _EDGE)

    def lines(self) -> list[str]:
        """With what they stand for."""
        found = []
        for decibels in _ticks(self.bottom, self.top, _DECIBELS):
            y = self._y(decibels)
            found.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _EDGE}" y1="{y:.1f}" y2="{y:.1f}"/>')
            found.append(_text(8, y + 4, f"{decibels:g} dB"))
        for nbytes in _ticks(self.low, self.high, _SIZES):
            found.append(_text(self._x(nbytes) - 20, _HEIGHT - _EDGE, format_bytes(round(nbytes))))
        return found


def _ticks(low: float, high: float, most: int) -> list[float]:
    """At most so many numbers and one from ``low`` to ``high``, multiples of 1, 2 or 5 times a power of ten."""
    least = (high - low) / most
    power = 10.0 ** math.floor(math.log10(least))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least)
    return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _text(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}">{html.escape(text)}</text>'


def _svg(parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" class="curve" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}">'
    label = "<title>Size of the package against the error that is told beforehand</title>"
    return "\n".join([head, label, f"<style>{_STYLE}</style>", *parts, "</svg>"]) + "\n"
