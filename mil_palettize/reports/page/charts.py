"""Charts as inline SVG. They take any width: what is drawn stretches, while dots, lines and text keep their size."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from mil_palettize.reports.compared_parts import OpComparison, WeightComparison
from mil_palettize.reports.shown_figures import decibels_text, loss
from mil_palettize.text import format_count, printable

# Heights in the chart of ops, in percent from the top: of results that are equal, of the highest and of the lowest
# finite SNR, of results that are lost (not finite, or no number), and of the row of numbers.
_EQUAL, _HIGHEST, _LOWEST, _LOST, _MARKS = 4, 13, 77, 85, 94
_MARK_GAP = 5.8  # percent of the width: marks of 16 pixels do not touch on a phone
_STEPS = (1, 2, 5, 10, 20, 50, 100)  # decibels between two lines
_MOST_LINES = 5
_MOST_TIPS = 500  # places that tell something where one points

# Its colours are variables, which the style of the page sets for light and dark.
CHART_STYLE = """
svg{display:block;width:100%;overflow:visible}
svg.ops{height:19rem}svg.steps{height:10rem}path.course{stroke:var(--accent);stroke-width:1px}svg.shares{height:5rem;margin-top:1.25rem}svg.histogram{height:8rem;margin-top:.75rem}
line{stroke:var(--line)}
text{fill:var(--muted);font-size:12px;text-anchor:end}
path{vector-effect:non-scaling-stroke;fill:none}
.dots{stroke:var(--accent);stroke-width:4px;stroke-linecap:round;stroke-opacity:.75}
.bad{stroke:var(--far);stroke-width:8px;stroke-opacity:1}
.tips rect{fill:transparent}
.bars{stroke:var(--accent);stroke-width:5px}
.lead{stroke:var(--far);stroke-opacity:.5}
circle{fill:var(--far)}
.number{fill:var(--card);text-anchor:middle;font-size:11px;font-weight:700}
.fill{fill:var(--accent);fill-opacity:.75}
.ticks{stroke:var(--text);stroke-width:1px}
.axis{display:flex;justify-content:space-between;color:var(--muted);font-size:.8125rem;margin-top:.25rem}
"""


def escaped(text: str) -> str:
    """For text and attributes alike: names come from packages, and control characters are not allowed in HTML."""
    return html.escape(printable(text))


def snr_chart(ops: Sequence[OpComparison], worst: Sequence[int]) -> str:
    """SNR by position. ``worst``: positions that are marked 1, 2, …."""
    values = [op.figures.snr_db for op in ops]
    low, high, step = _range([value for value in values if math.isfinite(value)])
    heights = [_height(value, low, high) for value in values]
    places = [100 * (i + 0.5) / len(ops) for i in range(len(ops))]
    label = f"SNR in dB of {format_count(len(ops), 'op')} in the order they are computed. " + _spoken(ops, worst)
    return _svg(
        "ops",
        label,
        _lines(values, low, high, step),
        _dots([(places[i], heights[i]) for i in range(len(ops))], "dots"),
        _dots([(places[i], heights[i]) for i in worst], "dots bad"),
        _marks([(places[i], heights[i]) for i in worst]),
        _tips(ops),
    )


def step_chart(values: Sequence[float]) -> str:
    """SNR by call of a sequence, at least one of them a number; a call with another figure has no place on the line."""
    low, high, step = _range([value for value in values if math.isfinite(value)])
    places = [(100 * (i + 0.5) / len(values), _height(value, low, high)) for i, value in enumerate(values)]
    finite = [place for place, value in zip(places, values, strict=True) if math.isfinite(value)]
    worst = min(v for v in values if math.isfinite(v))
    label = f"SNR in dB of {format_count(len(values), 'call')} of a sequence; the lowest is {decibels_text(worst)}."
    line = "L".join(f"{10 * x:.0f} {10 * y:.0f}" for x, y in finite)
    return _svg(
        "steps",
        label,
        _lines(list(values), low, high, step),
        _stretched(f'<path class="course" d="M{line}"/>'),
        _dots(places, "dots"),
    )


def share_chart(shares: Mapping[int, float], count: int) -> str:
    """Bars of ``shares`` (0 to 1) by position, of ``count``: under :func:`snr_chart`, with the same places."""
    highest = max(shares.values()) or 1
    worst = max(shares, key=lambda position: shares[position])
    label = f"Share of the error by position; the largest is {shares[worst]:.1%} at position {worst + 1}."
    bars = "".join(
        f"M{1000 * (position + 0.5) / count:.0f} 1000V{1000 - 1000 * share / highest:.0f}"
        for position, share in sorted(shares.items())
    )
    top = f'<line x1="0" x2="100%" y1="0" y2="0"/><text y="0" dx="-8" dy=".35em">{highest:.0%}</text>'
    return _svg("shares", label, top, _stretched(f'<path class="bars" d="{bars}"/>'))


def histogram(weight: WeightComparison) -> str:
    """How many values of the original lie where, and the values it has now as ticks below."""
    entries = [entry for entry in weight.entries if math.isfinite(entry)]
    low, high = domain(weight)
    scale = 1000 / ((high - low) or 1)
    label = f"Histogram of {weight.name}: values from {low:.3g} to {high:.3g}"
    label += f", {format_count(len(entries), 'palette value')} below" if entries else ""
    ticks = "".join(f"M{(entry - low) * scale:.0f} 850v150" for entry in sorted(set(entries)))
    bars = f'<path class="fill" d="{_bars(weight, low, scale)}"/>'
    return _svg("histogram", label, _stretched(bars + f'<path class="ticks" d="{ticks}"/>'))


def domain(weight: WeightComparison) -> tuple[float, float]:
    """What the axis of the histogram covers: a palette may reach further than the values did."""
    values = [value for value in (*weight.edges, *weight.entries) if math.isfinite(value)]
    return min(values), max(values)


def drawable(weight: WeightComparison) -> bool:
    """Whether a histogram was counted and has a place on an axis: NaN and infinite edges have none."""
    return bool(weight.counts) and all(map(math.isfinite, weight.edges))


def _svg(kind: str, label: str, *parts: str) -> str:
    return f'<svg class="{kind}" role="img" aria-label="{escaped(label)}">{"".join(parts)}</svg>'


def _stretched(content: str) -> str:
    """``content``, in thousandths of the chart's width and height."""
    return f'<svg width="100%" height="100%" viewBox="0 0 1000 1000" preserveAspectRatio="none">{content}</svg>'


