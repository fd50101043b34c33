"""What came of a weight and its plan: a palette, or why there is none; and of all weights of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from mil_palettize.algorithms.specification import PaletteSpecification
from mil_palettize.encoding.bulk import bulk_db
from mil_palettize.expressions.digest import expression_digest
from mil_palettize.expressions.weight_expr import WeightExpr, lut_of
from mil_palettize.program.weight import WeightId


@dataclass(frozen=True)
class CalibrationFigures:
    """How a palette was chosen by what its op gives. Fields as in :class:`CalibrationReport`."""

    method: str
    damping: float
    samples: int
    before_db: float | None
    after_db: float | None


@dataclass(frozen=True)
class Figures:
    """What a palette came to, kept when its data is written. ``nbytes``: of all parts; ``sse`` and ``signal``: squared
    error and sum of squares of the weight; ``seconds``: of computing it; ``digest``: of the expression;
    ``specification``: as carried out, and ``note`` why it is not the one asked for; ``weighted_error``: the squared
    error with every element's times its importance, None where none was given; ``calibration``: None without one;
    ``kept``: from an earlier run, and not made by this one; ``bulk_db``: signal to noise of most elements, see
    :func:`bulk_db`, None where it is not known, and beside calibration, which looks at what ops give."""

    nbits: int
    nbytes: int
    sse: float
    signal: float
    seconds: float
    digest: str
    specification: PaletteSpecification
    note: str
    weighted_error: float | None
    calibration: CalibrationFigures | None = None
    kept: bool = False
    bulk_db: float | None = None


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
    calibration: CalibrationFigures | None = None
    kept: bool = False

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
            self.calibration,
            self.kept,
            bulk_db(self.expr, self.sse) if self.calibration is None else None,
        )


@dataclass(frozen=True)
class Declined:
    """The values rule a palette out. ``unmet``: that is not what was asked for."""

    reason: str
    unmet: bool


@dataclass
class Rewritten:
    """What came of a plan. ``results``: of planned weights. ``splits``: weights that shared a record and no longer do.
    ``dropped_records``: that no program pointed at, None where that could not be found out."""

    results: dict[WeightId, Figures | Declined] = field(default_factory=dict)
    splits: frozenset[WeightId] = frozenset()
    dropped_records: int | None = 0
