"""Palettes of scalars that are more than plain: masked, scaled by channel, weighted, whole numbers, quantized tables.

The weight is in memory as a whole. Per table: the distribution of what counts, entries, nearest entries by what they
decode to. Then scales are fitted to the entries, and entries to the scales, while that helps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mil_palettize.algorithms.distribution import Distribution, describe
from mil_palettize.algorithms.palette import Palette, Request, ScalarAlgorithm, filled, stored_tables
from mil_palettize.algorithms.quantized_grid import Grid, UnquantizableError
from mil_palettize.algorithms.scalar.counted_elements import Elements, Weight, read_weight
from mil_palettize.algorithms.scalar.grouped import pack_all
from mil_palettize.algorithms.scalar.quantized_table import Sample, quantized
from mil_palettize.algorithms.scalar.scaled_assignment import Fit, fit
from mil_palettize.algorithms.scalar.weighted_distribution import distribution_of, quotients
from mil_palettize.algorithms.source import ArraySource
from mil_palettize.expressions.weight_expr import Lut, Packed, Part, Scale, Sparse, WeightExpr

_ROUNDS = 4  # of fitting scales
_WORTH = 1e-3  # gain of a round after which another one is tried
_SHIFT = 1536.0  # moves int8 and uint8 among the float16 values that are whole numbers and nothing else (1024 to 2047)


@dataclass(frozen=True)
class Tables:
    """One table per group: ``values`` float64 (groups, width), what the entries decode to, the first ``used`` (groups,)
    of each distinct and ascending, the last of them repeated; ``part(nbits)``: as they are stored."""

    values: np.ndarray
    used: np.ndarray
    request: Request
    codes: np.ndarray | None = None
    grid: Grid | None = None

    def part(self, nbits: int) -> Part:
        shape = self.request.lut_shape(nbits)
        if self.grid is not None and self.codes is not None:
            return self.grid.part(self.codes[:, : 1 << nbits].reshape(shape))
        return self.values[:, : 1 << nbits].astype(self.request.source.dtype).reshape(shape)


@dataclass(frozen=True)
class _Solution:
    """A palette, and scales that would fit its entries better (None without scales)."""

    palette: Palette
    refitted: np.ndarray | None


def shaped_palette(algorithm: ScalarAlgorithm, request: Request) -> Palette:
    """The palette of a weight that is read whole.

    Raises ``NonFiniteError``, ``UnquantizableError``, and what the algorithm raises.
    """
    weight = read_weight(request)
    scales = None if request.scale_axis is None else weight.first_scales()
    best = _solve(algorithm, request, weight, scales)
    for _ in range(_ROUNDS):
        if best.refitted is None or not algorithm.optimal or best.palette.sse == 0.0:
            break
        again = _solve(algorithm, request, weight, best.refitted)
        before, after = best.palette.sse, again.palette.sse
        best = again if after < before else best
        if not after < before * (1.0 - _WORTH):
            break
    return best.palette


def _solve(algorithm: ScalarAlgorithm, request: Request, weight: Weight, scales: np.ndarray | None) -> _Solution:
    """Tables and indices for given scales (float64 numbers of the weight's dtype, one per channel)."""
    keep = request.lut_dtype is not None

    def sample(group: int) -> Sample:
        found = _sample(algorithm, request, weight.elements(group), scales)
        return found if keep else Sample(None, found.entries)

    tables = _tables(algorithm, request, list(request.pmap(sample, range(weight.groups))))
    divisors = np.ones(1) if scales is None else scales
    half = request.source.dtype == np.float16
    indices = np.zeros(weight.array.shape, np.uint8)

    def assign(group: int) -> Fit:
        elements = weight.elements(group)
        chosen = np.empty(len(elements.values), np.uint8)
        made = fit(elements, divisors, tables.values[group], int(tables.used[group]), half, chosen)
        weight.put(indices, group, chosen)
        return made

    fits = list(request.pmap(assign, range(weight.groups)))
    nbits = request.nbits_for(int(tables.used.max()))
    palette = built(request, weight, indices, tables.part(nbits), nbits, scales, fits)
    if algorithm.lossless and palette.sse > 0.0:
        raise UnquantizableError(
            f"weight '{request.source.name}' has values that are not exact in {request.source.dtype} when divided by "
            "the scales of their channels; mode 'unique' is lossless: leave out the scales, or use mode 'kmeans'"
        )
    return _Solution(palette, None if scales is None else _refitted(request, scales, fits))


def built(
    request: Request,
    weight: Weight,
    indices: np.ndarray,
    table: Part,
    nbits: int,
    scales: np.ndarray | None,
    fits: Sequence[Fit],
) -> Palette:
    """The palette as it is stored. ``indices``: uint8, of the weight's shape."""
    packed = Packed(pack_all(indices.reshape(-1), nbits, request), nbits, tuple(indices.shape))
    expr: WeightExpr = Lut(packed, table)
    if scales is not None:
        expr = Scale(expr, scales.astype(request.source.dtype).reshape(weight.scale_shape))
    if request.mask is not None:
        expr = Sparse(expr, request.mask)
    error, signal = math.fsum(made.error for made in fits), math.fsum(made.signal for made in fits)
    return Palette(expr, error * weight.largest_importance, signal * weight.largest_importance)


def _sample(algorithm: ScalarAlgorithm, request: Request, elements: Elements, scales: np.ndarray | None) -> Sample:
    """The distribution and the float entries of one table: zeros where it has no elements."""
    if not elements.values.size:
        return Sample(None, np.zeros(1))
    source, nbits = request.source, request.most_nbits
    if algorithm.lossless and scales is not None:  # the values that a table can hold are what is counted
        found = describe(ArraySource(source.name, quotients(elements, scales).astype(source.dtype)))
    else:
        found = distribution_of(source.name, source.dtype, elements, scales)
    return Sample(found, np.sort(_entries(algorithm, request, found, nbits)))


def _entries(algorithm: ScalarAlgorithm, request: Request, found: Distribution, nbits: int) -> np.ndarray:
    if not request.whole_numbers:
        return algorithm.entries(found, nbits)
    if not algorithm.optimal:
        return np.rint(algorithm.entries(found, nbits))
    return algorithm.entries(replace(found, values=found.values + _SHIFT, dtype=np.dtype(np.float16)), nbits) - _SHIFT


def _tables(algorithm: ScalarAlgorithm, request: Request, samples: Sequence[Sample]) -> Tables:
    if request.lut_dtype is None:
        values, used = stored_tables(
            filled([sample.entries for sample in samples], request.most_nbits), request.source.dtype
        )
        return Tables(values, used, request)
    grid, chosen = quantized(algorithm, request, samples)
    codes = filled(chosen, request.most_nbits).astype(np.int64)
    return Tables(grid.decode(codes), np.array([len(row) for row in chosen]), request, codes, grid)


def _refitted(request: Request, scales: np.ndarray, fits: Sequence[Fit]) -> np.ndarray:
    """Scales of least squares for the entries as they are, in the weight's dtype; positive normal numbers."""
    cross, power = sum(made.cross for made in fits), sum(made.power for made in fits)
    info = np.finfo(request.source.dtype)
    with np.errstate(all="ignore"):
        better = np.where((cross > 0.0) & (power > 0.0), cross / power, scales)
    return np.clip(better, float(info.tiny), float(info.max)).astype(request.source.dtype).astype(np.float64)
