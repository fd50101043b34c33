"""How far tensors are from what they were, summed over samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mil_palettize.reports.compared_parts import Distance
from mil_palettize.reports.decibels import decibels

_AT_ONCE = 1 << 20  # elements that are float64 at a time
_HUGE = 1e30  # what is so large and the same in both is no signal: it masks
_LOST = -math.inf, math.nan, math.inf  # PSNR, cosine and largest difference where values are finite no more


@dataclass
class Sums:
    """Of all pairs of tensors added so far, in float64.

    ``elements``: those that are compared, from ``low`` to ``high`` before and from ``other_low`` to ``other_high``
    after. The others are counted: ``non_finite`` are finite before only; ``original_non_finite`` are not finite before,
    of which ``changed`` are something else after; ``huge`` ones are the same in both, as masks are.
    """

    elements: int = 0
    signal: float = 0.0
    noise: float = 0.0
    product: float = 0.0
    other: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    other_low: float = math.inf
    other_high: float = -math.inf
    largest: float = 0.0
    non_finite: int = 0
    original_non_finite: int = 0
    changed: int = 0
    huge: int = 0

    def add(self, one: torch.Tensor, two: torch.Tensor) -> None:
        """``one``: what it was; both of the same shape."""
        x, y = one.detach().reshape(-1), two.detach().reshape(-1)
        for start in range(0, x.numel(), _AT_ONCE):
            self._add(x[start : start + _AT_ONCE].double(), y[start : start + _AT_ONCE].double())

    def _add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        before, after = torch.isfinite(x), torch.isfinite(y)
        same = (x == y) | (torch.isnan(x) & torch.isnan(y))
        huge = before & same & (x.abs() >= _HUGE)
        self.non_finite += int((before & ~after).sum())
        self.original_non_finite += int((~before).sum())
        self.changed += int((~before & ~same).sum())
        self.huge += int(huge.sum())
        used = before & after & ~huge
        if not bool(used.all()):
            x, y = x[used], y[used]
        self.elements += x.numel()
        if not x.numel():
            return
        difference = x - y
        self.signal += float(x @ x)
        self.noise += float(difference @ difference)
        self.product += float(x @ y)
        self.other += float(y @ y)
        self.low, self.high = min(self.low, float(x.min())), max(self.high, float(x.max()))
        self.other_low, self.other_high = min(self.other_low, float(y.min())), max(self.other_high, float(y.max()))
        self.largest = max(self.largest, float(difference.abs().max()))

    def snr_db(self) -> float:
        """-infinite also where something is not finite any more; NaN where nothing is left that could be compared."""
        if self.non_finite:
            return -math.inf
        if not self.elements and (self.original_non_finite or self.huge):
            return math.nan
        return decibels(self.signal, self.noise)

    def distance(self) -> Distance:
        """With values that are lost, or none left, nothing is said of the others: nobody should take it for all."""
        snr = self.snr_db()
        psnr, cosine, largest = _LOST if self.non_finite else (math.nan,) * 3 if math.isnan(snr) else self._distances()
        same_everywhere = self.elements and self.low == self.high == self.other_low == self.other_high
        return Distance(
            elements=self.elements,
            snr_db=snr,
            psnr_db=psnr,
            cosine=cosine,
            max_abs=largest,
            non_finite=self.non_finite,
            original_non_finite=self.original_non_finite,
            original_changed=self.changed,
            huge=self.huge,
            constant=self.low if same_everywhere else None,
        )

    def _distances(self) -> tuple[float, float, float]:
        """PSNR, cosine and the largest difference."""
        reach = self.high - self.low if self.elements else 0.0
        length = math.sqrt(self.signal) * math.sqrt(self.other)
        equal = 1.0 if self.signal == self.other else 0.0
        cosine = min(1.0, self.product / length) if length else equal
        return decibels(reach * reach * self.elements, self.noise), cosine, self.largest


def snr_db(one: torch.Tensor, two: torch.Tensor) -> float:
    """Signal to noise of ``two`` against ``one``, as :meth:`Sums.snr_db`."""
    sums = Sums()
    sums.add(one, two)
    return sums.snr_db()


def outputs_noise(wanted: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> float:
    """Squared error of all outputs of numbers, probabilities among them, each relative to its power; infinite where
    some are not finite any more. Where there are none, how many whole numbers or labels differ: a share of each."""
    total, named, numbers = 0.0, 0.0, False
    for name in wanted[0] if wanted else ():
        sums, differing = Sums(), 0.0
        for one, two in zip(wanted, found, strict=True):
            before, after = (_numbers(outputs[name], one[name]) for outputs in (one, two))
            if before is None or after is None:
                differing += _differing(one[name], two[name]) / len(wanted)
            else:
                numbers = True
                sums.add(before, after)
        named += differing
        total += math.inf if sums.non_finite else sums.noise / (sums.signal or 1.0)
    return total if numbers else named


def _numbers(value: Any, like: Any) -> torch.Tensor | None:
    """A tensor of floats, None for everything else. Probabilities come in the order that ``like`` has them in."""
    if isinstance(value, dict):
        return torch.tensor([float(value[label]) for label in like], dtype=torch.float64)
    return value if isinstance(value, torch.Tensor) and value.is_floating_point() else None


def _differing(one: Any, two: Any) -> float:
    """The share of elements that differ."""
    if hasattr(one, "shape"):
        return float((one != two).double().mean()) if one.shape == two.shape and one.numel() else float(one is not two)
    return float(one != two)
