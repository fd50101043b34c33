"""Quantized look-up tables: one scale for the whole table, entries chosen for the error they leave in the end.

For a given scale (and zero point) the table's entries are some of at most 256 values, and the best of them are found
exactly (``subset``). The scale is the best of some tens that are close to the entries of the float palette.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mil_palettize.algorithms.compiled.subset import best_subset
from mil_palettize.algorithms.distribution import Distribution
from mil_palettize.algorithms.palette import Request, ScalarAlgorithm
from mil_palettize.algorithms.quantized_grid import Grid, exact_grid, proposed, ranked

_FINALISTS = 3


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


def quantized(algorithm: ScalarAlgorithm, request: Request, samples: Sequence[Sample]) -> tuple[Grid, list[np.ndarray]]:
    """The grid of all tables, and the codes of each: ascending distinct int64, at most ``2**most_nbits``.

    Raises ``UnquantizableError`` where the palette has to be lossless and cannot be.
    """
    assert request.lut_dtype is not None
    kind, dtype = request.lut_dtype, request.source.dtype
    entries = np.concatenate([sample.entries for sample in samples])
    if algorithm.lossless:
        grid = exact_grid(request.source.name, kind, dtype, entries)
        return grid, [grid.nearest(sample.entries) for sample in samples]
    grids = proposed(kind, dtype, entries)
    best = ranked(grids, entries, np.concatenate([sample.masses for sample in samples]))
    if not algorithm.optimal or request.most_nbits < 8:  # else the grid is the table, and quickly tried
        best = list(dict.fromkeys([grids[0], *best[:_FINALISTS]]))
    trials = [_trial(algorithm, request, grid, samples) for grid in best]
    errors = [error for error, _ in trials]
    least = errors.index(min(errors))
    return best[least], trials[least][1]


def _trial(
    algorithm: ScalarAlgorithm, request: Request, grid: Grid, samples: Sequence[Sample]
) -> tuple[float, list[np.ndarray]]:
    """The squared error of all tables on a grid, and their codes: the best, or those nearest to the entries."""
    most = 1 << request.most_nbits

    def work(sample: Sample) -> tuple[float, np.ndarray]:
        codes, values = grid.codes, grid.values
        if sample.distribution is None or not algorithm.optimal:
            codes = np.unique(grid.nearest(sample.entries))
            values = grid.decode(codes)
        if sample.distribution is None:
            return 0.0, codes
        chosen = np.empty(min(len(codes), most), np.int64)
        error = best_subset(sample.distribution.values, sample.distribution.weights, values, chosen)
        return float(error), codes[chosen]

    results = list(request.pmap(work, samples))
    return sum(error for error, _ in results), [chosen for _, chosen in results]
