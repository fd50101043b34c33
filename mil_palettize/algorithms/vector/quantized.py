"""Palettes of vectors with quantized tables: the plain ones, each moved to its own grid, and Lloyd's steps there."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from mil_palettize.algorithms.array_palette import array_palette
from mil_palettize.algorithms.compiled.lloyd import assign
from mil_palettize.algorithms.palette import ArrayAlgorithm, Palette, Request
from mil_palettize.algorithms.quantized_grid import Grid, exact_grid, proposed, stored
from mil_palettize.algorithms.scalar.grouped import pack_all
from mil_palettize.algorithms.vector.palettes import VectorAlgorithm, vector_blocks, vector_palette
from mil_palettize.algorithms.vector.vectors import Vectors
from mil_palettize.expressions.weight_expr import Lut, Packed, lut_of

_STEPS = 8


@dataclass(frozen=True)
class _Fit:
    """A table on a grid: ``codes`` int64 (entries, dim), ``indices`` uint8 of its vectors, the squared ``error``, and
    the ``means`` and ``masses`` of each entry's vectors (the entry itself and 0 where it has none)."""

    grid: Grid
    codes: np.ndarray
    indices: np.ndarray
    error: float
    means: np.ndarray
    masses: np.ndarray


def quantized_vector_palette(algorithm: VectorAlgorithm | ArrayAlgorithm, request: Request) -> Palette:
    """The palette of a weight that is read whole; a user's indices are kept.

    Raises ``NonFiniteError``, ``UnquantizableError`` (a lossless palette), and what the algorithm raises.
    """
    plain = replace(request, specification=replace(request.specification, lut_dtype=None))
    users = isinstance(algorithm, ArrayAlgorithm)
    palette = (
        array_palette(algorithm, plain) if isinstance(algorithm, ArrayAlgorithm) else vector_palette(algorithm, plain)
    )
    lut = lut_of(palette.expr)
    assert request.lut_dtype is not None
    kind, dtype = request.lut_dtype, request.source.dtype
    tables = lut.table.astype(np.float64).reshape(request.groups, -1, request.cluster_dim)
    if not isinstance(algorithm, ArrayAlgorithm) and algorithm.lossless:
        grids = [exact_grid(request.source.name, kind, dtype, table) for table in tables]
        codes = np.stack([grid.nearest(table) for grid, table in zip(grids, tables, strict=True)])
        return replace(palette, expr=replace(lut, lut=stored(grids, codes.reshape(lut.table.shape))))
    blocks = vector_blocks(np.ascontiguousarray(request.source.read()), request)
    layout = (blocks.shape[0], *blocks.shape[2:3], blocks.shape[4])
    indices = lut.indices.unpack().reshape(blocks.shape[0], request.groups, blocks.shape[2], blocks.shape[4])

    def work(group: int) -> _Fit:
        vectors = Vectors(request.source.name, blocks, group, map)
        made = _moved(vectors, kind, tables[group], indices[:, group].reshape(-1), users)
        indices[:, group] = made.indices.reshape(layout)
        return made

    fits = list(request.pmap(work, range(request.groups)))
    packed = Packed(pack_all(indices.reshape(-1), lut.indices.nbits, request), lut.indices.nbits, lut.indices.shape)
    part = stored([made.grid for made in fits], np.stack([made.codes for made in fits]).reshape(lut.table.shape))
    return Palette(Lut(packed, part, lut.vector_axis), math.fsum(made.error for made in fits), palette.signal)


def _moved(vectors: Vectors, kind: str, table: np.ndarray, indices: np.ndarray, kept: bool) -> _Fit:
    """A table (entries, dim) on the best of some grids. ``indices``: into it, which stay as they are if ``kept``."""
    masses = np.repeat(np.bincount(indices, minlength=len(table)).astype(np.float64), vectors.dim)
    grids = proposed(kind, vectors.dtype, table, masses, len(indices))
    if kept:
        return min((_as_given(vectors, grid, table, indices) for grid in grids), key=lambda made: made.error)
    best = min((_fit(vectors, grid, grid.nearest(table)) for grid in grids), key=lambda made: made.error)
    for _ in range(_STEPS):
        of_each = np.repeat(best.masses[:, None], vectors.dim, axis=1)
        grid = best.grid.refitted(best.codes, best.means, of_each)
        tried = [_fit(vectors, each, each.nearest(best.means)) for each in dict.fromkeys((best.grid, grid))]
        again = min(tried, key=lambda made: made.error)
        if not again.error < best.error:
            break
        best = again
    return best


def _fit(vectors: Vectors, grid: Grid, codes: np.ndarray) -> _Fit:
    """Nearest entries, ties to the lower."""
    table = grid.decode(codes)
    distinct, of_distinct = np.unique(table, axis=0, return_index=True)
    masses, sums = np.zeros(len(distinct)), np.zeros(distinct.shape)
    nearest, errors = np.empty(vectors.count, np.int32), []
    for start, points in vectors.windows(0, vectors.count):
        part = nearest[start : start + len(points)]
        errors.append(float(assign(points, np.ones(len(points)), distinct, part, masses, sums)))
    means, of_each = table.copy(), np.zeros(len(table))
    used = masses > 0
    means[of_distinct[used]] = sums[used] / masses[used, None]
    of_each[of_distinct] = masses
    return _Fit(grid, codes, of_distinct.astype(np.uint8)[nearest], math.fsum(errors), means, of_each)


def _as_given(vectors: Vectors, grid: Grid, table: np.ndarray, indices: np.ndarray) -> _Fit:
    """The error of given indices into the nearest codes."""
    codes = grid.nearest(table)
    decoded = grid.decode(codes)
    errors = [
        float(np.sum(np.square(points - decoded[indices[start : start + len(points)]])))
        for start, points in vectors.windows(0, vectors.count)
    ]
    return _Fit(grid, codes, indices, math.fsum(errors), decoded, np.zeros(len(table)))