def _spoken(ops: Sequence[OpComparison], worst: Sequence[int]) -> str:
    first = ops[worst[0]]
    return f"The worst is {first.name} at position {worst[0] + 1}: {decibels_text(first.figures.snr_db)}."


def _range(values: list[float]) -> tuple[float, float, float]:
    """Lowest and highest line, and how far apart lines are."""
    low, high = min(values, default=0), max(values, default=0)
    step = next((s for s in _STEPS if (high - low) / s <= _MOST_LINES), (high - low) / _MOST_LINES)
    low = math.floor(low / step) * step
    return low, max(math.ceil(high / step) * step, low + step), step


def _height(value: float, low: float, high: float) -> float:
    if math.isfinite(value):
        return _LOWEST - (_LOWEST - _HIGHEST) * (value - low) / (high - low)
    return _EQUAL if value > 0 else _LOST


def _lines(values: list[float], low: float, high: float, step: float) -> str:
    """Lines across with their labels: of the scale in decibels if any value is finite, and one each for equal and lost
    results if there are any."""
    lines = []
    if any(map(math.isfinite, values)):
        ticks = [low + i * step for i in range(round((high - low) / step) + 1)]
        lines += [(_height(tick, low, high), f"{tick:.0f} dB") for tick in ticks]
    # Where nothing was comparable is drawn where values are lost, and called so only where none are.
    beyond = sorted((value for value in values if not math.isfinite(value)), key=lambda value: not math.isnan(value))
    lines += list({_height(value, low, high): decibels_text(value) for value in beyond}.items())
    return "".join(
        f'<line x1="0" x2="100%" y1="{height:.1f}%" y2="{height:.1f}%"/>'
        f'<text y="{height:.1f}%" dx="-8" dy=".35em">{text}</text>'
        for height, text in lines
    )


