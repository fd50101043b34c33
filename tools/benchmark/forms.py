"""Processor time of one thread for each kind of palette, a weight at a time, in nanoseconds an element.

``python -m tools.benchmark.forms [--runs N] [--only WORD]``: medians of N runs [3] after one that compiles, of normal
values with a fixed seed where nothing else is said. Nothing is read or written.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mil_palettize.algorithms.making import ArraySource, make_palette
from mil_palettize.algorithms.specification import PaletteSpecification
from mil_palettize.expressions.packed import Packed
from mil_palettize.reports.tables import format_table

ALLOWED = (1, 2, 3, 4, 6, 8)
SHAPE = (4096, 1024)


@dataclass(frozen=True)
class Form:
    """``values``: of a weight; ``fields``: of the specification; ``call``: other arguments, made of the weight."""

    title: str
    values: Callable[[], np.ndarray]
    fields: dict[str, Any]
    call: Callable[[np.ndarray], dict[str, Any]] = field(default=lambda weight: {})


def normal(dtype: type = np.float16, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def heavy() -> np.ndarray:
    """A million values whose tails are cubes of Cauchy's."""
    return (np.random.default_rng(0).standard_cauchy((1000, 1000)) ** 3).astype(np.float32)


def importance(weight: np.ndarray) -> dict[str, Any]:
    return {"importance": np.random.default_rng(1).uniform(0.1, 10.0, weight.shape)}


def half(weight: np.ndarray) -> dict[str, Any]:
    kept = np.random.default_rng(1).random(weight.shape) < 0.5
    return {"mask": Packed.pack(kept.astype(np.uint8), 1)}


GROUPS = {"axis": 0, "group_size": 16}
FORMS = (
    Form("fp16, 4 bits", normal, {"nbits": 4}),
    Form("fp16, 8 bits", normal, {"nbits": 8}),
    Form("fp16, 4 bits, groups of 16", normal, {"nbits": 4, **GROUPS}),
    Form("fp16, 4 bits, importance", normal, {"nbits": 4}, importance),
    Form("fp16, 4 bits, half of it pruned", normal, {"nbits": 4}, half),
    Form("fp16, 4 bits, int8 table", normal, {"nbits": 4, "lut_dtype": "int8"}),
    Form("fp16, 4 bits, a scale for each channel", normal, {"nbits": 4, "scale_axis": 0}),
    Form("fp32, 4 bits", lambda: normal(np.float32), {"nbits": 4}),
    Form("fp32, 4 bits, groups of 16", lambda: normal(np.float32), {"nbits": 4, **GROUPS}),
    Form("fp32, 4 bits, a scale for each channel", lambda: normal(np.float32), {"nbits": 4, "scale_axis": 0}),
    Form("fp32, 8 bits, heavy tails", heavy, {"nbits": 8}),
    Form("fp16, 64 vectors of 2", normal, {"nbits": 6, "cluster_dim": 2, "axis": 0}),
    Form("fp16, 256 vectors of 2", normal, {"nbits": 8, "cluster_dim": 2, "axis": 0}),
    Form("fp16, 256 vectors of 4", normal, {"nbits": 8, "cluster_dim": 4, "axis": 0}),
)


def measured(form: Form, runs: int) -> tuple[int, float]:
    """Elements, and seconds of the processor."""
    weight = form.values()
    specification = PaletteSpecification("kmeans", allowed_nbits=ALLOWED, **form.fields)
    call = form.call(weight)
    make_palette(ArraySource("w", weight), specification, **call)
    seconds = []
    for _ in range(runs):
        started = time.process_time()
        make_palette(ArraySource("w", weight), specification, **call)
        seconds.append(time.process_time() - started)
    return weight.size, statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.benchmark.forms", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", default="", metavar="WORD", help="of titles")
    options = parser.parse_args()
    rows = []
    for form in FORMS:
        if options.only in form.title:
            size, seconds = measured(form, options.runs)
            rows.append((form.title, f"{size:,}", f"{seconds:.2f}", f"{seconds / size * 1e9:.0f}"))
    print(format_table(("palette", "weights", "CPU s", "ns a weight"), rows, 100, right=3))


if __name__ == "__main__":
    main()
