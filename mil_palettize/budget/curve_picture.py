"""The curve of a plan as matplotlib draws it."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from importlib.util import find_spec

from mil_palettize.errors import ConfigError
from mil_palettize.reports.curve import Point

KINDS = ("png", "pdf")


def check_matplotlib(kind: str) -> None:
    """Raise ConfigError where it is not installed."""
    if find_spec("matplotlib") is None:
        raise ConfigError(
            f"a .{kind} is drawn by matplotlib: pip install 'mil-palettize[plot]', or give a name that ends in .svg"
        )


def curve_picture(points: Sequence[Point], chosen: Point, kind: str) -> bytes:
    """What :func:`mil_palettize.reports.curve.curve_svg` shows, as a file of one of :data:`KINDS`. Raises ConfigError
    without matplotlib."""
    check_matplotlib(kind)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.add_subplot()
    shown = [point for point in points if math.isfinite(point.decibels)]
    plans = sorted((point for point in shown if not point.label), key=lambda point: point.nbytes)
    axes.plot([p.nbytes / 1e6 for p in plans], [p.decibels for p in plans], label="best plans")
    for point, colour in [*((p, "gray") for p in shown if p.label), (chosen, "tab:red")]:
        if math.isfinite(point.decibels):
            axes.plot(point.nbytes / 1e6, point.decibels, "o", color=colour)
            axes.annotate(point.label, (point.nbytes / 1e6, point.decibels), (6, -10), textcoords="offset points")
    axes.set(xlabel="size of the package, MB", ylabel="error told beforehand, dB")
    axes.grid(alpha=0.3)
    axes.legend()
    file = io.BytesIO()
    figure.savefig(file, format=kind, dpi=150)
    return file.getvalue()
