"""Rows of float32 in order, and sums of cells, against numpy's."""

import numpy as np
import pytest

from mil_palettize.algorithms.compiled.counting import PATTERNS, RUN, count_buckets, count_cells
from mil_palettize.algorithms.compiled.sorting import sorted_rows
from mil_palettize.algorithms.distribution import cell_layout


@pytest.mark.parametrize("size", [1, 7, 2047, 2048, 5000])
@pytest.mark.parametrize("kind", ["any pattern", "normal", "few values", "tiny"])
def test_rows_are_sorted_as_numpy_does(kind: str, size: int) -> None:
    rng = np.random.default_rng(size)
    rows = rng.standard_normal((3, size)).astype(np.float32)
    if kind == "any pattern":
        rows = rng.integers(0, 1 << 32, (3, size), dtype=np.uint32).view(np.float32)
        rows[np.isnan(rows)] = np.inf
    elif kind == "few values":
        rows = rng.choice(np.float32([-np.inf, -1.0, 0.0, 1e-45, 3.0, np.inf]), (3, size))
    elif kind == "tiny":
        rows *= np.float32(1e-41)
    before = rows.copy()
    found = sorted_rows(rows)
    assert np.array_equal(found, np.sort(rows, axis=1))
    assert np.array_equal(rows, before)
    rows.flags.writeable = False
    assert np.array_equal(sorted_rows(rows), found)


def test_values_that_are_no_numbers_end_at_an_end() -> None:
    """Where a look at the first and the last is enough to find them."""
    row = np.random.default_rng(0).standard_normal((1, 4000)).astype(np.float32)
    row[0, 1000], row[0, 2000] = np.nan, -np.nan
    found = sorted_rows(row)[0]
    assert np.isnan([found[0], found[-1]]).any()
    assert np.array_equal(found[~np.isnan(found)], np.sort(row[~np.isnan(row)]))


def test_cells_are_summed_in_the_order_of_the_weight_whatever_the_windows() -> None:
    rng = np.random.default_rng(1)
    values = rng.standard_t(2, 50 * RUN + 123).astype(np.float32)
    buckets = np.zeros(PATTERNS, np.int64)
    count_buckets(values.view(np.uint32), buckets)
    base, shift, cells = cell_layout(buckets, 1 << 15)
    found = []
    for step in (len(values), 7 * RUN):
        moving, sums, signal = base.copy(), np.zeros((cells, 2)), 0.0
        for start in range(0, len(values), step):
            signal = count_cells(values[start : start + step], moving, shift, sums, signal)
        found.append((sums, signal))
    (sums, signal), (again, same) = found
    assert np.array_equal(sums, again)
    assert signal == same
    assert signal == pytest.approx(float(np.square(values.astype(float)).sum()), rel=1e-12)
    assert sums[:, 0].sum() == len(values)
    assert sums[:, 1].sum() == pytest.approx(float(values.astype(float).sum()), rel=1e-9)
    filled = sums[sums[:, 0] > 0]
    means = filled[:, 1] / filled[:, 0]
    ordered = np.sort(values.astype(float))
    ends = np.cumsum(filled[:, 0]).astype(int)
    single = filled[:, 0] == 1.0  # cells of one element each are in the order in which they came, of each bucket
    several = np.flatnonzero(~single)
    assert len(several) > 100
    for cell in several:
        part = ordered[ends[cell] - int(filled[cell, 0]) : ends[cell]]
        assert part[0] <= means[cell] <= part[-1]
