"""How far tensors are from what they were, summed over samples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from mil_palettize.evaluation import Figures


@dataclass
class Sums:
    """Of all pairs of tensors added so far: squares are taken in the tensors' own type and summed in float64."""

    elements: int = 0
    signal: float = 0.0
    noise: float = 0.0
    product: float = 0.0
    other: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    largest: float = 0.0
    non_finite: int = 0

    def add(self, one: torch.Tensor, two: torch.Tensor) -> None:
        """``one``: what it was; both of the same shape."""
        x, y = one.detach().reshape(-1), two.detach().reshape(-1)
        if not x.is_floating_point():
            x, y = x.double(), y.double()
        finite = torch.isfinite(x) & torch.isfinite(y)
        if not bool(finite.all()):
            same = (x == y) | (torch.isnan(x) & torch.isnan(y))
            self.non_finite += int((~finite & ~same).sum())
            x, y = x[finite], y[finite]
        self.elements += x.numel()
        if not x.numel():
            return
        difference = x - y
        self.signal += _product(x, x)
        self.noise += _product(difference, difference)
        self.product += _product(x, y)
        self.other += _product(y, y)
        self.low, self.high = min(self.low, float(x.min())), max(self.high, float(x.max()))
        self.largest = max(self.largest, float(difference.abs().max()))

    def figures(self) -> Figures:
        reach = self.high - self.low if self.elements else 0.0
        length = math.sqrt(self.signal) * math.sqrt(self.other)
        equal = 1.0 if self.signal == self.other else 0.0
        return Figures(
            self.elements,
            decibels(self.signal, self.noise),
            decibels(reach * reach * self.elements, self.noise),
            min(1.0, self.product / length) if length else equal,
            self.largest,
            self.non_finite,
        )


def _product(x: torch.Tensor, y: torch.Tensor) -> float:
    return float((x * y).sum(dtype=torch.float64))


def decibels(signal: float, noise: float) -> float:
    """10·log10 of their ratio: infinite without noise, -infinite where there is nothing but noise."""
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def snr_db(one: torch.Tensor, two: torch.Tensor) -> float:
    """Signal to noise of ``two`` against ``one``; -infinite where it is not finite any more."""
    sums = Sums()
    sums.add(one, two)
    return -math.inf if sums.non_finite else decibels(sums.signal, sums.noise)
