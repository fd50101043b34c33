"""What comes of one weight and its specification: palettes, and why there is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mil_palettize.algorithms.making import ArraySource
from mil_palettize.algorithms.specification import PaletteSpecification
from mil_palettize.encoding.encoder import Task, _importance
from mil_palettize.encoding.results import Declined, Encoded
from mil_palettize.expressions.packed import Packed
from mil_palettize.expressions.weight_expr import Const, Scale, Sparse, WeightExpr
from mil_palettize.program.forms import FORMS
from mil_palettize.request.importance import Importance

ALLOWED = (1, 2, 3, 4, 6, 8)
RNG = np.random.default_rng(0)


def task(
    array: np.ndarray, held: WeightExpr | None = None, importance: Importance | None = None, **options: Any
) -> Task:
    form = FORMS["CoreML8"]
    assert form is not None
    specification = PaletteSpecification(**{"mode": "kmeans", "nbits": 2, "allowed_nbits": ALLOWED, **options})
    return Task(ArraySource("w", array), specification, form, held, importance=importance)


def encoded(of: Task) -> Encoded:
    made = of()
    assert isinstance(made, Encoded)
    return made


def test_figures_are_those_of_the_weight() -> None:
    array = RNG.standard_normal((16, 20)).astype(np.float16)
    counted = RNG.random((16, 20)) + 0.1
    made = encoded(task(array, importance=Importance(counted, "of this test")))
    off = array.astype(float) - made.expr.decode()
    assert made.sse == pytest.approx(np.sum(off * off), rel=1e-12)
    assert made.signal == pytest.approx(np.sum(np.square(array.astype(float))), rel=1e-12)
    assert made.weighted_error == pytest.approx(np.sum(counted * off * off), rel=1e-12)
    assert encoded(task(array)).weighted_error is None
    assert 0 < made.seconds < 600


def test_importance_of_modes_that_do_not_weigh_is_told_and_changes_nothing() -> None:
    array = RNG.standard_normal((16, 20)).astype(np.float16)
    given = Importance(RNG.random((16, 20)) + 0.1, "of this test")
    with_, without = encoded(task(array, None, given, mode="uniform")), encoded(task(array, mode="uniform"))
    assert np.array_equal(with_.expr.decode(), without.expr.decode())
    assert with_.weighted_error is not None


def test_values_that_rule_a_palette_out() -> None:
    array = RNG.standard_normal((16, 20)).astype(np.float16)
    array[3, 4], array[5, 6], array[5, 7] = np.nan, np.inf, -np.inf
    made = task(array)()
    assert isinstance(made, Declined)
    assert made.unmet
    assert made.reason.startswith("has ")
    many = np.arange(320, dtype=np.float16).reshape(16, 20)
    made = task(many, mode="unique", nbits=None)()
    assert isinstance(made, Declined)
    assert made.unmet
    assert made.reason.startswith("has more than 256 distinct values")


@pytest.mark.parametrize(("columns", "made"), [(4, False), (5, False), (6, True)])
def test_a_palette_has_to_be_smaller(columns: int, made: bool) -> None:
    """8 entries of two bytes and 3 bits for each element; as large is not smaller."""
    array = RNG.standard_normal((2, columns)).astype(np.float16)
    found = task(array, nbits=3)()
    after = 16 + (2 * columns * 3 + 7) // 8
    assert made == (after < 4 * columns)
    if made:
        assert isinstance(found, Encoded)
        assert found.expr.nbytes == after
    else:
        said = f"its palette would take {after} bytes, the weight takes {4 * columns}"
        assert found == Declined(said, False)


def test_bytes_of_what_is_compressed_already_count() -> None:
    held = Scale(Const(RNG.integers(-9, 9, (8, 4), np.int8)), np.ones((8, 1), np.float16))
    assert task(held.decode()).nbytes == 64
    assert task(held.decode(), held).nbytes == 32 + 16
    assert isinstance(task(held.decode(), held, nbits=4)(), Declined)  # a table of integers for each scale


def test_a_table_for_each_channel_where_one_cannot_hold_all() -> None:
    """Of what has to be lossless; not where that is no smaller."""
    channels = np.arange(32, dtype=np.float16)[:, None] * 16 + np.arange(16, dtype=np.float16)
    array = np.repeat(channels, 8, axis=1)
    made = encoded(task(array, mode="unique", nbits=None, spread_axis=0))
    assert np.array_equal(made.expr.decode(), array)
    assert (made.specification.axis, made.specification.group_size) == (0, 1)
    assert made.note == "more than 256 distinct values: a table for each channel of axis 0 instead of one"
    for declined in (
        task(array, mode="unique", nbits=None),
        task(array, mode="unique", nbits=None, spread_axis=0, axis=0, group_size=1, allowed_nbits=(1, 2)),
        task(channels, mode="unique", nbits=None, spread_axis=0),  # tables as large as the weight
    ):
        found = declined()
        assert isinstance(found, Declined)
        assert found.unmet


@pytest.mark.parametrize("dim", [1, 2, 4])
def test_zeros_that_share_a_vector_with_something_are_told(dim: int) -> None:
    kept = RNG.random((16, 30)) < 0.3
    kept[:4, 0] = True, False, True, True
    values = np.where(kept, RNG.standard_normal(kept.shape), 0).astype(np.float16)
    held = Sparse(Const(values[kept]), Packed.pack(kept.view(np.uint8), 1))
    made = task(values, held, axis=0, cluster_dim=dim)._made(map)
    filled = sum(
        int(dim - kept[row : row + dim, column].sum())
        for row in range(0, 16, dim)
        for column in range(30)
        if kept[row : row + dim, column].any()
    )
    told = f"{filled:,} of {int((~kept).sum()):,} zeros share a vector with other values and are palettized with them"
    assert made.note == ("" if dim == 1 else told)
    whole = np.repeat(kept[::dim], dim, axis=0)
    full = np.where(whole, 1 + RNG.random(kept.shape), 0).astype(np.float16)
    held = Sparse(Const(full[whole]), Packed.pack(whole.view(np.uint8), 1))
    assert task(full, held, axis=0, cluster_dim=dim)._made(map).note == ""


def test_weights_of_a_quantized_one() -> None:
    """What its elements count: squared scales times importance, blocks of different sizes; none is nothing at all."""
    scale = np.array([[1.0], [0.5], [0.0], [4.0]], np.float32)
    held = Scale(Const(np.zeros((4, 6), np.int8)), scale)
    squares = np.square(scale.astype(float))
    np.testing.assert_allclose(_importance("w", held, None), np.maximum(squares, 16e-30), rtol=1e-6)
    small = Scale(Const(np.zeros((4, 6), np.int8)), scale * np.float32(1e-3))
    np.testing.assert_allclose(_importance("w", small, None)[2], 1e-30, rtol=1e-6)
    own = np.array([[1.0, 2.0, 8.0], [4.0, 0.5, 1.0]])
    found = _importance("w", held, own)
    wanted = np.repeat(own, 2, axis=0) / 8 * (np.maximum(squares, 16e-30) / 16)
    np.testing.assert_allclose(found, np.maximum(wanted, wanted.max() * 1e-30), rtol=1e-6)
    coarse = Scale(Const(np.zeros((4, 6), np.int8)), np.array([[2.0, 1.0]], np.float32))
    found = _importance("w", coarse, own)
    np.testing.assert_allclose(found, np.repeat(own, 2, axis=1) / 8 * np.repeat([[1.0, 0.25]], 3, axis=1))
