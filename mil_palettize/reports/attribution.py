"""Which weights make the error of a model's outputs: what each does alone, and what is left without the worst."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from mil_palettize.reports.class_figures import finite
from mil_palettize.reports.decibels import decibels
from mil_palettize.text import format_count


@dataclass(frozen=True)
class WeightLoss:
    """What one weight does. ``error``: of the outputs where it alone is what it is now, and all others are what they
    were: squared, each output relative to its power, together; infinite where values are not finite any more.
    ``reader``: the result of the first op that reads it, as ops are called, "" where none is to be seen.
    ``error_without``: where this weight and all that do more are what they were, and the others what they are now; None
    where that was not measured."""

    name: str
    error: float
    reader: str = ""
    error_without: float | None = None

    @property
    def snr_db(self) -> float:
        return decibels(1.0, self.error)

    @property
    def snr_db_without(self) -> float | None:
        return None if self.error_without is None else decibels(1.0, self.error_without)


@dataclass(frozen=True)
class Attribution:
    """``losses``: of weights that are not what they were, the largest first. ``error``: where all of them are what they
    are now, and nothing else of the package is. ``samples``: that this was measured on. ``function``: that it is of, ""
    where only one is looked at."""

    losses: tuple[WeightLoss, ...]
    error: float
    samples: int
    function: str = ""

    @property
    def snr_db(self) -> float:
        return decibels(1.0, self.error)

    @property
    def shares(self) -> list[float]:
        """Of each weight, of the sum of what all do alone; NaN where a weight makes that infinite."""
        total = math.fsum(one.error for one in self.losses)
        return [one.error / total if total else 0.0 for one in self.losses]

    @property
    def rows(self) -> list[tuple[WeightLoss, float, float]]:
        """Each weight with its share, and that of all up to it."""
        return list(zip(self.losses, self.shares, accumulate(self.shares), strict=True))

    def of_function(self, name: str) -> Attribution:
        """With names as those of ops and weights where several functions are told of."""
        named = (
            replace(one, name=f"{name}/{one.name}", reader=one.reader and f"{name}/{one.reader}") for one in self.losses
        )
        return replace(self, losses=tuple(named), function=name)

    def sentence(self) -> str:
        """How to read it."""
        return (
            f"Each weight alone as it is now, the others as they were, on {format_count(self.samples, 'sample')}; all "
            f"{len(self.losses)} together: {_told(self.snr_db)}. Without: this weight and those above as they were."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain types only; figures that are not finite are None."""
        return {
            "function": self.function or None,
            "samples": self.samples,
            "snr_db": finite(self.snr_db),
            "weights": [
                {"name": one.name, "op": one.reader or None, "snr_db": finite(one.snr_db), "share": finite(share),
                 "cumulative_share": finite(total), "snr_db_without": finite(one.snr_db_without)}
                for one, share, total in self.rows
            ],
        }  # fmt: skip


def _told(snr_db: float) -> str:
    return f"{snr_db:.1f} dB" if math.isfinite(snr_db) else "no difference" if snr_db > 0 else "not finite"
