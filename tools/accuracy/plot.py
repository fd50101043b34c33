"""Figures by bits, drawn."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from tools.accuracy.rows import Row


def plot(found: Sequence[Row], path: Path) -> bool:
    """The first figure of each network, one picture for each heading; False where matplotlib is missing."""
    try:
        from matplotlib import pyplot
    except ImportError:
        return False
    headings = list(dict.fromkeys(row.heading for row in found))
    drawn, pictures = pyplot.subplots(len(headings), squeeze=False, figsize=(7.0, 4.5 * len(headings)))
    for heading, axes in zip(headings, pictures[:, 0], strict=True):
        own = [row for row in found if row.heading == heading and row.nbits is not None]
        for network, kind in dict.fromkeys((row.network, row.calibration) for row in own):
            points = [
                (row.nbits, statistics.mean(row.column(0)))
                for row in own
                if (row.network, row.calibration) == (network, kind)
            ]
            axes.plot(*zip(*points, strict=True), marker="o", label=f"{network}, {kind or 'plain'}")
        axes.set(xlabel="bits", ylabel=heading)
        axes.legend()
    drawn.savefig(path)
    return True
