"""Tables of least squares by a few conjugate gradients."""

from __future__ import annotations

from typing import Any

import numpy as np

from mil_palettize.algorithms.layerwise.form import taken_apart
from mil_palettize.algorithms.layerwise.moments import Moments, objective
from mil_palettize.algorithms.layerwise.refit import refitted_tables
from mil_palettize.algorithms.layerwise.work import arranged
from mil_palettize.algorithms.making import ArraySource, make_palette
from mil_palettize.algorithms.specification import PaletteSpecification

COLUMNS = 20


def refitted(weight: np.ndarray, steps: int, **options: Any) -> np.ndarray:
    """float64 (tables, 4): those of a palette of 2 bits, for inputs that are correlated."""
    expr = make_palette(ArraySource("w", weight), PaletteSpecification("kmeans", 2, (2,), **options)).expr
    random = np.random.default_rng(0)
    x = random.standard_normal((80, COLUMNS)) @ random.standard_normal((COLUMNS, COLUMNS))
    where = np.arange(weight.size).reshape(1, *weight.shape)
    square = (x.T @ x)[None]
    aim = objective(Moments(where, square, square), weight.reshape(-1).astype(np.float64), 0.1, asymmetric=False)
    form, values = taken_apart(expr)
    work = arranged(aim, form, 1)
    work.put(values)
    return refitted_tables([work], values, steps)[..., 0]


def test_tables_of_rows_are_refitted_as_if_they_were_alone() -> None:
    """Each row has one table: as many systems as tables, whose steps have lengths of their own."""
    sizes = np.repeat([1.0, 30.0, 0.2, 5.0], 2)[:, None]
    weight = (np.random.default_rng(1).standard_t(4, (8, COLUMNS)) * sizes).astype(np.float32)
    for steps in (1, 2, 3):
        whole = refitted(weight, steps, axis=0, group_size=2)
        alone = [refitted(part, steps) for part in np.split(weight, 4)]
        np.testing.assert_allclose(whole, np.concatenate(alone), rtol=1e-9)
