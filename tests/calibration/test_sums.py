"""Moments summed in parts, against one product of all inputs."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mil_palettize.torch.calibration.readers import Inputs  # noqa: E402
from mil_palettize.torch.calibration.sums import Sums  # noqa: E402

COLUMNS = 450  # more than one panel, the last of them smaller
COUNTS = (2.0, 0.5, 3.0)  # how many inputs each of a sample stands for


def columns(seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((2, 1100, COLUMNS)).astype(np.float32))


def added(differing: set[int]) -> Sums:
    """Three samples of two matrices; the float network's inputs are others in those that differ."""
    sums = Sums(np.arange(2 * 3 * COLUMNS).reshape(2, 3, COLUMNS))
    for number, count in enumerate(COUNTS):
        floats = Inputs(columns(number + 10), count) if number in differing else None
        sums.add(Inputs(columns(number), count), floats)
    return sums


def product(differing: set[int]) -> np.ndarray:
    total = np.zeros((2, COLUMNS, COLUMNS))
    for number, count in enumerate(COUNTS):
        own = columns(number).double().numpy()
        floats = columns(number + 10).double().numpy() if number in differing else own
        total += count * floats.swapaxes(1, 2) @ own
    return total


def test_squares_are_those_of_one_product_and_symmetric_to_the_last_bit() -> None:
    found = added(set()).moments()
    assert found.cross is None
    assert found.count == 3 * 2 * 1100
    np.testing.assert_allclose(found.square, product(set()), rtol=1e-12, atol=1e-9)
    assert np.array_equal(found.square, found.square.swapaxes(1, 2))


@pytest.mark.parametrize("differing", [{0, 1, 2}, {2}, {0}], ids=str)
def test_inputs_of_the_float_network_that_come_late_or_only_once(differing: set[int]) -> None:
    """Where they are not given they are the same as the others: first alike, then not, and the other way round."""
    found = added(differing).moments()
    assert found.cross is not None
    np.testing.assert_allclose(found.cross, product(differing), rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(found.square, product(set()), rtol=1e-12, atol=1e-9)


def test_a_sample_that_adds_nothing_else_counts_nothing() -> None:
    """Of three samples one lacks nothing in what is added to the output: it changes no sum of the others."""
    sums, total = Sums(np.arange(2 * 3 * COLUMNS).reshape(2, 3, COLUMNS)), np.zeros((2, 3, COLUMNS))
    for number, count in enumerate(COUNTS):
        missing = torch.from_numpy(np.random.default_rng(number).standard_normal((2, 1100, 3)).astype(np.float32))
        sums.add(Inputs(columns(number), count), None, None if number == 1 else missing)
        if number != 1:
            total += count * missing.double().numpy().swapaxes(1, 2) @ columns(number).double().numpy()
    found = sums.moments().residual
    assert found is not None
    np.testing.assert_allclose(found, total, rtol=1e-12, atol=1e-9)
