"""Ratios of powers in decibels, at their edges."""

from __future__ import annotations

import math

import pytest

from mil_palettize.reports.decibels import decibels


@pytest.mark.parametrize(
    ("signal", "noise", "found"),
    [
        (100.0, 1.0, 20.0),
        (1.0, 1000.0, -30.0),
        (5.0, 0.0, math.inf),
        (0.0, 0.0, math.inf),
        (0.0, 5.0, -math.inf),
        (1.0, math.inf, -math.inf),
        (math.nan, 1.0, -math.inf),
        (1e308, 1e-308, 6160.0),  # no float holds the ratio
        (1e-308, 1e308, -6160.0),
    ],
)
def test_edges(signal: float, noise: float, found: float) -> None:
    assert decibels(signal, noise) == pytest.approx(found, rel=1e-14)


@pytest.mark.parametrize("signal", [1.0, math.inf])
def test_what_is_not_known(signal: float) -> None:
    assert math.isnan(decibels(signal, math.nan if signal == 1.0 else math.inf))
