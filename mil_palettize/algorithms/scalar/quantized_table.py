"""Quantized look-up tables: a scale for each table, its entries chosen for the error they leave in the end.

For a given scale (and zero point) the table's entries are some of at most 256 values, and the best of them are found
exactly (``subset``); where a table stands for many values, the best of those next to the entries of the float palette.
Up to a thousand scales are compared by how near they come to these entries; the best few are tried, and the best of
these is fitted to the entries it got, and tried again, while that helps. No table has a smaller error than an optimal
float palette, so nothing more is tried once that is nearly reached. So the scale is a very good one, and not certainly
the best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mil_palettize.algorithms.compiled.assignment import sums_of_nearest
from mil_palettize.algorithms.compiled.subset import best_subset
from mil_palettize.algorithms.distribution import Distribution
from mil_palettize.algorithms.palette import Request, ScalarAlgorithm
from mil_palettize.algorithms.quantized_grid import SMALL, Grid, exact_grid, proposed

_ROUNDS = 8  # of fitting the scale
_NEARLY = 3e-3  # part of the float palette's error above which more grids are tried: below they gain a quarter of it
_STEPS = 3  # from the code nearest to an entry of the float palette, in which a better one is looked for


@dataclass(frozen=True)
class Sample:
    """What a table is made for: the distribution of its elements, None without any, and its entries as floats."""

    distribution: Distribution | None
    entries: np.ndarray

    @property
    def count(self) -> int:
        """Different values."""
        return 0 if self.distribution is None else len(self.distribution.values)

    @cached_property
    def served(self) -> Served:
        """By the entries as they are."""
        return _served(self.distribution, self.entries)


@dataclass(frozen=True)
class Served:
    """What is nearest to each of some ascending entries: the sums of its weights, and of weight times value; the
    squared error altogether. All float64."""

    masses: np.ndarray
    sums: np.ndarray
    error: float


@dataclass(frozen=True)
class Quantized:
    """A table on a grid: ``codes`` ascending distinct int64, and the squared error it leaves."""

    grid: Grid
    codes: np.ndarray
    error: float


def quantized(algorithm: ScalarAlgorithm, request: Request, samples: Sequence[Sample]) -> list[Quantized]:
    """The tables, each of at most ``2**most_nbits`` codes.

    Raises ``UnquantizableError`` where the palette has to be lossless and cannot be.
    """
    return [_quantized(algorithm, request, sample) for sample in samples]


def _quantized(algorithm: ScalarAlgorithm, request: Request, sample: Sample) -> Quantized:
    assert request.lut_dtype is not None
    kind, dtype = request.lut_dtype, request.source.dtype
    if algorithm.lossless:
        grid = exact_grid(request.source.name, kind, dtype, sample.entries)
        return Quantized(grid, grid.nearest(sample.entries), 0.0)
    spanning, *others = proposed(kind, dtype, sample.entries, sample.served.masses, sample.count)
    usual = _rounded(spanning, sample)
    best, enough = usual, _enough(algorithm, sample)
    for grid in others:
        best = min(_trial(algorithm, request, grid, sample), best, key=lambda made: made.error)
        if best.error <= enough:
            break
    if best is usual:
        best = _trial(algorithm, request, spanning, sample)
    for _ in range(_ROUNDS if best.error > enough else 0):
        again = _trial(algorithm, request, _refitted(best, sample), sample)
        if not again.error < best.error:
            break
        best = again
    return best


def _enough(algorithm: ScalarAlgorithm, sample: Sample) -> float:
    """The error at which no other grid is worth a trial: 0 where it is not known how small it can be."""
    if not algorithm.optimal:
        return 0.0
    return sample.served.error * (1.0 + _NEARLY if sample.count > SMALL else 1.0)


def _rounded(grid: Grid, sample: Sample) -> Quantized:
    """The table on a grid that is nearest to the entries."""
    codes = np.unique(grid.nearest(sample.entries))
    return Quantized(grid, codes, _served(sample.distribution, grid.decode(codes)).error)


def _trial(algorithm: ScalarAlgorithm, request: Request, grid: Grid, sample: Sample) -> Quantized:
    """The best table on a grid, or the one nearest to the entries."""
    found, most = sample.distribution, 1 << request.most_nbits
    if found is None or not algorithm.optimal:
        return _rounded(grid, sample)
    chosen = np.empty(min(len(grid.codes), most), np.int64)
    low, high = _windows(grid, sample, len(chosen))
    error = best_subset(found.values, found.weights, grid.values, low, high, chosen)
    return Quantized(grid, grid.codes[chosen], float(error))


def _windows(grid: Grid, sample: Sample, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last position among the codes that each of k entries may have."""
    order = np.arange(k)
    first, last = order, order + len(grid.codes) - k
    if sample.count <= SMALL or len(sample.entries) != k:
        return first, last
    near = grid.nearest(sample.entries) - grid.codes[0] - order  # from here on: how many codes before it are left out
    low, high = np.minimum.accumulate((near - _STEPS)[::-1])[::-1], np.maximum.accumulate(near + _STEPS)
    return order + np.clip(low, 0, len(grid.codes) - k), order + np.clip(high, 0, len(grid.codes) - k)


def _refitted(made: Quantized, sample: Sample) -> Grid:
    """The grid of the table with the scale that fits it best."""
    served = _served(sample.distribution, made.grid.decode(made.codes))
    return made.grid.refitted(made.codes, served.sums / np.maximum(served.masses, 1e-300), served.masses)


def _served(distribution: Distribution | None, entries: np.ndarray) -> Served:
    masses, sums, error = np.zeros(len(entries)), np.zeros(len(entries)), 0.0
    if distribution is not None:
        error = float(sums_of_nearest(distribution.values, distribution.weights, entries, masses, sums))
    return Served(masses, sums, error)
