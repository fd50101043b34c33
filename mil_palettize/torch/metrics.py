"""How far tensors are from what they were, summed over samples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from mil_palettize.reports.decibels import decibels
from mil_palettize.reports.model_comparison import Distance

_AT_ONCE = 1 << 20  # elements that are float64 at a time
_HUGE = 1e30  # what is so large and the same in both is no signal: it masks


@dataclass
class Sums:
    """Of all pairs of tensors added so far, in float64. ``masked``: elements that are huge or not finite in both."""

    elements: int = 0
    signal: float = 0.0
    noise: float = 0.0
    product: float = 0.0
    other: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    largest: float = 0.0
    non_finite: int = 0
    masked: int = 0

    def add(self, one: torch.Tensor, two: torch.Tensor) -> None:
        """``one``: what it was; both of the same shape."""
        x, y = one.detach().reshape(-1), two.detach().reshape(-1)
        for start in range(0, x.numel(), _AT_ONCE):
            self._add(x[start : start + _AT_ONCE].double(), y[start : start + _AT_ONCE].double())

    def _add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        same = (x == y) | (torch.isnan(x) & torch.isnan(y))
        masked = same & ~(x.abs() < _HUGE)
        finite = torch.isfinite(x) & torch.isfinite(y)
        self.masked += int(masked.sum())
        self.non_finite += int((~finite & ~same).sum())
        used = finite & ~masked
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
        self.largest = max(self.largest, float(difference.abs().max()))

    def snr_db(self) -> float:
        """-infinite also where there is nothing that could be compared, or something is not finite any more."""
        if self.non_finite or (self.masked and not self.elements):
            return -math.inf
        return decibels(self.signal, self.noise)

    def distance(self) -> Distance:
        reach = self.high - self.low if self.elements else 0.0
        length = math.sqrt(self.signal) * math.sqrt(self.other)
        equal = 1.0 if self.signal == self.other else 0.0
        return Distance(
            self.elements,
            self.snr_db(),
            decibels(reach * reach * self.elements, self.noise),
            min(1.0, self.product / length) if length else equal,
            self.largest,
            self.non_finite,
        )


def snr_db(one: torch.Tensor, two: torch.Tensor) -> float:
    """Signal to noise of ``two`` against ``one``; -infinite where it is not finite any more."""
    sums = Sums()
    sums.add(one, two)
    return sums.snr_db()
