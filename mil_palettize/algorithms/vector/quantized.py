"""Palettes of vectors with a quantized table: the plain one, moved to a grid, and Lloyd's steps there."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from mil_palettize.algorithms.array_palette import array_palette
from mil_palettize.algorithms.compiled.lloyd import assign
from mil_palettize.algorithms.palette import ArrayAlgorithm, Palette, Request
from mil_palettize.algorithms.quantized_grid import Grid, exact_grid, proposed, ranked
from mil_palettize.algorithms.scalar.grouped import pack_all
from mil_palettize.algorithms.vector.palettes import VectorAlgorithm, vector_blocks, vector_palette
from mil_palettize.algorithms.vector.vectors import Vectors
from mil_palettize.expressions.weight_expr import Lut, Packed, lut_of

_FINALISTS = 3
_STEPS = 8


@dataclass(frozen=True)
class _Fit:
    """Tables of a grid: ``codes`` int64 (groups, entries, dim), ``indices`` uint8 in the shape of the weight's vectors,
    the squared ``error``, and the ``means`` of each entry's vectors (the entry itself where it has none)."""

    grid: Grid
    codes: np.ndarray
    indices: np.ndarray
    error: float
    means: np.ndarray


class _Work:
    """The vectors of a weight, whatever grid is tried."""

    def __init__(self, request: Request, lut: Lut) -> None:
        self.request, self.lut = request, lut
        self.blocks = vector_blocks(np.ascontiguousarray(request.source.read()), request)
        outer, groups, rows, _, inner = self.blocks.shape
        self.layout = (outer, groups, rows, inner)

    def masses(self, width: int) -> np.ndarray:
        """How many vectors have each entry, float64 (groups * width,)."""
        indices = self.lut.indices.unpack().reshape(self.layout)
        return np.concatenate([np.bincount(part.reshape(-1), minlength=width) for part in indices.swapaxes(0, 1)])

    def fit(self, grid: Grid, codes: np.ndarray, indices: np.ndarray | None = None) -> _Fit:
        """Nearest entries, or the error of given indices."""
        tables = grid.decode(codes)
        chosen = np.empty(self.layout, np.uint8)
        means = tables.copy()

        def work(group: int) -> float:
            kept = None if indices is None else indices.reshape(self.layout)[:, group].reshape(-1)
            error, found, means[group] = self._fit(group, tables[group], kept)
            chosen[:, group] = found.reshape(self.layout[0], *self.layout[2:])
            return error

        errors = list(self.request.pmap(work, range(len(tables))))
        return _Fit(grid, codes, chosen.reshape(self.lut.indices.shape), math.fsum(errors), means)

    def _fit(self, group: int, table: np.ndarray, kept: np.ndarray | None) -> tuple[float, np.ndarray, np.ndarray]:
        vectors = Vectors(self.request.source.name, self.blocks, group, map)
        distinct, of_distinct = np.unique(table, axis=0, return_index=True)
        masses, sums = np.zeros(len(distinct)), np.zeros(distinct.shape)
        codes, errors = np.empty(vectors.count, np.int32), []
        for start, points in vectors.windows(0, vectors.count):
            part = codes[start : start + len(points)]
            if kept is None:
                errors.append(float(assign(points, np.ones(len(points)), distinct, part, masses, sums)))
            else:
                errors.append(float(np.sum(np.square(points - table[kept[start : start + len(points)]]))))
        if kept is not None:
            return math.fsum(errors), kept, table
        means = table.copy()
        used = masses > 0
        means[of_distinct[used]] = sums[used] / masses[used, None]
        return math.fsum(errors), of_distinct.astype(np.uint8)[codes], means

    def palette(self, found: _Fit, signal: float) -> Palette:
        nbits = self.lut.indices.nbits
        packed = pack_all(found.indices.reshape(-1), nbits, self.request)
        part = found.grid.part(found.codes.reshape(self.request.lut_shape(nbits)))
        return Palette(
            Lut(Packed(packed, nbits, self.lut.indices.shape), part, self.lut.vector_axis), found.error, signal
        )


def quantized_vector_palette(algorithm: VectorAlgorithm | ArrayAlgorithm, request: Request) -> Palette:
    """The palette of a weight that is read whole; a user's indices are kept.

    Raises ``NonFiniteError``, ``UnquantizableError`` (a lossless palette), and what the algorithm raises.
    """
    plain = replace(request, specification=replace(request.specification, lut_dtype=None))
    if isinstance(algorithm, ArrayAlgorithm):
        palette = array_palette(algorithm, plain)
    else:
        palette = vector_palette(algorithm, plain)
    lut = lut_of(palette.expr)
    assert request.lut_dtype is not None
    kind, dtype = request.lut_dtype, request.source.dtype
    tables = lut.table.astype(np.float64).reshape(request.groups, -1, request.cluster_dim)
    if not isinstance(algorithm, ArrayAlgorithm) and algorithm.lossless:
        grid = exact_grid(request.source.name, kind, dtype, tables)
        return replace(palette, expr=replace(lut, lut=grid.part(grid.nearest(lut.table.astype(np.float64)))))
    work = _Work(request, lut)
    masses = np.repeat(work.masses(tables.shape[1]).astype(np.float64), request.cluster_dim)
    grids = proposed(kind, dtype, tables)
    best = ranked(grids, tables.reshape(-1), masses)
    if isinstance(algorithm, ArrayAlgorithm):
        return work.palette(work.fit(best[0], best[0].nearest(tables), lut.indices.unpack()), palette.signal)
    finalists = list(dict.fromkeys([grids[0], *best[:_FINALISTS]]))
    found = min((work.fit(grid, grid.nearest(tables)) for grid in finalists), key=lambda made: made.error)
    for _ in range(_STEPS):
        again = work.fit(found.grid, found.grid.nearest(found.means))
        if not again.error < found.error:
            break
        found = again
    return work.palette(found, palette.signal)
