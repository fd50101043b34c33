"""Second moments, what is added to them, and the objective they make, each by its definition."""

from __future__ import annotations

import numpy as np
import pytest

from mil_palettize.algorithms.layerwise import moments as module
from mil_palettize.algorithms.layerwise import reconstruction
from mil_palettize.algorithms.layerwise.form import taken_apart
from mil_palettize.algorithms.layerwise.moments import Moments, importance, objective
from mil_palettize.algorithms.layerwise.work import arranged
from mil_palettize.algorithms.making import ArraySource, make_palette
from mil_palettize.algorithms.specification import PaletteSpecification

ROWS, COLUMNS = 3, 5


def positive(seed: int, size: float = 1.0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((40, COLUMNS)) * size
    return x.T @ x


def of(*squares: np.ndarray, cross: np.ndarray | None = None) -> Moments:
    where = np.arange(len(squares) * ROWS * COLUMNS).reshape(len(squares), ROWS, COLUMNS)
    return Moments(where, np.stack(squares), cross)


def test_each_matrix_is_damped_by_its_own_mean() -> None:
    """And by 1 % of the mean of all where its own is less: of inputs that are always zero."""
    large, small, none = positive(0), positive(1, 0.5), np.zeros((COLUMNS, COLUMNS))
    found = of(large, small, none).damped(0.25)
    whole = (np.trace(large) + np.trace(small)) / (3 * COLUMNS)
    assert of(large, small, none).mean_diagonal == pytest.approx(whole)
    added = [0.25 * np.trace(large) / COLUMNS, 0.25 * np.trace(small) / COLUMNS, 0.25 * 0.01 * whole]
    for square, more, hessian, lower in zip((large, small, none), added, found.hessian, found.lower, strict=True):
        np.testing.assert_allclose(hessian, square + more * np.eye(COLUMNS), rtol=1e-12)
        np.testing.assert_allclose(lower @ lower.T, hessian, atol=1e-9)
    assert found.damping == 0.25


def test_what_is_not_positive_definite_is_damped_more() -> None:
    """Twice as much each time, from 1e-12 of the mean on, until it is; no more than that."""
    x = np.random.default_rng(0).standard_normal((2, COLUMNS))
    square = x.T @ x - 1e-9 * np.eye(COLUMNS)  # of rank 2, and a little below 0
    found = of(square).damped(0.0)
    mean = float(np.trace(square)) / COLUMNS
    (added,) = set(np.round(np.diagonal(found.hessian[0] - square) / mean, 15))
    assert found.damping == pytest.approx(added, rel=1e-3)
    steps = np.log2(found.damping / 1e-12)
    assert steps == pytest.approx(round(steps), abs=1e-6)
    assert 1e-9 / mean < found.damping < 2.1e-9 / mean
    both = of(positive(1), square).damped(0.0)
    assert both.damping == pytest.approx(np.diagonal(both.hessian[1] - square)[0] / mean)
    assert np.array_equal(both.hessian[0], positive(1))


def test_nothing_but_zeros_is_damped_too() -> None:
    found = of(np.zeros((COLUMNS, COLUMNS))).damped(0.5)
    np.testing.assert_allclose(found.hessian[0], 0.5 * 0.01 * np.eye(COLUMNS))


def test_columns_are_compensated_by_falling_diagonals() -> None:
    square = positive(0) * np.outer([1, 3, 2, 5, 4], [1, 3, 2, 5, 4])
    damped = of(square).damped(0.1)
    ((order, upper),) = damped.compensation
    assert np.all(np.diff(np.diagonal(damped.hessian[0])[order]) < 0)
    inverse = np.linalg.inv(upper)
    diagonal = inverse @ damped.hessian[0][np.ix_(order, order)] @ inverse.T
    np.testing.assert_allclose(diagonal, np.diag(np.diagonal(diagonal)), atol=1e-8 * np.abs(square).max())
    assert np.array_equal(np.tril(upper), np.eye(COLUMNS))


def test_factors_are_kept_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    given = of(positive(0))
    assert given.damped(0.1) is given.damped(0.1)
    assert given.damped(0.2) is not given.damped(0.1)
    monkeypatch.setattr(module, "_KEPT", given.square.nbytes)
    assert of(positive(0)).damped(0.1) is not given.damped(0.1)
    exactly = of(positive(0))
    assert exactly.damped(0.1) is exactly.damped(0.1)
    monkeypatch.setattr(module, "_KEPT", given.square.nbytes - 1)
    large = of(positive(0))
    assert large.damped(0.1) is not large.damped(0.1)


def test_the_target_is_the_minimum() -> None:
    """Of ‖W X_f − W* X_q‖² + λ‖W* − W‖², here by its normal equations; without the cross moments W itself."""
    rng = np.random.default_rng(2)
    inputs = rng.standard_normal((2, COLUMNS, 30))
    other = inputs + 0.3 * rng.standard_normal(inputs.shape)
    square, cross = other @ other.swapaxes(1, 2), inputs @ other.swapaxes(1, 2)
    weight = rng.standard_normal(2 * ROWS * COLUMNS)
    given = of(*square, cross=cross)
    found = objective(given, weight, 0.1, asymmetric=True)
    for g in range(2):
        own = weight[given.where[g]]
        added = 0.1 * np.trace(square[g]) / COLUMNS * np.eye(COLUMNS)
        wanted = (own @ cross[g] + own @ added) @ np.linalg.inv(square[g] + added)
        np.testing.assert_allclose(found.target[g], wanted, rtol=1e-8)
    assert found.damping == 0.1
    plain = objective(given, weight, 0.1, asymmetric=False)
    assert np.array_equal(plain.target, weight[given.where])
    same = objective(of(*square), weight, 0.1, asymmetric=True)
    assert np.array_equal(same.target, weight[given.where])


def test_importance_of_what_is_read_twice_and_of_what_is_not() -> None:
    one, two = of(positive(0)), of(positive(1))
    size = one.where.size + 2
    found = importance([one, two], size, 0.5)
    diagonal = np.tile(np.diagonal(positive(0)) + np.diagonal(positive(1)), ROWS)
    mean = diagonal.sum() / size
    np.testing.assert_allclose(found, [*(diagonal + 0.5 * mean), 0.5 * mean, 0.5 * mean])
    assert np.array_equal(importance([], 3, 0.5), [0.5, 0.5, 0.5])


def test_large_matrices_take_fewer_rounds_and_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the time of two matrices that together are three times as large as is allowed is about the same."""
    weight = np.random.default_rng(0).standard_normal((2 * ROWS, COLUMNS)).astype(np.float32)
    form, values = taken_apart(make_palette(ArraySource("w", weight), PaletteSpecification("kmeans", 1, (1,))).expr)
    aim = objective(of(positive(0), positive(1)), weight.reshape(-1).astype(float), 0.1, asymmetric=False)
    work = arranged(aim, form, 1)
    work.put(values)
    products = 2 * ROWS * COLUMNS * COLUMNS
    assert reconstruction._effort([work], 12) == (12, 8)
    for part, expected in ((1, (12, 8)), (3, (4, 4)), (100, (1, 4))):
        monkeypatch.setattr(reconstruction, "LARGE", products / part)
        assert reconstruction._effort([work], 12) == expected
        assert reconstruction._effort([work, work], 12)[0] == max(1, 12 // (2 * part))
    assert reconstruction._effort([work], 0)[0] == 0


def test_the_target_makes_good_what_is_added() -> None:
    """W* against the least squares of all inputs written out, with what is added to the output on both sides."""
    rows, columns = 5, 7
    random = np.random.default_rng(4)
    weight = random.standard_normal((rows, columns))
    floats, own = random.standard_normal((60, columns)), random.standard_normal((60, columns))
    float_added, own_added = random.standard_normal((60, rows)), random.standard_normal((60, rows))
    where = np.arange(weight.size).reshape(1, rows, columns)
    missing = (float_added - own_added).T @ own
    moments = Moments(where, (own.T @ own)[None], (floats.T @ own)[None], 60, missing[None])
    aim = objective(moments, weight.reshape(-1), 0.1, asymmetric=True)
    damping = 0.1 * np.diag(own.T @ own).mean()
    wanted = floats @ weight.T + float_added - own_added
    left = np.vstack([own, np.sqrt(damping) * np.eye(columns)])
    right = np.vstack([wanted, np.sqrt(damping) * weight.T])
    np.testing.assert_allclose(aim.target[0], np.linalg.lstsq(left, right, rcond=None)[0].T, rtol=1e-8)
    symmetric = objective(moments, weight.reshape(-1), 0.1, asymmetric=False)
    np.testing.assert_array_equal(symmetric.target[0], weight)
