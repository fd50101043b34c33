"""What came of a weight and its plan: a palette, or why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from mil_palettize.algorithms.specification import PaletteSpecification
from mil_palettize.expressions.digest import expression_digest
from mil_palettize.expressions.weight_expr import WeightExpr, lut_of


@dataclass(frozen=True)
class Figures:
    """What a palette came to, kept when its data is written. ``nbytes``: of all parts; ``sse`` and ``signal``: squared
    error and sum of squares of the weight; ``seconds``: of computing it; ``digest``: of the expression;
    ``specification``: as carried out, and ``note`` why it is not the one asked for; ``weighted_error``: the squared
    error with every element's times its importance, None where none was given."""

    nbits: int
    nbytes: int
    sse: float
    signal: float
    seconds: float
    digest: str
    specification: PaletteSpecification
    note: str
    weighted_error: float | None


@dataclass(frozen=True)
class Encoded:
    """What a weight is stored as now, and how it came to be. Fields as in :class:`Figures`."""

    expr: WeightExpr
    sse: float
    signal: float
    specification: PaletteSpecification
    note: str = ""
    seconds: float = 0.0
    weighted_error: float | None = None

    @cached_property
    def figures(self) -> Figures:
        """Asked for first where the palette is made, on whatever thread that is."""
        return Figures(
            lut_of(self.expr).indices.nbits,
            self.expr.nbytes,
            self.sse,
            self.signal,
            self.seconds,
            expression_digest(self.expr),
            self.specification,
            self.note,
            self.weighted_error,
        )


@dataclass(frozen=True)
class Declined:
    """The values rule a palette out. ``unmet``: that is not what was asked for."""

    reason: str
    unmet: bool
