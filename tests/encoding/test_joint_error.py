"""A palette of a quantized weight's integers has the least error of the weight itself: against every table."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from mil_palettize.algorithms.making import ArraySource
from mil_palettize.algorithms.specification import PaletteSpecification
from mil_palettize.encoding.encoder import Task
from mil_palettize.encoding.results import Encoded
from mil_palettize.expressions.weight_expr import Const, Scale
from mil_palettize.program.forms import FORMS
from mil_palettize.request.importance import Importance

TYPED = FORMS["CoreML8"]
assert TYPED is not None
SHAPE = (4, 64)
ONE_BIT = PaletteSpecification("kmeans", 1, (1,))


def least_error(data: np.ndarray, weights: np.ndarray) -> float:
    """Of all tables of two integers."""
    every = np.arange(int(data.min()), int(data.max()) + 1)
    masses = np.zeros(len(every))
    np.add.at(masses, data.reshape(-1) - every[0], np.broadcast_to(weights, data.shape).reshape(-1))
    errors = masses[None] * np.square(every[:, None] - every[None])
    return min(float(np.minimum(errors[a], errors[b]).sum()) for a, b in combinations(range(len(every)), 2))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("weighted", [False, True])
def test_the_error_is_the_least_of_all_tables(seed: int, weighted: bool) -> None:
    """Rows of different scales and of different integers: whose errors count decides where the entries lie."""
    rng = np.random.default_rng(seed)
    middles = rng.permutation([-60, -20, 20, 60]).reshape(4, 1)
    data = np.clip(np.rint(middles + 8 * rng.standard_normal(SHAPE)), -90, 90).astype(np.int8)
    scale = rng.permutation([0.02, 0.05, 0.1, 0.2]).reshape(4, 1).astype(np.float32)
    held = Scale(Const(data), scale)
    counted = 10 ** rng.uniform(-1, 1, SHAPE) if weighted else np.ones(SHAPE)
    importance = Importance(counted, "of this test") if weighted else None
    made = Task(ArraySource("w", held.decode()), ONE_BIT, TYPED, held, importance=importance)()
    assert isinstance(made, Encoded)
    found = float(np.sum(counted * np.square(held.decode().astype(float) - made.expr.decode())))
    squares = np.square(scale.astype(float)) * counted
    assert found == pytest.approx(least_error(data.astype(int), squares), rel=1e-5)
