"""Palettes of vectors that are more than plain: masked, scaled by channel, weighted, with quantized tables.

The weight is in memory as a whole. Entries are those of the vectors divided by first scales, an error counting by the
square of its scale and by importance; then scales and entries are fitted to each other while that helps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mil_palettize.algorithms.array_palette import one_at_a_time
from mil_palettize.algorithms.palette import ArrayAlgorithm, Palette, Request
from mil_palettize.algorithms.quantized_grid import UnquantizableError, exact_grid, proposed, stored
from mil_palettize.algorithms.scalar.counted_elements import Weight, read_weight
from mil_palettize.algorithms.scalar.grouped import pack_all
from mil_palettize.algorithms.scales import least_squares_scales, stored_scales
from mil_palettize.algorithms.vector.counted_vectors import CountedVectors, counted_vectors, vectors_of
from mil_palettize.algorithms.vector.fits import Fit, Table, fit
from mil_palettize.algorithms.vector.palettes import VectorAlgorithm
from mil_palettize.expressions.weight_expr import Lut, Packed, Part, Scale, Sparse, WeightExpr

_ROUNDS = 8
_WORTH = 1e-3  # gain of a round after which another one is made


@dataclass(frozen=True, eq=False)
class _Solution:
    """``scales``: float64 numbers of the weight's dtype, one for each channel, or None; ``fits``: of the tables."""

    scales: np.ndarray | None
    fits: Sequence[Fit]

    @property
    def error(self) -> float:
        return math.fsum(made.error for made in self.fits)


def shaped_vector_palette(algorithm: VectorAlgorithm | ArrayAlgorithm, request: Request) -> Palette:
    """The palette of a weight that is read whole.

    Raises ``NonFiniteError``, ``UnquantizableError`` (a lossless palette), and what the algorithm raises.
    """
    weight = read_weight(request)
    if isinstance(algorithm, ArrayAlgorithm):
        return _built(request, weight, _as_the_user_says(algorithm, request, weight))
    scaled = weight.scale_axis is not None
    vectors = counted_vectors(request, weight, rounded=scaled and algorithm.lossless)
    best: _Solution | None = None
    for scales in _first_scales(weight, algorithm.lossless):
        made = _solved(algorithm, request, vectors, scales)
        best = made if best is None or made.error < best.error else best
        if best.error == 0.0:
            break
    assert best is not None
    if not algorithm.lossless:
        best = _refined(request, vectors, best)
    elif best.error > 0.0:
        raise UnquantizableError(
            f"weight '{request.source.name}' has values that are not exact in {request.source.dtype} when divided by "
            "the scales of their channels; mode 'unique' is lossless: leave out the scales, or use mode 'kmeans'"
        )
    return _built(request, weight, best)


def _first_scales(weight: Weight, lossless: bool) -> list[np.ndarray | None]:
    """Those to try: the largest magnitude of each channel, which keeps what was scaled by it exact, and its root mean
    square, by which channels of one kind look alike whatever their outliers are."""
    if weight.scale_axis is None:
        return [None]
    largest = weight.first_scales()
    if lossless:
        return [largest]
    others = tuple(axis for axis in range(weight.array.ndim) if axis != weight.scale_axis)
    kept = np.ones(weight.array.shape, bool) if weight.mask is None else weight.mask
    squares = np.square(np.where(kept, weight.array, 0), dtype=np.float64)
    means = np.sqrt(squares.sum(axis=others) / np.maximum(kept.sum(axis=others), 1))
    return [largest, stored_scales(means, weight.array.dtype)]


def _over_groups(request: Request, work: Callable[[int], Fit]) -> list[Fit]:
    return list((map if request.groups == 1 else request.pmap)(work, range(request.groups)))


