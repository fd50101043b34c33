"""The tool that measures accuracy: its sounds, its figures and its tables."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("torch")

from tools.accuracy.packages import output_snr
from tools.accuracy.rows import Row, heading, line
from tools.accuracy.sounds import music, speech


@pytest.mark.parametrize(("make", "loudest"), [(speech, 0.5), (music, 0.7)])
def test_sounds_are_seeded_and_bounded(make: object, loudest: float) -> None:
    assert callable(make)
    one, two, other = (make(1.0, 16_000, np.random.default_rng(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, two)
    assert one.shape == other.shape == (16_000,)
    assert one.dtype == np.float32
    assert not np.array_equal(one, other)
    assert 0.05 < float(np.abs(one).max()) <= loudest + 1e-6


def test_each_output_counts_by_its_own_power() -> None:
    wanted = [{"large": np.array([100.0, 0.0]), "small": np.array([0.1])}, {"large": np.zeros(2), "small": np.zeros(1)}]
    found = [{**wanted[0], "small": np.array([0.09])}, wanted[1]]
    assert output_snr(wanted, found) == pytest.approx(10 * math.log10(2 / 0.01))
    assert output_snr(wanted, wanted) == math.inf


def test_tables() -> None:
    float_row = Row("net", "mean cosine", None, "", [(1.0, 100.0)], 2000, 0.0)
    row = Row("net", "mean cosine", 3, "128", [(0.95, 60.0), (0.97, 64.0)], 1000, 2.34)
    assert row.column(1) == [60.0, 64.0]
    lines = [*heading(("mean cosine", "same, %")).splitlines(), line(float_row), line(row)]
    assert len({text.count("|") for text in lines}) == 1
    assert lines[2] == "| net | float |  | 1.0000 | 100.00 | 2,000 | 0.0 |"
    assert lines[3] == "| net | 3 | 128 | 0.9600 ± 0.0141 | 62.00 ± 2.83 | 1,000 | 2.3 |"
