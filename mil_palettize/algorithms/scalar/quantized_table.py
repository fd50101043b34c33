"""Quantized look-up tables: a scale for each table, its entries chosen for the error they leave in the end.

For a given scale (and zero point) the table's entries are some of at most 256 values, and the best of them are found
exactly (``subset``). A thousand scales are compared by how near they come to the entries of the float palette; the best
few are tried, and the best of these is fitted to the entries it got, and tried again, while that helps. So the scale is
a very good one, and not certainly the best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mil_palettize.algorithms.compiled.subset import best_subset
from mil_palettize.algorithms.distribution import Distribution
from mil_palettize.algorithms.palette import Request, ScalarAlgorithm
from mil_palettize.algorithms.quantized_grid import Grid, exact_grid, proposed

_ROUNDS = 8  # of fitting the scale


@dataclass(frozen=True)
class Sample:
    """What a table is made for: the distribution of its elements, None without any, and its entries as floats."""

    distribution: Distribution | None
    entries: np.ndarray

    @property
    def masses(self) -> np.ndarray:
        """The weight of what is nearest to each (ascending) entry."""
        if self.distribution is None:
            return np.zeros(len(self.entries))
        middles = (self.entries[1:] + self.entries[:-1]) * 0.5
        nearest = np.searchsorted(middles, self.distribution.values)
        return np.bincount(nearest, self.distribution.weights, minlength=len(self.entries))


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
    return list(request.pmap(lambda sample: _quantized(algorithm, request, sample), samples))


def _quantized(algorithm: ScalarAlgorithm, request: Request, sample: Sample) -> Quantized:
    assert request.lut_dtype is not None
    kind, dtype = request.lut_dtype, request.source.dtype
    if algorithm.lossless:
        grid = exact_grid(request.source.name, kind, dtype, sample.entries)
        return Quantized(grid, grid.nearest(sample.entries), 0.0)
    count = 0 if sample.distribution is None else len(sample.distribution.values)
    grids = proposed(kind, dtype, sample.entries, sample.masses, count)
    best = min((_trial(algorithm, request, grid, sample) for grid in grids), key=lambda made: made.error)
    for _ in range(_ROUNDS):
        again = _trial(algorithm, request, _refitted(best, sample), sample)
        if not again.error < best.error:
            break
        best = again
    return best


def _trial(algorithm: ScalarAlgorithm, request: Request, grid: Grid, sample: Sample) -> Quantized:
    """The best table on a grid, or the one nearest to the entries."""
    found, codes, values = sample.distribution, grid.codes, grid.values
    if found is None or not algorithm.optimal:
        codes = np.unique(grid.nearest(sample.entries))
        values = grid.decode(codes)
    if found is None:
        return Quantized(grid, codes, 0.0)
    chosen = np.empty(min(len(codes), 1 << request.most_nbits), np.int64)
    error = best_subset(found.values, found.weights, values, chosen)
    return Quantized(grid, codes[chosen], float(error))


def _refitted(made: Quantized, sample: Sample) -> Grid:
    """The grid of the table with the scale that fits it best."""
    found = sample.distribution
    if found is None:
        return made.grid
    entries = made.grid.decode(made.codes)
    nearest = np.searchsorted((entries[1:] + entries[:-1]) * 0.5, found.values)
    masses = np.bincount(nearest, found.weights, minlength=len(entries))
    sums = np.bincount(nearest, found.weights * found.values, minlength=len(entries))
    return made.grid.refitted(made.codes, sums / np.maximum(masses, 1e-300), masses)
