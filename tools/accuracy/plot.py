"""Figures by size, drawn."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from tools.accuracy.by_coremltools import KIND
from tools.accuracy.rows import Row


def plot(found: Sequence[Row], path: Path) -> bool:
    """The first figure of each network by the bytes of its weights, one picture for each; the float network is a line.
    The suffix of ``path`` says what is written (.svg, .png). False where matplotlib is missing."""
    try:
        import matplotlib
        from matplotlib import pyplot
    except ImportError:
        return False
    matplotlib.rcParams["svg.hashsalt"] = "mil_palettize"  # names inside an .svg, which are the same each time then
    networks = list(dict.fromkeys(row.network for row in found))
    drawn, pictures = pyplot.subplots(len(networks), squeeze=False, figsize=(7.0, 4.2 * len(networks)))
    for network, axes in zip(networks, pictures[:, 0], strict=True):
        rows = [row for row in found if row.network == network]
        for row in rows:
            if row.nbits is None:
                size = f"float ({row.nbytes / 1000:,.0f} kB)"
                axes.axhline(statistics.mean(row.column(0)), color="grey", linestyle="dotted", label=size)
        for kind in dict.fromkeys(row.calibration for row in rows if row.nbits is not None):
            points = [row for row in rows if row.calibration == kind and row.nbits is not None]
            sizes, figures = [row.nbytes / 1000 for row in points], [statistics.mean(row.column(0)) for row in points]
            axes.plot(sizes, figures, marker="o", linestyle="dashed" if kind == KIND else "solid", label=_told(kind))
            for size, figure, row in zip(sizes, figures, points, strict=True):
                axes.annotate(f"{row.nbits} bit", (size, figure), (4, -10), textcoords="offset points", fontsize=7)
        axes.set(title=network, xlabel="kB of weights", ylabel=rows[0].heading)
        axes.grid(alpha=0.3)
        axes.legend()
    drawn.tight_layout()
    drawn.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return True


def _told(kind: str) -> str:
    """What palettes of ``kind`` are, in words."""
    if kind == KIND:
        return "coremltools, k-means"
    if kind.isdecimal():
        return f"calibrated on {kind} samples"
    return {"none": "k-means", "weights": "calibrated by the weights"}.get(kind, kind)
