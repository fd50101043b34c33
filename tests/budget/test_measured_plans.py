"""The smallest plan that measures well enough."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from mil_palettize import Budget, Limits, compare, palettize_package, plan_mixed_bits
from mil_palettize.budget.planner import Source, weighed
from mil_palettize.calibration.request import Calibration
from mil_palettize.doors.measured_plans import smallest_reaching
from mil_palettize.encoding.workers import Workers


@pytest.mark.slow
def test_it_measures_so(fixtures: Path, tmp_path: Path) -> None:
    source, out = fixtures / "conv_fp16_ios18.mlpackage", tmp_path / "out.mlpackage"
    asked = 22.0
    recipe = plan_mixed_bits(source, Budget(min_snr_db=asked), limits=Limits(group_size=0))
    palettize_package(source, out, recipe, calibration=Calibration(method="weights"))
    assert compare(source, out).snr_db >= asked
    assert recipe.nbytes < recipe.bytes_before
    assert recipe.nbytes == min(nbytes for nbytes, decibels in recipe.trials if decibels >= asked)
    worse = [nbytes for nbytes, decibels in recipe.trials if decibels < asked]
    assert max(worse) < recipe.nbytes < 1.03 * max(worse)


def test_at_the_ends(fixtures: Path) -> None:
    source, limits = fixtures / "conv_fp16_ios18.mlpackage", Limits(group_size=0)
    with Workers(1) as pool:
        found = weighed(Source(source), limits, Budget(min_snr_db=1.0), pool)
    assert smallest_reaching(found, 10.0, limits, lambda recipe: 11.0).nbytes == found.smallest
    none = smallest_reaching(found, 10.0, limits, lambda recipe: 9.0)
    assert none.nbytes == none.bytes_before
    assert all(decibels == 9.0 for _, decibels in none.trials)
