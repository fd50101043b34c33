"""Nearest centers against distances in numpy: the short way through float32 must never be seen."""

import numpy as np
import pytest

from mil_palettize.algorithms.compiled.lloyd import assign
from mil_palettize.algorithms.compiled.nearest import TOGETHER, nearest_quickly


def drawn(kind: str, dim: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Points and centers."""
    rng = np.random.default_rng(dim * 1000 + k)
    points, centers = rng.standard_normal((3 * TOGETHER + 17, dim)), rng.standard_normal((k, dim))
    if kind == "halves":
        points, centers = points.astype(np.float16).astype(float), centers.astype(np.float16).astype(float)
    elif kind == "grid":  # many distances are equal
        points, centers = np.round(points * 2) / 2, np.round(centers)
    elif kind == "far from zero":
        points, centers = 1e4 + points * 1e-3, 1e4 + centers * 1e-3
    elif kind == "an outlier":
        points[0], centers[0] = 1e6, -1e6
    elif kind == "beyond float32":
        points, centers = points * 1e30, centers * 1e30
    elif kind == "tiny":
        points, centers = points * 1e-30, centers * 1e-30
    elif kind == "between two":  # where rounding decides
        pairs = rng.integers(0, k, (len(points), 2))
        points = (centers[pairs[:, 0]] + centers[pairs[:, 1]]) / 2 + rng.standard_normal(points.shape) * 1e-9
    return points, centers


def plainly(points: np.ndarray, centers: np.ndarray) -> np.ndarray:
    distances = np.zeros((len(points), len(centers)))
    for t in range(points.shape[1]):  # in the order in which the loops add
        distances += (points[:, t, None] - centers[:, t]) ** 2
    return distances


@pytest.mark.parametrize(("dim", "k"), [(1, 3), (2, 16), (4, 64), (8, 5)])
@pytest.mark.parametrize(
    "kind", ["normal", "halves", "grid", "far from zero", "an outlier", "beyond float32", "tiny", "between two"]
)
def test_nearest_is_that_of_float64(kind: str, dim: int, k: int) -> None:
    points, centers = drawn(kind, dim, k)
    weights = np.random.default_rng(0).uniform(0.5, 2.0, len(points))
    codes, masses, sums = np.empty(len(points), np.int32), np.zeros(k), np.zeros((k, dim))
    error = assign(points, weights, centers, codes, masses, sums)
    distances = plainly(points, centers)
    assert np.array_equal(codes, distances.argmin(axis=1))
    assert error == pytest.approx(float(weights @ distances.min(axis=1)), rel=1e-12)
    assert masses == pytest.approx(np.bincount(codes, weights, minlength=k))


def test_many_points_in_doubt_are_left_to_float64() -> None:
    points, centers = drawn("far from zero", 2, 16)
    best = np.empty(TOGETHER, np.int32)
    coordinates = np.ascontiguousarray(points[:TOGETHER].T)
    assert not nearest_quickly(coordinates, TOGETHER, centers, centers.astype(np.float32), best)
    points, centers = drawn("normal", 2, 16)
    coordinates = np.ascontiguousarray(points[:TOGETHER].T)
    assert nearest_quickly(coordinates, TOGETHER, centers, centers.astype(np.float32), best)
