"""Outputs of a network before and after it was calibrated: what became of them, and what they tell nothing of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def constant_outputs(outputs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of those that do not depend on the samples, which therefore tell nothing of what errors do to them."""
    if len(outputs) < 2:
        return []
    first = outputs[0]
    return [name for name in first if all(_equal(other[name], first[name]) for other in outputs[1:])]


def noise(wanted: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> float:
    """Squared error of all outputs of floats, each relative to its power."""
    total = 0.0
    for name in wanted[0] if wanted else ():
        pairs = [(one[name], two[name]) for one, two in zip(wanted, found, strict=True)]
        pairs = [(a, b) for a, b in pairs if hasattr(a, "is_floating_point") and a.is_floating_point()]
        power = sum(float(a.double().square().sum()) for a, _ in pairs)
        error = sum(float((a.double() - b.double()).square().sum()) for a, b in pairs)
        total += error / power if power else error
    return total


def _equal(one: Any, two: Any) -> bool:
    if not hasattr(one, "is_floating_point"):
        return bool(one == two)
    return bool(one.shape == two.shape and (one == two).all())


def decibels(noise: float) -> str:
    return "exact" if noise == 0.0 else f"{-10.0 * math.log10(noise):.1f}"
