"""A weight and its specification to a palette."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mil_palettize.algorithms.making import (
    ArraySource,
    Distribution,
    NonFiniteError,
    Palette,
    Source,
    TooManyValuesError,
    UnquantizableError,
    WatchedSource,
    describe,
    make_palette,
)
from mil_palettize.algorithms.registry import weighs
from mil_palettize.algorithms.specification import PaletteSpecification
from mil_palettize.encoding.kept_checks import check_errors
from mil_palettize.encoding.kept_files import DamagedError
from mil_palettize.encoding.palette_cache import Clustered, palette_key
from mil_palettize.encoding.results import Declined, Encoded
from mil_palettize.expressions.weight_expr import Const, Lut, Scale, Sparse, WeightExpr, lut_of
from mil_palettize.planning.sizes import not_smaller
from mil_palettize.program.forms import Form
from mil_palettize.request.importance import Importance

_LEAST = 1e-30  # part of the largest importance that the least one is raised to
PMap = Callable[..., Iterable[Any]]
Distinct = Callable[[Source], Distribution]


@dataclass(frozen=True)
class Task:
    """A palette to make; may be sent to another process, where ``source`` may.

    ``held``: what a compressed constant is stored as, of which the palette replaces the values that are left
    (:class:`Sparse`) or the integers (:class:`Scale`); then ``source`` is not read. ``clustered``: where palettes are
    kept, None where they are not. ``importance``: of the weight's elements, None where all count the same.
    """

    source: Source
    specification: PaletteSpecification
    form: Form
    held: WeightExpr | None = None
    clustered: Clustered | None = None
    importance: Importance | None = None

    def __call__(self, pmap: PMap = map) -> Encoded | Declined:
        """Make it. ``pmap``: like ``map``, for pieces of the weight. Raises AlgorithmError when the user's
        ``lut_function`` is at fault, PackageError when what was clustered cannot be kept."""
        start = time.perf_counter()
        task = replace(self, source=WatchedSource(self.source))
        try:
            encoded = task._made(pmap) if self.clustered is None else task._kept(self.clustered, pmap)
        except (NonFiniteError, TooManyValuesError, UnquantizableError) as error:
            return Declined(str(error).removeprefix(f"weight '{self.source.name}' "), unmet=True)
        if encoded.expr.nbytes >= self.nbytes:
            return Declined(not_smaller(encoded.expr.nbytes, self.nbytes), unmet=False)
        done = replace(encoded, seconds=time.perf_counter() - start)
        _ = done.figures  # worked out here, not by the one thread that writes
        return done

    @property
    def nbytes(self) -> int:
        """What the weight takes now."""
        if self.held is not None:
            return self.held.nbytes
        return math.prod(self.source.shape) * self.source.dtype.itemsize

    def _kept(self, clustered: Clustered, pmap: PMap) -> Encoded:
        """The palette that was made of the same content before, else a new one, which is kept."""
        if self.specification.lut_function is not None:  # who knows what it does
            return self._made(pmap)
        content = clustered.content(self.source, self.held)
        key = palette_key(content, self.specification, self.form, self.importance)
        found = clustered.palette(key, self.specification, self.source, self.held, self.importance)
        if found is None:
            found = self._made_of_kept(_KeptDistinct(clustered, content), pmap)
            clustered.keep_palette(key, found)
        return found

    def _made_of_kept(self, distinct: _KeptDistinct, pmap: PMap) -> Encoded:
        """The palette, of the distinct values that are kept if they are the weight's: their own check says only that
        they may be."""
        try:
            made = self._made(pmap, distinct)
            if not distinct.taken:
                return made
            check_errors(made, self.source, self.held, self.importance)
        except (DamagedError, TooManyValuesError):
            if not distinct.taken:
                raise
            return self._made(pmap, distinct.anew)
        return made

    def _made(self, pmap: PMap, distinct: Distinct = describe) -> Encoded:
        """The palette, as planned or, where one table cannot hold all values, with a table for each channel."""
        asked = self.specification
        try:
            return self._finished(self._palette(asked, pmap, distinct), asked, self._filled_up())
        except TooManyValuesError as error:
            spread = replace(asked, axis=asked.spread_axis, group_size=1)
            if asked.spread_axis is None or spread == asked:
                raise
            instead = f"a table for each channel of axis {spread.axis} instead of one"
            note = f"more than {error.limit} distinct values: {instead}"
            with suppress(TooManyValuesError):
                encoded = self._finished(self._palette(spread, pmap, distinct), spread, note)
                if encoded.expr.nbytes < self.nbytes:
                    return encoded
            raise

    def _filled_up(self) -> str:
        """Of a sparse weight: which zeros get a palette, because they lie in a vector with something else."""
        if not isinstance(self.held, Sparse) or self.specification.cluster_dim == 1:
            return ""
        vectors = self.specification.mask_of(self.held.mask)
        zeros = self.specification.cluster_dim * vectors.ones() - self.held.count
        if not zeros:
            return ""
        pruned = self.held.mask.count - self.held.count
        return f"{zeros:,} of {pruned:,} zeros share a vector with other values and are palettized with them"

    def _palette(self, specification: PaletteSpecification, pmap: PMap, distinct: Distinct) -> Palette:
        source, held, mask = self.source, self.held, None
        own = self.importance.array if self.importance is not None and weighs(specification) else None
        if isinstance(held, Sparse):
            source, mask = ArraySource(source.name, held.decode()), specification.mask_of(held.mask)
        elif isinstance(held, Scale):
            source, own = ArraySource(source.name, _bytes(held.data.decode())), _importance(source.name, held, own)
        return make_palette(source, specification, pmap=pmap, mask=mask, importance=own, distinct=distinct)

    def _finished(self, palette: Palette, specification: PaletteSpecification, note: str) -> Encoded:
        """With the errors of the weight itself: those of a palette may be weighted, or of its integers."""
        if not isinstance(self.held, Scale) and self.importance is None:
            return Encoded(palette.expr, palette.sse, palette.signal, specification, note)
        expr = palette.expr
        if isinstance(self.held, Scale):
            expr = _rescaled(lut_of(palette.expr), self.held, self.form)
        wide = (self.source.read() if self.held is None else self.held.decode()).astype(np.float64)
        if not np.isfinite(wide).all():
            raise NonFiniteError(self.source.name, int(np.isnan(wide).sum()), int(np.isinf(wide).sum()))
        difference = wide - expr.decode()
        error, weighted = float(np.vdot(difference, difference)), None
        if self.importance is not None:
            weighted = float(np.vdot(self.importance.spread(wide.shape) * difference, difference))
        return Encoded(expr, error, float(np.vdot(wide, wide)), specification, note, weighted_error=weighted)


class _KeptDistinct:
    """The distinct values of a weight, kept for other numbers of bits. ``taken``: whether they were there."""

    def __init__(self, clustered: Clustered, content: str) -> None:
        self._clustered, self._content = clustered, content
        self.taken = False

    def __call__(self, source: Source) -> Distribution:
        found = self._clustered.distribution(self._content, source)
        if found is None:
            return self.anew(source)
        self.taken = True
        return found

    def anew(self, source: Source) -> Distribution:
        found = describe(source)
        self._clustered.keep_distribution(self._content, found)
        return found


def _bytes(integers: np.ndarray) -> np.ndarray:
    """Integers as int8 or uint8."""
    return integers.astype(np.int8 if integers.dtype.kind == "i" else np.uint8, copy=False)


def _importance(name: str, held: Scale, own: np.ndarray | None) -> np.ndarray:
    """Squared scales, times what the elements count by themselves (``own``, None for 1).

    An error of 1 in an integer is one of the scale in the weight. Zeros count next to nothing.
    """
    scale = held.scale if isinstance(held.scale, np.ndarray) else held.scale.decode()
    squares = np.square(scale.astype(np.float64))
    if not np.isfinite(squares).all():
        raise NonFiniteError(name, int(np.isnan(squares).sum()), int(np.isinf(squares).sum()))
    squares = np.maximum(squares, max(float(squares.max(initial=0.0)), 1.0) * _LEAST)
    if own is None:
        return squares
    product = _product(squares / squares.max(), own.astype(np.float64) / own.max())
    return np.maximum(product, product.max() * _LEAST)


def _product(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of numbers that hold for blocks of an array, of different sizes perhaps."""
    for axis, (size, others) in enumerate(zip(one.shape, other.shape, strict=True)):
        common = math.lcm(size, others)
        one, other = (np.repeat(part, common // part.shape[axis], axis=axis) for part in (one, other))
    return one * other


def _rescaled(lut: Lut, held: Scale, form: Form) -> WeightExpr:
    """``held`` with a palette of its integers: scaled after the look-up, or in tables repeated for every scale."""
    if not form.tables_scaled_first:
        return replace(held, data=lut)
    table = lut.table
    for axis, blocks in enumerate(held.scale.shape):
        table = np.repeat(table, math.lcm(table.shape[axis], blocks) // table.shape[axis], axis=axis)
    scale, offset = (None if part is None else _for_tables(part) for part in (held.scale, held.offset))
    assert scale is not None
    return Lut(lut.indices, Scale(Const(np.ascontiguousarray(table)), scale, offset))


def _for_tables(part: np.ndarray | WeightExpr) -> np.ndarray:
    array = part if isinstance(part, np.ndarray) else part.decode()
    return array.reshape(*array.shape, 1, 1)
