"""Factors of matrices against what defines them, and the same bits on any number of threads."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from mil_palettize.algorithms.layerwise.products import cholesky, solved, unit_upper


def positive(size: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(size + 7, size))
    return np.asarray(x.T @ x)


@pytest.mark.parametrize("size", [1, 5, 64, 65, 200])
def test_cholesky(size: int) -> None:
    matrix = positive(size)
    lower = cholesky(matrix)
    assert lower is not None
    np.testing.assert_allclose(lower @ lower.T, matrix, rtol=1e-10, atol=1e-9)
    assert not np.triu(lower, 1).any()


@pytest.mark.parametrize("size", [1, 63, 130])
def test_what_is_solved(size: int) -> None:
    matrix, right = positive(size), np.random.default_rng(1).normal(size=(size, 3))
    lower = cholesky(matrix)
    assert lower is not None
    np.testing.assert_allclose(matrix @ solved(lower, right), right, atol=1e-7)


@pytest.mark.parametrize("size", [1, 6, 130])
def test_the_unit_factor(size: int) -> None:
    matrix = positive(size)
    upper = unit_upper(matrix)
    assert upper is not None
    assert np.array_equal(np.tril(upper), np.eye(size))
    inverse = np.linalg.inv(upper)
    diagonal = inverse @ matrix @ inverse.T
    np.testing.assert_allclose(diagonal, np.diag(np.diagonal(diagonal)), atol=1e-8 * np.abs(matrix).max())


def test_what_is_not_positive_definite_has_no_factor() -> None:
    assert cholesky(np.array([[1.0, 2.0], [2.0, 1.0]])) is None
    assert unit_upper(np.zeros((3, 3))) is None


_SUMS = """
import hashlib, numpy as np
from mil_palettize.algorithms.layerwise.moments import Moments, objective
from mil_palettize.algorithms.layerwise.reconstruction import reconstructed
from mil_palettize.algorithms.making import ArraySource, make_palette
from mil_palettize.algorithms.specification import PaletteSpecification
from mil_palettize.expressions.digest import expression_digest
random = np.random.default_rng(0)
weight = random.normal(size=(48, 300)).astype(np.float16)
x = random.normal(size=(400, 300))
moments = Moments(np.arange(weight.size).reshape(1, 48, 300), (x.T.copy() @ x)[None], (x.T.copy() @ x * 0.9)[None])
aim = objective(moments, weight.reshape(-1).astype(float), 0.1, asymmetric=True)
palette = make_palette(ArraySource("w", weight), PaletteSpecification("kmeans", 2, (1, 2, 4)))
print(expression_digest(reconstructed(palette.expr, [aim], rounds=3).expr))
"""


@pytest.mark.slow
def test_the_same_bytes_on_any_number_of_threads() -> None:
    found = {
        subprocess.run(
            [sys.executable, "-c", _SUMS], env={**os.environ, "OPENBLAS_NUM_THREADS": threads}, capture_output=True,
            text=True, check=True,
        ).stdout
        for threads in ("1", "2", "4")
    }  # fmt: skip
    assert len(found) == 1
