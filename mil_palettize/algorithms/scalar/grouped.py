"""One table per group of channels. Chunks of groups are independent and may run on threads.

A chunk is a handful of compiled calls, each over all its groups and without the GIL: distinct values, entries, indices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mil_palettize.algorithms.compiled.assignment import assign_patterns, assign_single, pack_indices
from mil_palettize.algorithms.compiled.counting import (
    HALF_VALUES,
    PATTERNS,
    distinct_patterns,
    distinct_sorted,
    sums_of_squares,
)
from mil_palettize.algorithms.compiled.sorting import sorted_rows
from mil_palettize.algorithms.distribution import DISTINCT, Distribution, describe
from mil_palettize.algorithms.palette import Palette, Request, ScalarAlgorithm, filled, stored_tables
from mil_palettize.algorithms.source import ArraySource, NonFiniteError, frozen, raise_non_finite
from mil_palettize.expressions.weight_expr import Lut, Packed, packed_nbytes

_CHUNK = 1 << 18  # elements of the groups that share buffers


@dataclass(frozen=True)
class _Sample:
    """The distributions of consecutive groups, group g in ``offsets[g] .. offsets[g + 1] - 1``.

    ``patterns``: of float16 values. ``signals``: each group's sum of squares. ``exact``: see ``Distribution``.
    """

    values: np.ndarray
    weights: np.ndarray
    offsets: np.ndarray
    patterns: np.ndarray
    signals: np.ndarray
    exact: bool = True

    @property
    def finite(self) -> bool:
        first, last = self.values[self.offsets[:-1]], self.values[self.offsets[1:] - 1]
        return bool(np.isfinite(first).all() and np.isfinite(last).all())

    def distribution(self, group: int, name: str, dtype: np.dtype, size: int) -> Distribution:
        part = slice(self.offsets[group], self.offsets[group + 1])
        signal = float(self.signals[group])
        return Distribution(name, self.values[part], self.weights[part], dtype, size, signal, self.exact)


@dataclass(frozen=True)
class _Tables:
    """Tables (groups, width) as stored in float64, their distinct entries, and each group's sums."""

    tables: np.ndarray
    used: np.ndarray
    errors: np.ndarray
    signals: np.ndarray


def grouped_palette(algorithm: ScalarAlgorithm, request: Request) -> Palette:
    """The palette of ``request.groups`` tables along ``request.axis``.

    Chunks are read one by one where groups are not interleaved (tables along the first axis of several elements), else
    the weight is read whole. Raises what ``describe`` and the algorithm raise.
    """
    source = request.source
    outer = math.prod(source.shape[: request.axis])
    indices = np.empty((outer, request.groups, math.prod(source.shape) // outer // request.groups), np.uint8)
    whole = None if outer == 1 else source.read().reshape(indices.shape)
    size = outer * indices.shape[2]
    step = max(1, _CHUNK // size)

    def work(first: int) -> _Tables:
        part = slice(first, min(first + step, request.groups))
        if whole is None:
            rows = source.part(part.start * size, part.stop * size).reshape(-1, size)
            return _chunk(algorithm, request, rows, indices[0, part])
        rows = np.ascontiguousarray(whole[:, part].transpose(1, 0, 2))
        out = np.empty(rows.shape, np.uint8)
        result = _chunk(algorithm, request, rows.reshape(-1, size), out.reshape(-1, size))
        indices[:, part] = out.transpose(1, 0, 2)
        return result

    parts = list(request.pmap(work, range(0, request.groups, step)))
    nbits = request.nbits_for(max(int(part.used.max()) for part in parts))
    tables = np.concatenate([part.tables[:, : 1 << nbits] for part in parts])
    sse = math.fsum(math.fsum(part.errors) for part in parts)
    signal = math.fsum(math.fsum(part.signals) for part in parts)
    packed = pack_all(indices.reshape(-1), nbits, request)
    stored = tables.astype(source.dtype).reshape(request.lut_shape(nbits))
    return Palette(Lut(Packed(packed, nbits, tuple(source.shape)), stored), sse, signal)


def pack_all(indices: np.ndarray, nbits: int, request: Request) -> np.ndarray:
    """Pack uint8 indices (1-D), pieces at a time through ``request.pmap``."""
    if nbits == 8:
        return indices
    packed = np.empty(packed_nbytes(indices.size, nbits), np.uint8)

    def work(start: int) -> None:
        part = indices[start : start + 8 * _CHUNK]
        first = start * nbits // 8
        pack_indices(part, nbits, packed[first : first + packed_nbytes(part.size, nbits)])

    for _ in request.pmap(work, range(0, indices.size, 8 * _CHUNK)):
        pass
    return packed


def _chunk(algorithm: ScalarAlgorithm, request: Request, rows: np.ndarray, indices: np.ndarray) -> _Tables:
    """Palettize the rows (groups, size); fills ``indices`` (uint8, the same shape)."""
    source = request.source
    half = source.dtype == np.float16
    sample = _sample_half(rows) if half else _sample_single(rows, request)
    if not sample.finite:
        raise_non_finite(source)
    entries = _entries(algorithm, request, sample, rows.shape[1])
    tables, used = stored_tables(entries, source.dtype)
    errors = np.empty(len(rows))
    if half:
        patterns = frozen(rows.view(np.uint16))
        assign_patterns(
            patterns, sample.values, sample.weights, sample.patterns, sample.offsets, tables, used, indices, errors
        )
    else:
        assign_single(frozen(rows), tables, used, indices, errors)
    return _Tables(tables, used, errors, sample.signals)


def _entries(algorithm: ScalarAlgorithm, request: Request, sample: _Sample, size: int) -> np.ndarray:
    source, nbits = request.source, request.most_nbits
    if algorithm.entries_of_groups is not None and sample.exact:
        half = source.dtype == np.float16
        return algorithm.entries_of_groups(sample.values, sample.weights, sample.offsets, half, nbits)
    groups = range(len(sample.offsets) - 1)
    distributions = (sample.distribution(group, source.name, source.dtype, size) for group in groups)
    return filled([algorithm.entries(distribution, nbits) for distribution in distributions], nbits)


def _sample_half(rows: np.ndarray) -> _Sample:
    groups, size = rows.shape
    room = groups * min(size, PATTERNS) + 1
    values, weights = np.empty(room), np.empty(room)
    patterns, offsets = np.empty(room, np.uint16), np.empty(groups + 1, np.int64)
    distinct_patterns(frozen(rows.view(np.uint16)), HALF_VALUES, values, weights, patterns, offsets)
    signals = np.empty(groups)
    sums_of_squares(values, weights, offsets, signals)
    return _Sample(values, weights, offsets, patterns, signals)


def _sample_single(rows: np.ndarray, request: Request) -> _Sample:
    groups, size = rows.shape
    patterns = np.empty(0, np.uint16)
    if size > DISTINCT:  # then a chunk is one group
        try:
            whole = describe(ArraySource(request.source.name, rows[0]))
        except NonFiniteError:
            raise_non_finite(request.source)
        offsets = np.array([0, len(whole.values)])
        return _Sample(whole.values, whole.weights, offsets, patterns, np.array([whole.signal]), whole.exact)
    values, weights = np.empty(rows.size), np.empty(rows.size)
    offsets, signals = np.empty(groups + 1, np.int64), np.empty(groups)
    distinct_sorted(sorted_rows(rows), values, weights, offsets)
    sums_of_squares(values, weights, offsets, signals)
    return _Sample(values, weights, offsets, patterns, signals)
