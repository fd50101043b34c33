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
from mil_palettize.algorithms.quantized_grid import Grid, UnquantizableError, stored
from mil_palettize.algorithms.scalar.counted_elements import Elements, Weight, read_weight
from mil_palettize.algorithms.scalar.grouped import pack_all
from mil_palettize.algorithms.scalar.quantized_table import Sample, quantized
from mil_palettize.algorithms.scalar.scaled_assignment import Fit, fit, fit_patterns
from mil_palettize.algorithms.scalar.weighted_distribution import distribution_of, quotients
from mil_palettize.algorithms.scales import least_squares_scales
from mil_palettize.algorithms.source import ArraySource
from mil_palettize.expressions.weight_expr import Lut, Packed, Part, Scale, Sparse, WeightExpr

_CHUNK = 1 << 18  # elements of the tables that are made together
_ROUNDS = 4  # of fitting scales
_WORTH = 1e-3  # gain of a round after which another one is tried
_SHIFT = 1536.0  # moves int8 and uint8 among the float16 values that are whole numbers and nothing else (1024 to 2047)


@dataclass(frozen=True)
class Tables:
    """One table per group: ``values`` float64 (groups, width), what the entries decode to, the first ``used`` (groups,)
    of each distinct and ascending, the last of them repeated; ``part(nbits)``: as they are stored. ``codes`` and
    ``grids``, one for each: of quantized tables."""

    values: np.ndarray
    used: np.ndarray
    request: Request
    codes: np.ndarray | None = None
    grids: Sequence[Grid] = ()

    def part(self, nbits: int) -> Part:
        shape = self.request.lut_shape(nbits)
        if self.codes is not None:
            return stored(self.grids, self.codes[:, : 1 << nbits].reshape(shape))
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
    indices = np.zeros(weight.array.shape, np.uint8)
    step = max(1, _CHUNK * weight.groups // weight.array.size)

    def work(first: int) -> tuple[Tables, list[Fit]]:
        groups = range(first, min(first + step, weight.groups))
        return _chunk(algorithm, request, weight, scales, groups, indices)

    parts = list(request.pmap(work, range(0, weight.groups, step)))
    tables = _joined([part for part, _ in parts])
    fits = [made for _, part in parts for made in part]
    nbits = request.nbits_for(int(tables.used.max()))
    palette = built(request, weight, indices, tables.part(nbits), nbits, scales, fits)
    if algorithm.lossless and palette.sse > 0.0:
        raise UnquantizableError(
            f"weight '{request.source.name}' has values that are not exact in {request.source.dtype} when divided by "
            "the scales of their channels; mode 'unique' is lossless: leave out the scales, or use mode 'kmeans'"
        )
    return _Solution(palette, None if scales is None else least_squares_scales(fits, scales, request.source.dtype))


def _chunk(
    algorithm: ScalarAlgorithm,
    request: Request,
    weight: Weight,
    scales: np.ndarray | None,
    groups: Sequence[int],
    indices: np.ndarray,
) -> tuple[Tables, list[Fit]]:
    """The tables of some groups, and how they fit; fills in their ``indices`` (uint8, of the weight's shape)."""
    elements = [weight.elements(group) for group in groups]
    found = [_distribution(algorithm, request, each, scales) for each in elements]
    tables = _tables(algorithm, request, _samples(algorithm, request, found))
    fits = []
    for each, distribution, group, table, used in zip(
        elements, found, groups, tables.values, tables.used.tolist(), strict=True
    ):
        chosen = np.empty(len(each.stored), np.uint8)
        if scales is None and request.source.dtype != np.float32 and distribution is not None:
            fits.append(fit_patterns(each, distribution, table, used, chosen))
        else:
            divisors, half = np.ones(1) if scales is None else scales, request.source.dtype == np.float16
            fits.append(fit(each, divisors, table, used, half, chosen))
        weight.put(indices, group, chosen)
    return tables, fits


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


def _samples(algorithm: ScalarAlgorithm, request: Request, found: Sequence[Distribution | None]) -> list[Sample]:
    """Of every table; a table of no elements has the entry 0."""
    rows = iter(_entries(algorithm, request, [each for each in found if each is not None]))
    return [Sample(each, np.zeros(1) if each is None else np.sort(next(rows))) for each in found]


def _distribution(
    algorithm: ScalarAlgorithm, request: Request, elements: Elements, scales: np.ndarray | None
) -> Distribution | None:
    """Of the elements of one table, None where it has none."""
    if not elements.values.size:
        return None
    source = request.source
    if algorithm.lossless and scales is not None:  # the values that a table can hold are what is counted
        return describe(ArraySource(source.name, quotients(elements, scales).astype(source.dtype)))
    return distribution_of(source.name, source.dtype, elements, scales, request.most_nbits)


def _entries(algorithm: ScalarAlgorithm, request: Request, found: Sequence[Distribution]) -> list[np.ndarray]:
    """The float entries of each table: whole numbers where tables hold nothing else."""
    if not request.whole_numbers:
        return _float_entries(algorithm, request, found)
    if not algorithm.optimal:
        return [np.rint(row) for row in _float_entries(algorithm, request, found)]
    half = np.dtype(np.float16)
    shifted = [replace(each, values=each.values + _SHIFT, dtype=half) for each in found]
    return [row - _SHIFT for row in _float_entries(algorithm, request, shifted)]


def _float_entries(algorithm: ScalarAlgorithm, request: Request, found: Sequence[Distribution]) -> list[np.ndarray]:
    """Several tables at once where the algorithm can, which is quicker: they are alike."""
    nbits = request.most_nbits
    if algorithm.entries_of_groups is None or len(found) < 2 or not all(each.exact for each in found):
        return [algorithm.entries(each, nbits) for each in found]
    values, weights = np.concatenate([each.values for each in found]), np.concatenate([each.weights for each in found])
    offsets = np.cumsum([0, *(len(each.values) for each in found)])
    return list(algorithm.entries_of_groups(values, weights, offsets, found[0].dtype == np.float16, nbits))


def _tables(algorithm: ScalarAlgorithm, request: Request, samples: Sequence[Sample]) -> Tables:
    if request.lut_dtype is None:
        values, used = stored_tables(
            filled([sample.entries for sample in samples], request.most_nbits), request.source.dtype
        )
        return Tables(values, used, request)
    return on_grids(request, [(made.grid, made.codes) for made in quantized(algorithm, request, samples)])


def _joined(parts: Sequence[Tables]) -> Tables:
    """The tables of all groups, of which these are consecutive parts."""
    values, used = np.concatenate([part.values for part in parts]), np.concatenate([part.used for part in parts])
    codes = [part.codes for part in parts if part.codes is not None]
    grids = [grid for part in parts for grid in part.grids]
    return Tables(values, used, parts[0].request, np.concatenate(codes) if codes else None, grids)


def on_grids(request: Request, tables: Sequence[tuple[Grid, np.ndarray]]) -> Tables:
    """Quantized tables of a grid and codes (at most ``2**most_nbits``) each."""
    codes = filled([row for _, row in tables], request.most_nbits).astype(np.int64)
    grids = [grid for grid, _ in tables]
    values = np.stack([grid.decode(row) for grid, row in zip(grids, codes, strict=True)])
    return Tables(values, np.array([len(row) for _, row in tables]), request, codes, grids)
