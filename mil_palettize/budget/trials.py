"""Plans that were written and run: what was predicted of them, and what was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

_FEWEST = 3  # whose order says anything


@dataclass(frozen=True)
class Trial:
    """``nbytes``: of the package; ``error``: the sum of its weights' errors, as predicted; ``snr_db``: signal to noise
    of the worst output, as measured; ``uniform``: granularity, "" for mixed bits. ``accuracy_drop``: share of the held
    out samples that are right before, less that after, None where no labels were given."""

    nbytes: int
    error: float
    snr_db: float
    uniform: str = ""
    accuracy_drop: float | None = None

    @property
    def quality(self) -> str:
        """In words."""
        quality = f"{self.snr_db:.1f} dB" if math.isfinite(self.snr_db) else "nothing that can be told in decibels"
        if self.accuracy_drop is None:
            return quality
        return f"accuracy {-100 * self.accuracy_drop:+.2f} points, {quality}"

    @property
    def kind(self) -> str:
        """Of the plan, in words."""
        return f"uniform {self.uniform}" if self.uniform else "mixed bits"

    def __str__(self) -> str:
        return f"{self.kind} {self.nbytes:,} bytes, {self.quality}"

    def to_dict(self) -> dict[str, Any]:
        """Plain types only; figures that are not finite are None."""
        return asdict(self) | {"snr_db": self.snr_db if math.isfinite(self.snr_db) else None}


def rank_correlation(trials: Sequence[Trial]) -> float | None:
    """Spearman's, of the predicted errors and the noise that was measured: 1 where the same plans are better by both.
    None of fewer than three trials with a finite figure, and where all are alike by one of the two."""
    known = [trial for trial in trials if math.isfinite(trial.snr_db)]
    if len(known) < _FEWEST:
        return None
    told, measured = _ranks([trial.error for trial in known]), _ranks([-trial.snr_db for trial in known])
    if not told.std() or not measured.std():
        return None
    return float(np.corrcoef(told, measured)[0, 1])


def _ranks(values: Sequence[float]) -> np.ndarray:
    """Equal values share the mean of their places."""
    array = np.asarray(values)
    return (array[:, None] > array).sum(axis=1) + (array[:, None] == array).sum(axis=1) / 2.0
