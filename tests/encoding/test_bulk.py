"""The SNR of most elements, told by a palette alone, against the elements themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mil_palettize.algorithms.making import ArraySource, make_palette
from mil_palettize.algorithms.specification import PaletteSpecification
from mil_palettize.encoding.bulk import bulk_db
from mil_palettize.expressions.weight_expr import WeightExpr

RANDOM = np.random.default_rng(0)
KINDS = {
    "normal": RANDOM.standard_normal(20_000),
    "laplace": RANDOM.laplace(size=20_000),
    "heavy": RANDOM.standard_t(2, 20_000).clip(-60, 60),
    "few large": RANDOM.standard_normal(20_000) * np.where(RANDOM.uniform(size=20_000) < 0.002, 40.0, 1.0),
}


def palette(values: np.ndarray, nbits: int) -> WeightExpr:
    source = ArraySource("w", values.astype(np.float32).reshape(100, -1))
    return make_palette(source, PaletteSpecification("kmeans", nbits, (nbits,))).expr


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("nbits", [4, 8])
def test_of_nine_tenths_of_the_elements(kind: str, nbits: int) -> None:
    values = KINDS[kind]
    expr = palette(values, nbits)
    sizes = np.abs(values)
    bulk = (sizes > 0) & (sizes <= np.quantile(sizes[sizes > 0], 0.9))
    error = values[bulk] - expr.decode().reshape(-1)[bulk]
    found = bulk_db(expr)
    assert found is not None
    assert found == pytest.approx(10 * math.log10(np.square(values[bulk]).sum() / np.square(error).sum()), abs=2.0)


def test_what_has_none() -> None:
    """Tables of which there are several, and one number only."""
    values = KINDS["normal"].astype(np.float32).reshape(100, -1)
    grouped = PaletteSpecification("kmeans", 4, (4,), axis=0, group_size=50)
    assert bulk_db(make_palette(ArraySource("w", values), grouped).expr) is None
    assert bulk_db(palette(np.full(20_000, 2.0), 1)) is None
