"""A weight and its plan to a palette."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
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
from mil_palettize.encoding.palette_cache import Clustered
from mil_palettize.encoding.results import Declined, Encoded
from mil_palettize.expressions.weight_expr import Const, Lut, Scale, Sparse, WeightExpr, lut_of
from mil_palettize.planning.plan import WeightPlan, not_smaller
from mil_palettize.program.forms import Form

PMap = Callable[..., Iterable[Any]]
Distinct = Callable[[Source], Distribution]


@dataclass(frozen=True)
class Task:
    """A palette to make; may be sent to another process, where ``source`` may.

    ``held``: what a compressed constant is stored as, of which the palette replaces the values that are left
    (:class:`Sparse`) or the integers (:class:`Scale`); then ``source`` is not read. ``clustered``: where palettes are
    kept, None where they are not.
    """

    source: Source
    plan: WeightPlan
    form: Form
    held: WeightExpr | None = None
    clustered: Clustered | None = None

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
        if self.plan.lut_function is not None:  # who knows what it does
            return self._made(pmap)
        content = clustered.content(self.source, self.held)
        found = clustered.palette(content, self.plan, self.form, self.source, self.held)
        if found is None:
            made = self._made(pmap, partial(_distinct, clustered, content))
            found = made
            clustered.keep_palette(content, self.plan, self.form, made)
        return found

    def _made(self, pmap: PMap, distinct: Distinct = describe) -> Encoded:
        """The palette, as planned or, where one table cannot hold all values, with a table for each channel."""
        try:
            return self._finished(self._palette(self.plan, pmap, distinct), self.plan, "")
        except TooManyValuesError as error:
            spread = replace(self.plan, axis=self.plan.spread_axis, group_size=1)
            if self.plan.spread_axis is None or spread == self.plan:
                raise
            note = (
                f"{error.found} or more distinct values: a table for each channel of axis {spread.axis} instead of one"
            )
            with suppress(TooManyValuesError):
                encoded = self._finished(self._palette(spread, pmap, distinct), spread, note)
                if encoded.expr.nbytes < self.nbytes:
                    return encoded
            raise

    def _palette(self, plan: WeightPlan, pmap: PMap, distinct: Distinct) -> Palette:
        source, held, mask, importance = self.source, self.held, None, None
        if isinstance(held, Sparse):
            source, mask = ArraySource(source.name, held.decode()), held.mask
        elif isinstance(held, Scale):
            source, importance = ArraySource(source.name, _bytes(held.data.decode())), _importance(source.name, held)
        return make_palette(
            source,
            mode=plan.mode,
            nbits=plan.nbits,
            allowed_nbits=plan.allowed_nbits,
            axis=plan.axis,
            group_size=plan.group_size,
            cluster_dim=plan.cluster_dim,
            lut_function=plan.lut_function,
            pmap=pmap,
            mask=mask,
            scale_axis=plan.scale_axis,
            lut_dtype=plan.lut_dtype,
            importance=importance,
            distinct=distinct,
        )

    def _finished(self, palette: Palette, plan: WeightPlan, note: str) -> Encoded:
        if not isinstance(self.held, Scale):
            return Encoded(palette.expr, palette.sse, palette.signal, plan, note)
        expr = _rescaled(lut_of(palette.expr), self.held, self.form)
        wide = self.held.decode().astype(np.float64)
        if not np.isfinite(wide).all():
            raise NonFiniteError(self.source.name, int(np.isnan(wide).sum()), int(np.isinf(wide).sum()))
        difference = wide - expr.decode()
        return Encoded(expr, float(np.vdot(difference, difference)), float(np.vdot(wide, wide)), plan, note)


def _distinct(clustered: Clustered, content: str, source: Source) -> Distribution:
    """The distinct values of a weight, kept for other numbers of bits."""
    found = clustered.distribution(content, source)
    if found is None:
        found = describe(source)
        clustered.keep_distribution(content, found)
    return found


def _bytes(integers: np.ndarray) -> np.ndarray:
    """Integers as int8 or uint8."""
    return integers.astype(np.int8 if integers.dtype.kind == "i" else np.uint8, copy=False)


def _importance(name: str, held: Scale) -> np.ndarray:
    """Squared scales: an error of 1 in an integer is one of the scale in the weight. Zeros count next to nothing."""
    scale = held.scale if isinstance(held.scale, np.ndarray) else held.scale.decode()
    squares = np.square(scale.astype(np.float64))
    if not np.isfinite(squares).all():
        raise NonFiniteError(name, int(np.isnan(squares).sum()), int(np.isinf(squares).sum()))
    return np.maximum(squares, max(float(squares.max(initial=0.0)), 1.0) * 1e-30)


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
