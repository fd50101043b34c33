"""A weight and its plan to a palette."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mil_palettize.algorithms import (
    ArraySource,
    NonFiniteError,
    Palette,
    Source,
    TooManyValuesError,
    UnquantizableError,
    make_palette,
)
from mil_palettize.digest import expression_digest
from mil_palettize.forms import Form
from mil_palettize.plan import WeightPlan, not_smaller
from mil_palettize.weight_expr import Const, Lut, Scale, Sparse, WeightExpr, lut_of

PMap = Callable[..., Iterable[Any]]


@dataclass(frozen=True)
class Figures:
    """What a palette came to, kept when its data is written. ``nbytes``: of all parts; ``sse`` and ``signal``: squared
    error and sum of squares of the weight; ``seconds``: of computing it; ``digest``: of the expression; ``plan``:
    as carried out, and ``note`` why it is not the one asked for."""

    nbits: int
    nbytes: int
    sse: float
    signal: float
    seconds: float
    digest: str
    plan: WeightPlan
    note: str


@dataclass(frozen=True)
class Encoded:
    """What a weight is stored as now, and how it came to be. Fields as in :class:`Figures`."""

    expr: WeightExpr
    sse: float
    signal: float
    seconds: float
    plan: WeightPlan
    note: str = ""

    @property
    def figures(self) -> Figures:
        nbits = lut_of(self.expr).indices.nbits
        digest = expression_digest(self.expr)
        return Figures(nbits, self.expr.nbytes, self.sse, self.signal, self.seconds, digest, self.plan, self.note)


@dataclass(frozen=True)
class Declined:
    """The values rule a palette out. ``unmet``: that is not what was asked for."""

    reason: str
    unmet: bool


def encode(
    source: Source, plan: WeightPlan, form: Form, pmap: PMap, held: WeightExpr | None = None
) -> Encoded | Declined:
    """Make the palette of ``plan``. ``held``: what a compressed constant is stored as, of which the palette replaces
    the values that are left (:class:`Sparse`) or the integers (:class:`Scale`); then ``source`` is not read.

    Raises AlgorithmError when the user's ``lut_function`` is at fault.
    """
    start = time.perf_counter()
    try:
        palette, made, note = _with_spread(source, plan, pmap, held)
    except (NonFiniteError, TooManyValuesError, UnquantizableError) as error:
        return Declined(str(error).removeprefix(f"weight '{source.name}' "), unmet=True)
    encoded = _finished(palette, made, note, form, held)
    before = _nbytes(source, held)
    if encoded.expr.nbytes >= before:
        return Declined(not_smaller(encoded.expr.nbytes, before), unmet=False)
    return replace(encoded, seconds=time.perf_counter() - start)


def _nbytes(source: Source, held: WeightExpr | None) -> int:
    """What the weight takes now."""
    return math.prod(source.shape) * source.dtype.itemsize if held is None else held.nbytes


def _with_spread(
    source: Source, plan: WeightPlan, pmap: PMap, held: WeightExpr | None
) -> tuple[Palette, WeightPlan, str]:
    """The palette, as planned or with a table for each channel where one cannot hold all values; the plan carried out,
    and why it is another. Raises what ``make_palette`` does."""
    spread = replace(plan, axis=plan.spread_axis, group_size=1)
    try:
        return _palette(source, plan, pmap, held), plan, ""
    except TooManyValuesError as error:
        if plan.spread_axis is None or spread == plan:
            raise
        note = f"{error.found} or more distinct values: a table for each channel of axis {spread.axis} instead of one"
        with suppress(TooManyValuesError):
            palette = _palette(source, spread, pmap, held)
            if palette.expr.nbytes < _nbytes(source, held):
                return palette, spread, note
        raise


def _palette(source: Source, plan: WeightPlan, pmap: PMap, held: WeightExpr | None) -> Palette:
    mask, importance = None, None
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
    )


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


def _finished(palette: Palette, plan: WeightPlan, note: str, form: Form, held: WeightExpr | None) -> Encoded:
    if not isinstance(held, Scale):
        return Encoded(palette.expr, palette.sse, palette.signal, 0.0, plan, note)
    expr = _rescaled(lut_of(palette.expr), held, form)
    wide = held.decode().astype(np.float64)
    difference = wide - expr.decode()
    return Encoded(expr, float(np.vdot(difference, difference)), float(np.vdot(wide, wide)), 0.0, plan, note)


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
