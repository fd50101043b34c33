"""How far choices among classes are from what they were: logits of tokens, probabilities of a classifier."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

_NORMAL_95 = 1.959963984540054  # 97.5 % of a normal distribution lie below


@dataclass(frozen=True)
class TargetFigures:
    """Of the rows whose right class is known. ``lost``: rows that only the original gets right, ``won``: that only the
    other does. ``perplexity``: the exponential of the mean of -log p(right class)."""

    rows: int
    right_before: int
    lost: int
    won: int
    perplexity_before: float
    perplexity_after: float

    @property
    def accuracy_before(self) -> float:
        return self.right_before / self.rows

    @property
    def accuracy_after(self) -> float:
        return (self.right_before - self.lost + self.won) / self.rows

    @property
    def difference(self) -> tuple[float, float]:
        """The interval that holds the change of accuracy with 95 %, by what McNemar's test looks at: rows that only one
        of the two gets right. Source: Agresti and Min, "Simple improved confidence intervals for comparing matched
        proportions", Statistics in Medicine 24 (2005): half a row more in each cell."""
        rows, lost, won = self.rows + 2, self.lost + 0.5, self.won + 0.5
        middle = (won - lost) / rows
        reach = _NORMAL_95 * math.sqrt((won + lost - (won - lost) ** 2 / rows) / rows**2)
        return max(-1.0, middle - reach), min(1.0, middle + reach)

    @property
    def within_noise(self) -> bool:
        """Whether so few rows cannot tell the two accuracies apart."""
        low, high = self.difference
        return low <= 0 <= high

    def to_dict(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "accuracy_before": self.accuracy_before,
            "accuracy_after": self.accuracy_after,
            "lost": self.lost,
            "won": self.won,
            "difference": list(self.difference),
            "within_noise": self.within_noise,
            "perplexity_before": finite(self.perplexity_before),
            "perplexity_after": finite(self.perplexity_after),
        }


@dataclass(frozen=True)
class ClassFigures:
    """``rows`` of classes, over all samples. ``same``: share of rows whose most probable class is the same. ``top_5``:
    share of the original's five most probable classes that are among the other's five, None of five classes or less.
    ``kl_mean``, ``kl_worst``: Σ p·log(p/q) of a row in nats, p of the original, infinite where q is 0 of logits.
    ``left_out``: rows that are not numbers in the original. ``targets``: None where no right class is known."""

    rows: int
    same: float
    top_5: float | None
    kl_mean: float
    kl_worst: float
    left_out: int = 0
    targets: TargetFigures | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain types only; infinite figures are None."""
        return {
            "rows": self.rows,
            "same": self.same,
            "top_5": self.top_5,
            "kl_mean": finite(self.kl_mean),
            "kl_worst": finite(self.kl_worst),
            "left_out": self.left_out,
            "targets": None if self.targets is None else self.targets.to_dict(),
        }

    def facts(self) -> list[tuple[str, str]]:
        """Each figure by what it is called, in words."""
        told = [("same first class", f"{self.same:.2%}")]
        told += [] if self.top_5 is None else [("same of the first 5", f"{self.top_5:.2%}")]
        told += [("KL mean", f"{self.kl_mean:.3g}"), ("KL worst", f"{self.kl_worst:.3g}")]
        right = self.targets
        if right is not None:
            told += [
                ("accuracy", f"{right.accuracy_before:.2%} → {right.accuracy_after:.2%}"),
                ("perplexity", f"{right.perplexity_before:.4g} → {right.perplexity_after:.4g}"),
            ]
        return told

    def sentence(self, name: str) -> str:
        """What the change of accuracy is worth, of the output ``name``; "" without targets."""
        right = self.targets
        if right is None:
            return ""
        low, high = right.difference
        change = right.accuracy_after - right.accuracy_before
        noise = ", which is within noise" if right.within_noise else ""
        return (
            f"Accuracy of {name!r} changes by {100 * change:+.2f} points{noise} (95 %: {100 * low:+.2f} to "
            f"{100 * high:+.2f}): {right.lost} of {right.rows} rows lost, {right.won} won."
        )


def finite(value: Any) -> Any:
    """``value``, None for a float that is not finite."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
