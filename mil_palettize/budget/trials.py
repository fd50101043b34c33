"""Plans that were written and run: what was predicted of them, and what was measured."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


def kind_of(uniform: str) -> str:
    """Of a plan, in words. ``uniform``: granularity, "" for mixed bits."""
    return f"uniform {uniform}" if uniform else "mixed bits"


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
        return kind_of(self.uniform)

    def __str__(self) -> str:
        return f"{self.kind}, {self.nbytes:,} bytes, {self.quality}"

    def to_dict(self) -> dict[str, Any]:
        """Plain types only; figures that are not finite are None."""
        return asdict(self) | {"snr_db": self.snr_db if math.isfinite(self.snr_db) else None}
