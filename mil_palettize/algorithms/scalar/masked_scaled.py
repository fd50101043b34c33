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
from mil_palettize.algorithms.scalar.scaled_assignment import Fit, fit
from mil_palettize.algorithms.scalar.weighted_distribution import distribution_of, quotients
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
    tables = _tables(algorithm, request, _samples(algorithm, request, weight, scales))
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


def _samples(algorithm: ScalarAlgorithm, request: Request, weight: Weight, scales: np.ndarray | None) -> list[Sample]:
    """Of every table; without the distributions, unless tables are quantized."""
    step = max(1, _CHUNK * weight.groups // weight.array.size)

    def work(first: int) -> list[Sample]:
        groups = range(first, min(first + step, weight.groups))
        found = [_distribution(algorithm, request, weight.elements(group), scales) for group in groups]
        rows = iter(_entries(algorithm, request, [each for each in found if each is not None]))
        kept = found if request.lut_dtype is not None else [None] * len(found)
        none = np.zeros(1)  # entries where there are no elements
        return [
            Sample(keep, none if each is None else np.sort(next(rows))) for keep, each in zip(kept, found, strict=True)
        ]

    return [sample for part in request.pmap(work, range(0, weight.groups, step)) for sample in part]


def _distribution(
    algorithm: ScalarAlgorithm, request: Request, elements: Elements, scales: np.ndarray | None
) -> Distribution | None:
    """Of the elements of one table, None where it has none."""
    if not elements.values.size:
        return None
    source = request.source
    if algorithm.lossless and scales is not None:  # the values that a table can hold are what is counted
        return describe(ArraySource(source.name, quotients(elements, scales).astype(source.dtype)))
    return distribution_of(source.name, source.dtype, elements, scales)


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


def on_grids(request: Request, tables: Sequence[tuple[Grid, np.ndarray]]) -> Tables:
    """Quantized tables of a grid and codes (at most ``2**most_nbits``) each."""
    codes = filled([row for _, row in tables], request.most_nbits).astype(np.int64)
    grids = [grid for grid, _ in tables]
    values = np.stack([grid.decode(row) for grid, row in zip(grids, codes, strict=True)])
    return Tables(values, np.array([len(row) for _, row in tables]), request, codes, grids)


def _refitted(request: Request, scales: np.ndarray, fits: Sequence[Fit]) -> np.ndarray:
    """Scales of least squares for the entries as they are, in the weight's dtype; positive normal numbers."""
    cross, power = sum(made.cross for made in fits), sum(made.power for made in fits)
    info = np.finfo(request.source.dtype)
    with np.errstate(all="ignore"):
        better = np.where((cross > 0.0) & (power > 0.0), cross / power, scales)
    return np.clip(better, float(info.tiny), float(info.max)).astype(request.source.dtype).astype(np.float64)