def _solved(
    algorithm: VectorAlgorithm, request: Request, vectors: Sequence[CountedVectors], scales: np.ndarray | None
) -> _Solution:
    """Tables for given scales."""

    def work(group: int) -> Fit:
        own = vectors[group].scaled(scales)
        if not own.count:
            return fit(own, _tables(request, own, np.zeros((1, own.dim)), np.ones((1, own.dim)))[0])
        entries = np.clip(algorithm.entries(own, request.most_nbits), -own.largest, own.largest)
        if algorithm.lossless and request.lut_dtype is not None:
            grid = exact_grid(own.name, request.lut_dtype, own.dtype, entries)
            codes = grid.nearest(entries)
            return fit(own, Table(grid.decode(codes), grid, codes))
        masses = np.ones(entries.shape) if request.lut_dtype is None else fit(own, Table(entries)).masses
        return min((fit(own, table) for table in _tables(request, own, entries, masses)), key=lambda made: made.error)

    return _Solution(scales, _over_groups(request, work))


def _tables(request: Request, vectors: CountedVectors, entries: np.ndarray, masses: np.ndarray) -> list[Table]:
    """Entries as tables store them: rounded, or on each of some grids."""
    if request.lut_dtype is None:
        held = entries.astype(vectors.dtype).astype(np.float64) + 0.0
        return [Table(np.unique(held, axis=0))]
    grids = proposed(request.lut_dtype, vectors.dtype, entries, masses, vectors.count)
    return [Table(grid.decode(codes), grid, codes) for grid in grids for codes in [grid.nearest(entries)]]


def _refined(request: Request, vectors: Sequence[CountedVectors], best: _Solution) -> _Solution:
    """Scales fitted to the entries, and entries moved to their means, in turn; what does not help is not taken."""
    for _ in range(_ROUNDS):
        before = best.error
        if before == 0.0:
            break
        if best.scales is not None:
            best = _better(best, _refitted(request, vectors, best))
        best = _better(best, _moved(request, vectors, best))
        if not best.error < before * (1.0 - _WORTH):
            break
    return best


def _better(one: _Solution, other: _Solution) -> _Solution:
    return other if other.error < one.error else one


def _refitted(request: Request, vectors: Sequence[CountedVectors], before: _Solution) -> _Solution:
    """With scales of least squares for the entries as they are."""
    assert before.scales is not None
    held = least_squares_scales(before.fits, before.scales, vectors[0].dtype)
    return _Solution(
        held, _over_groups(request, lambda group: fit(vectors[group].scaled(held), before.fits[group].table))
    )


def _moved(request: Request, vectors: Sequence[CountedVectors], before: _Solution) -> _Solution:
    """With entries at the means of their vectors, those of quantized tables on the same grid or a refitted one."""

    def work(group: int) -> Fit:
        own, made = vectors[group].scaled(before.scales), before.fits[group]
        grid, codes = made.table.grid, made.table.codes
        if grid is None or codes is None:
            tried = _tables(request, own, np.clip(made.means, -own.largest, own.largest), made.masses)
        else:
            grids = dict.fromkeys((grid, grid.refitted(codes, made.means, made.masses)))
            tried = [Table(g.decode(c), g, c) for g in grids for c in [g.nearest(made.means)]]
        return min((made, *(fit(own, table) for table in tried)), key=lambda other: other.error)

    return _Solution(before.scales, _over_groups(request, work))


def _as_the_user_says(algorithm: ArrayAlgorithm, request: Request, weight: Weight) -> _Solution:
    """Entries and indices by a user's function, which sees each group divided by the scales; of a masked weight the
    vectors alone, (cluster_dim, vectors). It is not called where a mask leaves nothing."""
    scales = None if weight.scale_axis is None else weight.first_scales()
    array = weight.array.astype(np.float64) if scales is None else weight.array / weight.spread(scales)
    found = [own.scaled(scales) for own in counted_vectors(request, weight)]
    fits = []
    with one_at_a_time:
        for group, own in enumerate(found):
            entries, indices = _asked(algorithm, request, weight, array, group, own)
            fits.append(min((fit(own, table, indices) for table in _given_tables(request, entries, indices, own)),
                            key=lambda made: made.error))  # fmt: skip
    return _Solution(scales, fits)


