"""Where no real sample says that it does no harm, no palette moves a weight far."""

from __future__ import annotations

import numpy as np
import pytest

from mil_palettize.algorithms.layerwise.moments import Moments
from mil_palettize.calibration.choice import IMPORTANCE, PLAIN, Knowledge, choose
from mil_palettize.expressions.weight_expr import Const

WEIGHT = np.linspace(-1.0, 1.0, 32).reshape(4, 8)
WHERE = np.arange(32).reshape(1, 4, 8)


@pytest.mark.parametrize(("made_up", "farther", "method"), [
    (False, 20.0, IMPORTANCE), (True, 20.0, PLAIN), (True, 3.0, IMPORTANCE),
])  # fmt: skip
@pytest.mark.parametrize("judged", [True, False])
def test_how_far_weights_may_move(made_up: bool, farther: float, method: str, judged: bool) -> None:
    """``farther``: times the plain palette's squared error."""

    def make(importance: np.ndarray | None) -> Const:
        return Const(WEIGHT + 0.01 * (1.0 if importance is None else np.sqrt(farther)))

    def judge(array: np.ndarray) -> float:
        return float(1.0 - np.abs(array - WEIGHT).max())  # the farther the better

    moments = (Moments(WHERE, np.eye(8)[None]),)
    known = Knowledge(WEIGHT, moments, None, judge if judged else None, made_up)
    assert choose(known, make, reconstruct=False, tables=True, rounds=0).method == method
