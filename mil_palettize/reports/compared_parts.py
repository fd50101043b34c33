"""What a comparison of two models has figures of: outputs, results of ops, weights."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from mil_palettize.reports.class_figures import ClassFigures, finite


@dataclass(frozen=True)
class Distance:
    """How far values are from what they were, over all elements of all samples.

    ``snr_db``: 10·log10(Σx² / Σ(x-y)²), infinite where nothing differs. ``psnr_db``: the same with the square of the
    range of x, times the elements, for Σx². ``cosine`` of the angle between them. ``max_abs``: the largest difference.

    ``elements`` are those that are compared. The others: ``non_finite`` are NaN or infinite now and were not: then the
    SNR is -infinite, and the other figures say nothing either. ``original_non_finite`` were NaN or infinite before,
    which no palette did; ``original_changed`` of these are something else now. ``huge`` are from 1e30 on and the same
    in both, as in a mask. Where nothing is left to compare, all figures are NaN. ``constant``: what all elements are in
    both, None where they are not.
    """

    elements: int
    snr_db: float
    psnr_db: float
    cosine: float
    max_abs: float
    non_finite: int = 0
    original_non_finite: int = 0
    original_changed: int = 0
    huge: int = 0
    constant: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Infinite figures are None, with ``equal`` true."""
        plain = {name: finite(value) for name, value in dataclasses.asdict(self).items()}
        return plain | {"equal": self.equal}

    @property
    def equal(self) -> bool:
        return self.max_abs == 0 and self.snr_db > 0 and not math.isfinite(self.snr_db)

    @property
    def total(self) -> int:
        """All elements, compared or not."""
        return self.elements + self.non_finite + self.original_non_finite + self.huge

    @property
    def nothing(self) -> str:
        """Why these figures say nothing of a palette, "" where they do."""
        if self.non_finite:
            return ""
        if not self.total:
            return "it has no values"
        if not self.elements and not self.original_non_finite:
            return "all values are as large as in a mask"
        if 2 * self.original_non_finite > self.total:
            return "most values of the original are not finite" if self.elements else "the original is nowhere finite"
        return "" if self.constant is None else f"every value is {self.constant:g} in both"


@dataclass(frozen=True)
class OutputComparison:
    """An output. ``figures``: None for text and dictionaries. ``worst_snr_db``: of the sample that lost most.
    ``agreement``: share of samples with the same label (a classifier's label, and what is most probable), of integer
    outputs the share of equal elements, of logits that of rows with the same most probable class, of boxes those that
    both have; None for others. ``nothing``: why there is nothing to compare, though nothing differs, "" where there is.
    ``first_non_finite``: the ops of the original that first gave NaN or infinity, in words, where it has such values.
    ``classes``: of
    probabilities and logits. ``mean_iou``: of masks (int32 of two axes or more), the intersection over the union of a
    class's area in both, the mean of all classes. ``steps``: of sequences, the same of each call."""

    name: str
    shape: tuple[int, ...]
    figures: Distance | None
    worst_snr_db: float | None = None
    agreement: float | None = None
    nothing: str = ""
    first_non_finite: str = ""
    classes: ClassFigures | None = None
    mean_iou: float | None = None
    steps: tuple[OutputComparison, ...] = ()

    @property
    def snr_db(self) -> float:
        """-inf where something is not finite any more, where labels differ and nothing else is known, and where there
        is nothing to compare."""
        if self.nothing:
            return -math.inf
        if self.figures is None:
            return math.inf if self.agreement == 1 else -math.inf
        return self.figures.snr_db

    def to_dict(self) -> dict[str, Any]:
        """Plain types only; infinite figures are None."""
        figures = {} if self.figures is None else self.figures.to_dict()
        return {
            "name": self.name,
            "shape": list(self.shape),
            **figures,
            **({"equal": False} if self.nothing and self.figures else {}),
            "nothing_to_compare": self.nothing or None,
            "first_non_finite": self.first_non_finite or None,
            "worst_snr_db": None if self.worst_snr_db is None else finite(self.worst_snr_db),
            "agreement": self.agreement,
            "mean_iou": self.mean_iou,
            "steps": [{"snr_db": finite(step.snr_db), "agreement": step.agreement} for step in self.steps],
            "classes": None if self.classes is None else self.classes.to_dict(),
        }


@dataclass(frozen=True)
class OpComparison:
    """The result of an op that both models have, in the order it is made. ``kind``: its type."""

    name: str
    kind: str
    figures: Distance


@dataclass(frozen=True)
class WeightComparison:
    """A weight as stored in both. ``bytes_before``, ``bytes_after``: of all its parts. ``counts`` of the histogram of
    the original over ``edges`` (one more), and ``entries``: the distinct values it has now, where these are few; empty
    where they were not asked for."""

    name: str
    shape: tuple[int, ...]
    bytes_before: int
    bytes_after: int
    snr_db: float
    edges: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    entries: tuple[float, ...] = ()

    @property
    def bits(self) -> float:
        """Stored now, per element, tables included."""
        return self.bytes_after * 8 / max(1, math.prod(self.shape))

    @property
    def bits_before(self) -> float:
        return self.bytes_before * 8 / max(1, math.prod(self.shape))