def _given_tables(request: Request, entries: np.ndarray, indices: np.ndarray, vectors: CountedVectors) -> list[Table]:
    """The entries in their order."""
    if request.lut_dtype is None:
        return [Table(entries)]
    counts = np.bincount(indices, minlength=len(entries)).astype(np.float64)
    return _tables(request, vectors, entries, np.repeat(counts[:, None], vectors.dim, axis=1))


def _asked(
    algorithm: ArrayAlgorithm, request: Request, weight: Weight, array: np.ndarray, group: int, own: CountedVectors
) -> tuple[np.ndarray, np.ndarray]:
    """Entries (float64) and the index of each vector (uint8) of a group."""
    dtype = request.source.dtype
    if not own.count:
        return np.zeros((1, own.dim)), np.zeros(0, np.uint8)
    if weight.mask is not None:
        entries, indices = algorithm.codes(np.array(own.read(np.arange(own.count)).T, dtype, order="C"), request)
        return entries.astype(np.float64), indices.astype(np.uint8)
    # As coremltools shows it: the axis of the vectors first, swapped with the first one.
    seen = np.split(np.swapaxes(array, 0, request.axis), request.groups)[group]
    entries, codes = algorithm.codes(np.array(seen, dtype, order="C"), request)
    swapped = codes.astype(np.uint8).reshape(seen.shape[0] // own.dim, *seen.shape[1:])
    return entries.astype(np.float64), vectors_of(np.swapaxes(swapped, 0, request.axis), request.axis, 1)[:, 0]


def _built(request: Request, weight: Weight, made: _Solution) -> Palette:
    """The palette as it is stored."""
    nbits = request.nbits_for(max(len(each.table.values) for each in made.fits))
    indices = _in_place(request, [each.indices for each in made.fits])
    packed = Packed(pack_all(indices.reshape(-1), nbits, request), nbits, request.indices_shape)
    expr: WeightExpr = Lut(packed, _part(request, nbits, made.fits), request.axis)
    if made.scales is not None:
        expr = Scale(expr, made.scales.astype(request.source.dtype).reshape(weight.scale_shape))
    if request.mask is not None:
        expr = Sparse(expr, request.mask)
    signal = math.fsum(each.signal for each in made.fits)
    return Palette(expr, made.error * weight.largest_importance, signal * weight.largest_importance)


def _in_place(request: Request, of_groups: Sequence[np.ndarray]) -> np.ndarray:
    """The indices of all vectors: uint8 of ``request.indices_shape``, 0 where a mask leaves a vector out."""
    shape, axis = request.indices_shape, request.axis
    outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    blocks = (outer, request.groups, shape[axis] // request.groups, inner)
    indices = np.zeros(blocks, np.uint8)
    mask = None if request.mask is None else request.mask.unpack().view(bool).reshape(blocks)
    for group, own in enumerate(of_groups):
        if mask is None:
            indices[:, group] = own.reshape(outer, -1, inner)
        else:
            indices[:, group][mask[:, group]] = own
    return indices.reshape(shape)


def _part(request: Request, nbits: int, fits: Sequence[Fit]) -> Part:
    """The tables, the last entry of each repeated."""

    def wide(rows: np.ndarray) -> np.ndarray:
        return np.pad(rows, ((0, (1 << nbits) - len(rows)), (0, 0)), mode="edge")

    shape = request.lut_shape(nbits)
    grids = [made.table.grid for made in fits if made.table.grid is not None]
    if not grids:
        return np.stack([wide(made.table.values) for made in fits]).astype(request.source.dtype).reshape(shape)
    codes = [wide(made.table.codes) for made in fits if made.table.codes is not None]
    return stored(grids, np.stack(codes).reshape(shape))
