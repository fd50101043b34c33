"""Palettes whose entries are vectors: every ``cluster_dim`` consecutive elements along an axis share an index."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mil_palettize.algorithms.compiled.lloyd import assign
from mil_palettize.algorithms.palette import Palette, Request
from mil_palettize.algorithms.scalar.grouped import pack_all
from mil_palettize.algorithms.source import raise_non_finite
from mil_palettize.algorithms.vector.vectors import Vectors, VectorSet
from mil_palettize.expressions.weight_expr import Lut, Packed


@dataclass(frozen=True)
class VectorAlgorithm:
    """Sees the vectors of one look-up table; nearest entries, packing and errors are everybody's.

    ``entries(vectors, nbits)``: at most ``2**nbits`` float64 entries (k, dim) that the weight's dtype can hold.
    Without nbits in the request, ``nbits`` is the most allowed. ``lossless``: the palette has to be.
    """

    entries: Callable[[VectorSet, int], np.ndarray]
    lossless: bool = False


@dataclass(frozen=True)
class _Table:
    """Distinct stored entries of one group, float64 (used, dim), with the group's squared error and sum of squares."""

    entries: np.ndarray
    error: float
    signal: float


def _blocks(array: np.ndarray, request: Request) -> np.ndarray:
    """A C-contiguous weight as ``Vectors`` wants it: (outer, groups, rows, dim, inner)."""
    dim, axis, groups = request.cluster_dim, request.axis, request.groups
    outer, inner = math.prod(array.shape[:axis]), math.prod(array.shape[axis + 1 :])
    return array.reshape(outer, groups, array.shape[axis] // groups // dim, dim, inner)


def vector_palette(algorithm: VectorAlgorithm, request: Request) -> Palette:
    """The palette of ``request.groups`` tables of vectors along ``request.axis``; the weight is read whole.

    Raises ``NonFiniteError`` and what the algorithm raises.
    """
    source, axis, groups = request.source, request.axis, request.groups
    array = np.ascontiguousarray(source.read())
    blocks = _blocks(array, request)
    outer, inner = blocks.shape[0], blocks.shape[4]
    indices = np.empty((outer, groups, blocks.shape[2], inner), np.uint8)
    inside = request.pmap if groups == 1 else map

    def work(group: int) -> _Table:
        codes = np.empty(outer * blocks.shape[2] * inner, np.int32)
        table = _table(algorithm, request, Vectors(source.name, blocks, group, inside), codes)
        indices[:, group] = codes.reshape(outer, -1, inner)
        return table

    parts = list(map(work, range(groups)) if groups == 1 else request.pmap(work, range(groups)))
    nbits = request.nbits_for(max(len(part.entries) for part in parts))
    tables = [np.pad(part.entries, ((0, (1 << nbits) - len(part.entries)), (0, 0)), mode="edge") for part in parts]
    stored = np.stack(tables).astype(source.dtype).reshape(request.lut_shape(nbits))
    expr = Lut(Packed(pack_all(indices.reshape(-1), nbits, request), nbits, request.indices_shape), stored, axis)
    return Palette(expr, math.fsum(part.error for part in parts), math.fsum(part.signal for part in parts))


def _table(algorithm: VectorAlgorithm, request: Request, vectors: Vectors, codes: np.ndarray) -> _Table:
    """Palettize the vectors of one group; fills ``codes`` (int32)."""
    signal = math.fsum(vectors.signals())
    if not math.isfinite(signal):
        raise_non_finite(request.source)
    entries = algorithm.entries(vectors, request.most_nbits)
    stored = np.unique(entries.astype(vectors.dtype).astype(np.float64) + 0.0, axis=0)

    def work(first: int, last: int) -> list[float]:
        masses, sums = np.zeros(len(stored)), np.zeros(stored.shape)
        errors = []
        for start, points, weights in vectors.windows(first, last):
            part = codes[start : start + len(points)]
            errors.append(float(assign(points, weights, stored, part, masses, sums)))
        return errors

    errors = [error for span in vectors.over_spans(work) for error in span]
    return _Table(stored, math.fsum(errors), signal)
