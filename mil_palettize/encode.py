"""A weight and its plan to a palette."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from mil_palettize.algorithms import NonFiniteError, Palette, Source, TooManyValuesError, make_palette
from mil_palettize.plan import WeightPlan, not_smaller


@dataclass(frozen=True)
class Figures:
    """What a palette came to, kept when its data is written. ``nbytes``: of indices and tables; ``sse`` and
    ``signal``: squared error and sum of squares of the weight; ``seconds``: of computing it.
    ``digest``: of :class:`Lut`."""

    nbits: int
    nbytes: int
    sse: float
    signal: float
    seconds: float
    digest: str


@dataclass(frozen=True)
class Encoded:
    """A palette, and the seconds it took."""

    palette: Palette
    seconds: float

    @property
    def figures(self) -> Figures:
        expr = self.palette.expr
        return Figures(
            expr.indices.nbits, expr.nbytes, self.palette.sse, self.palette.signal, self.seconds, expr.digest
        )


@dataclass(frozen=True)
class Declined:
    """The values rule a palette out. ``unmet``: that is not what was asked for."""

    reason: str
    unmet: bool


def encode(source: Source, plan: WeightPlan, pmap: Callable[..., Iterable[Any]]) -> Encoded | Declined:
    """Make the palette of ``plan``. Raises AlgorithmError when the user's ``lut_function`` is at fault."""
    start = time.perf_counter()
    try:
        palette = make_palette(
            source,
            mode=plan.mode,
            nbits=plan.nbits,
            allowed_nbits=plan.allowed_nbits,
            axis=plan.axis,
            group_size=plan.group_size,
            cluster_dim=plan.cluster_dim,
            lut_function=plan.lut_function,
            pmap=pmap,
        )
    except (NonFiniteError, TooManyValuesError) as error:
        return Declined(str(error).removeprefix(f"weight '{source.name}' "), unmet=True)
    before = math.prod(source.shape) * source.dtype.itemsize
    if palette.expr.nbytes >= before:
        return Declined(not_smaller(palette.expr.nbytes, before), unmet=False)
    return Encoded(palette, time.perf_counter() - start)