def _dots(points: Sequence[tuple[float, float]], kind: str) -> str:
    """One path for all, each place once: thousands of circles would make a large file."""
    spots = dict.fromkeys((round(10 * x), round(10 * y)) for x, y in points)
    return _stretched(f'<path class="{kind}" d="{"".join(f"M{x} {y}h.1" for x, y in spots)}"/>')


def _tips(ops: Sequence[OpComparison]) -> str:
    """What is told where one points: of each op, or of the one that lost most of those that share a place."""
    width = -(-len(ops) // _MOST_TIPS)
    found = []
    for start in range(0, len(ops), width):
        some = range(start, min(start + width, len(ops)))
        worst = min(some, key=lambda i: loss(ops[i].figures.snr_db, unknown=math.inf))
        op, figure = ops[worst], decibels_text(ops[worst].figures.snr_db)
        unit = " dB" if math.isfinite(op.figures.snr_db) else ""
        many = f", the lowest of {len(some)}" if len(some) > 1 else ""
        found.append(
            f'<rect x="{100 * start / len(ops):.2f}%" width="{100 * len(some) / len(ops):.2f}%" height="100%">'
            f"<title>{worst + 1}: {escaped(op.name)} ({escaped(op.kind)}) {figure}{unit}{many}</title></rect>"
        )
    return f'<g class="tips">{"".join(found)}</g>'


def _marks(points: Sequence[tuple[float, float]]) -> str:
    """Numbers in a row below, each with a line to its point: the points themselves are often side by side."""
    ordered = sorted(range(len(points)), key=lambda i: points[i])
    spread = dict(zip(ordered, _apart([points[i][0] for i in ordered]), strict=True))
    lines = "".join(
        f'<line class="lead" x1="{x:.1f}%" y1="{y:.1f}%" x2="{spread[i]:.1f}%" y2="{_MARKS}%"/>'
        for i, (x, y) in enumerate(points)
    )
    numbers = "".join(
        f'<circle cx="{spread[i]:.1f}%" cy="{_MARKS}%" r="8"/>'
        f'<text class="number" x="{spread[i]:.1f}%" y="{_MARKS}%" dy=".36em">{i + 1}</text>'
        for i in range(len(points))
    )
    return lines + numbers


def _apart(places: Sequence[float]) -> list[float]:
    """Ascending ``places`` moved so that they are a gap apart and inside the chart: those too close together become a
    group, side by side around the mean of where they were."""
    groups: list[list[float]] = []
    for place in places:
        groups.append([place])
        while len(groups) > 1 and _first(groups[-1]) < _first(groups[-2]) + len(groups[-2]) * _MARK_GAP:
            last = groups.pop()
            groups[-1] += last
    return [_first(group) + i * _MARK_GAP for group in groups for i in range(len(group))]


def _first(group: Sequence[float]) -> float:
    """Where the first mark of a group goes, so that the group lies around its mean and inside the chart."""
    length = len(group) * _MARK_GAP
    return min(max(sum(group) / len(group), length / 2), 100 - length / 2) - length / 2 + _MARK_GAP / 2


def _bars(weight: WeightComparison, low: float, scale: float) -> str:
    """Areas stand for counts, so that bars of different widths compare; the highest takes four fifths of the height,
    the palette's ticks the rest."""
    edges, counts = weight.edges, weight.counts
    widths = [right - left for left, right in pairwise(edges)]
    densities = [count / width if width > 0 else 0 for count, width in zip(counts, widths, strict=True)]
    highest = max(densities) or 1
    return "".join(
        f"M{(edges[i] - low) * scale:.0f} 800v{-800 * density / highest:.0f}H{(edges[i + 1] - low) * scale:.0f}V800z"
        for i, density in enumerate(densities)
        if density > 0
    )
