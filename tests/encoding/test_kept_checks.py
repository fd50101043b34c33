"""What is kept between runs is held against the weight and the plan: every way not to fit them is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mil_palettize.algorithms.making import ArraySource, Distribution
from mil_palettize.algorithms.specification import PaletteSpecification
from mil_palettize.encoding.encoder import Task
from mil_palettize.encoding.kept_checks import check_distribution, check_errors, check_palette
from mil_palettize.encoding.kept_files import DamagedError
from mil_palettize.encoding.results import Encoded
from mil_palettize.expressions.packed import Packed
from mil_palettize.expressions.weight_expr import Const, Lut, Scale, Sparse, WeightExpr
from mil_palettize.program.forms import FORMS
from mil_palettize.request.importance import Importance

SHAPE = (8, 12)
RNG = np.random.default_rng(0)
ARRAY = RNG.standard_normal(SHAPE).astype(np.float16)
SOURCE = ArraySource("w", ARRAY)
IMPORTANCE = Importance(RNG.random(SHAPE) + 0.5, "of this test")
ALLOWED = (1, 2, 3, 4)
PLAIN = PaletteSpecification("kmeans", 2, ALLOWED)
SPARSE = Sparse(Const(ARRAY[ARRAY > 0]), Packed.pack((ARRAY > 0).astype(np.uint8), 1))
SCALED = Scale(Const(np.arange(96, dtype=np.int8).reshape(SHAPE)), np.full((8, 1), 0.5, np.float16))


# Distinct values

FOUR = np.array([0.0, 1.0, 1.0, 2.0], np.float16)


def distribution(**changes: Any) -> Distribution:
    values, weights = np.array([0.0, 1.0, 2.0]), np.array([1.0, 2.0, 1.0])
    return replace(Distribution("w", values, weights, np.dtype(np.float16), 4, 6.0), **changes)


def test_distinct_values_that_fit() -> None:
    check_distribution(distribution(), ArraySource("w", FOUR))
    check_distribution(distribution(signal=0.0), ArraySource("w", FOUR))
    every = np.array([0.0, 1.0, 2.0, 3.0])
    check_distribution(distribution(values=every, weights=np.ones(4)), ArraySource("w", FOUR))
    cells = distribution(dtype=np.dtype(np.float32), values=np.array([0.0, 1 + 2.0**-40, 2.0]), exact=False)
    check_distribution(cells, ArraySource("w", FOUR.astype(np.float32)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dtype": np.dtype(np.float32)}, "it is of 4 values of float32, not of 4 of float16"),
        ({"size": 5}, "it is of 5 values of float16, not of 4 of float16"),
        ({"values": np.array([[0.0, 1.0, 2.0]])}, r"it has \(1, 3\) values and \(3,\) counts of 4 elements"),
        ({"weights": np.array([2.0, 2.0])}, r"it has \(3,\) values and \(2,\) counts of 4 elements"),
        ({"values": np.zeros(0), "weights": np.zeros(0)}, r"it has \(0,\) values"),
        ({"values": np.arange(5.0), "weights": np.ones(5)}, r"it has \(5,\) values and \(5,\) counts of 4 elements"),
        ({"values": np.array([0.0, 1.0, np.inf])}, "its values are not finite and ascending"),
        ({"values": np.array([0.0, 1.0, 1.0])}, "its values are not finite and ascending"),
        ({"values": np.array([0.0, 1 + 2.0**-40, 2.0])}, "its values are not of float16"),
        ({"exact": False}, "float16 values are always exact"),
        ({"weights": np.array([1.0, np.inf, 1.0])}, "its counts are not whole numbers from 1 up"),
        ({"weights": np.array([0.0, 3.0, 1.0])}, "its counts are not whole numbers from 1 up"),
        ({"weights": np.array([1.5, 1.5, 1.0])}, "its counts are not whole numbers from 1 up"),
        ({"weights": np.array([1.0, 1.0, 1.0])}, "its counts sum to 3, not to 4"),
        ({"weights": np.array([1.0, 3.0, 1.0])}, "its counts sum to 5, not to 4"),
        ({"signal": -1.0}, "its sum of squares is -1.0"),
        ({"signal": np.inf}, "its sum of squares is inf"),
        ({"signal": np.nan}, "its sum of squares is nan"),
    ],
)
def test_distinct_values_that_do_not_fit(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DamagedError, match=said):
        check_distribution(distribution(**changes), ArraySource("w", FOUR))


# Palettes


def made(
    specification: PaletteSpecification = PLAIN,
    held: WeightExpr | None = None,
    importance: Importance | None = None,
    opset: str = "CoreML8",
) -> Encoded:
    form = FORMS[opset]
    assert form is not None
    found = Task(SOURCE, specification, form, held, importance=importance)._made(map)
    assert isinstance(found, Encoded)
    return found


GROUPED: list[dict[str, Any]] = [{}, {"axis": 0, "group_size": 4}, {"axis": 1, "group_size": 3}]
QUANTIZED: list[dict[str, Any]] = [{"lut_dtype": "int8"}, {"lut_dtype": "uint8"}, {"axis": 0, "cluster_dim": 2}]


@pytest.mark.parametrize("opset", ["CoreML8", "CoreML9"])
@pytest.mark.parametrize(
    ("held", "options"),
    [
        *((None, options) for options in (*GROUPED, *QUANTIZED, {"scale_axis": 0})),
        *((SPARSE, options) for options in (*GROUPED, *QUANTIZED)),
        *((SCALED, options) for options in GROUPED),
    ],
)
def test_palettes_that_fit(held: WeightExpr | None, opset: str, options: dict[str, Any]) -> None:
    specification = replace(PLAIN, **options)
    for importance in (None, IMPORTANCE):
        found = made(specification, held, importance, opset)
        check_palette(found, specification, SOURCE, held, weighted=importance is not None)
        check_errors(found, SOURCE, held, importance)


def test_palettes_of_as_many_bits_as_they_need() -> None:
    few = ArraySource("w", np.repeat(np.arange(4.0), 24).reshape(SHAPE).astype(np.float16))
    asked = replace(PLAIN, mode="unique", nbits=None, spread_axis=0)
    form = FORMS["CoreML8"]
    assert form is not None
    found = Task(few, asked, form)._made(map)
    check_palette(found, asked, few, None, weighted=False)
    instead = made(replace(PLAIN, axis=0, group_size=1))  # a table for each channel
    check_palette(instead, asked, SOURCE, None, weighted=False)
    with pytest.raises(DamagedError, match="its indices have 2 bits"):
        check_palette(found, replace(asked, allowed_nbits=(1, 4)), few, None, weighted=False)
    with pytest.raises(DamagedError, match="its groups are of 2 along axis 0, not as planned"):
        check_palette(made(replace(PLAIN, axis=0, group_size=2)), asked, SOURCE, None, weighted=False)
    with pytest.raises(DamagedError, match="its groups are of 1 along axis 1, not as planned"):
        check_palette(made(replace(PLAIN, axis=1, group_size=1)), asked, SOURCE, None, weighted=False)


def lut_in(found: Encoded) -> Lut:
    assert isinstance(found.expr, Lut)
    return found.expr


def with_table(table: Any) -> Encoded:
    found = made()
    return replace(found, expr=replace(lut_in(found), lut=table))


TABLE = np.array([-1.0, 0.0, 1.0, 2.0], np.float16).reshape(1, 1, 4, 1)
CODES = np.arange(4, dtype=np.int8).reshape(1, 1, 4, 1)
ONE = np.ones((1, 1, 1, 1), np.float16)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (lambda: with_table(TABLE.astype(np.float32)), r"it stands for float32\[8, 12\], not float16\[8, 12\]"),
        (lambda: replace(made(), expr=Const(ARRAY)), "it is a Const, no palette"),
        (lambda: replace(made(), expr=Const(ARRAY[:4])), r"it stands for float16\[4, 12\]"),
        (lambda: replace(made(), sse=-1e-9), "its error is -1e-09 of "),
        (lambda: replace(made(), sse=np.inf), "its error is inf of "),
        (lambda: replace(made(), signal=np.nan), "its error is .* of nan"),
        (lambda: replace(made(), signal=-1.0), "its error is .* of -1.0"),
        (lambda: replace(made(), weighted_error=1.0), "its weighted error is 1.0"),
        (lambda: made(replace(PLAIN, nbits=3)), "its indices have 3 bits"),
        (lambda: made(replace(PLAIN, axis=0, group_size=4)), "its groups are of 4 along axis 0, not as planned"),
        (lambda: made(replace(PLAIN, cluster_dim=2, axis=0)), "its groups are of None along axis 0, not as planned"),
        (
            lambda: replace(made(replace(PLAIN, axis=0, group_size=4)), specification=PLAIN),
            r"it has tables for \(2, 1\) groups",
        ),
        (
            lambda: replace(made(replace(PLAIN, cluster_dim=2, axis=0)), specification=PLAIN),
            "its entries are vectors of 2 along axis 0",
        ),
        (lambda: made(replace(PLAIN, lut_dtype="int8")), "its table is quantized"),
        (lambda: made(replace(PLAIN, scale_axis=0)), "it is a Scale, no palette"),
        (lambda: made(held=SPARSE), "it is a Sparse, no palette"),
        (lambda: with_table(np.full_like(TABLE, np.inf)), "it holds numbers that are not finite"),
        (lambda: with_table(Scale(Const(CODES), ONE, affine=True)), "it is scaled in one step"),
        (lambda: with_table(Const(TABLE)), "a part of it is Const|a part of it is float16"),
        (lambda: with_table(Scale(Const(CODES.astype(np.int16)), ONE)), "a part of it is int16"),
        (lambda: with_table(Scale(Scale(Const(CODES), ONE), ONE)), "a part of it is NoneType"),
        (lambda: with_table(Scale(Const(CODES), np.full_like(ONE, np.nan))), "it holds numbers that are not finite"),
        (lambda: with_table(Scale(Const(CODES), ONE, Const(ONE))), "a part of it is "),
    ],
)
def test_palettes_that_do_not_fit(found: Callable[[], Encoded], said: str) -> None:
    with pytest.raises(DamagedError, match=said):
        check_palette(found(), PLAIN, SOURCE, None, weighted=False)


def test_weighted_errors_that_do_not_fit() -> None:
    found = made(importance=IMPORTANCE)
    check_palette(replace(found, weighted_error=0.0), PLAIN, SOURCE, None, weighted=True)
    for error in (None, -1.0, np.inf, np.nan):
        with pytest.raises(DamagedError, match="its weighted error is"):
            check_palette(replace(found, weighted_error=error), PLAIN, SOURCE, None, weighted=True)


def test_scales_that_do_not_fit() -> None:
    specification = replace(PLAIN, scale_axis=0)
    found = made(specification)
    assert isinstance(found.expr, Scale)
    for expr, said in [
        (replace(found.expr, affine=True), "it is scaled in one step"),
        (replace(found.expr, scale=np.full((8, 1), np.inf, np.float16)), "it holds numbers that are not finite"),
        (replace(found.expr, scale=Const(np.ones((8, 1), np.float16))), "a part of it is float16"),
    ]:
        with pytest.raises(DamagedError, match=said):
            check_palette(replace(found, expr=expr), specification, SOURCE, None, weighted=False)


def test_masks_that_do_not_fit() -> None:
    found = made(held=SPARSE)
    assert isinstance(found.expr, Sparse)
    turned = Packed.pack((ARRAY < 0).astype(np.uint8), 1)
    for expr, said in [
        (replace(found.expr, mask=turned), "it has another mask than the weight"),
        (found.expr.data, "it is no palette of what a sparse weight holds"),
    ]:
        with pytest.raises(DamagedError, match=said):
            check_palette(replace(found, expr=expr), PLAIN, SOURCE, SPARSE, weighted=False)


def test_palettes_of_integers_that_do_not_fit() -> None:
    found = made(held=SCALED, opset="CoreML9")
    assert isinstance(found.expr, Scale)
    wide = replace(lut_in(replace(found, expr=found.expr.data)), lut=CODES.astype(np.int16))
    with pytest.raises(DamagedError, match="a part of it is int16"):
        check_palette(replace(found, expr=replace(found.expr, data=wide)), PLAIN, SOURCE, SCALED, weighted=False)
    plain = replace(made(), expr=replace(lut_in(made()), lut=TABLE))
    check_palette(plain, PLAIN, SOURCE, SCALED, weighted=False)  # of floats, which every weight may have


@pytest.mark.parametrize("held", [None, SPARSE, SCALED])
@pytest.mark.parametrize("name", ["sse", "signal", "weighted_error"])
def test_errors_are_those_of_the_palette(held: WeightExpr | None, name: str) -> None:
    """To rounding."""
    found = made(held=held, importance=IMPORTANCE)
    value = getattr(found, name)
    check_errors(replace(found, **{name: value * (1 + 1e-10)}), SOURCE, held, IMPORTANCE)
    for factor in (0.0, 1 - 1e-8, 1 + 1e-8):
        with pytest.raises(DamagedError, match="it has the squared error"):
            check_errors(replace(found, **{name: value * factor}), SOURCE, held, IMPORTANCE)


def test_errors_are_summed_over_all_windows() -> None:
    class InTwo(ArraySource):
        def windows(self) -> Any:
            return np.split(self.read().reshape(-1), [60])

    found = made(importance=IMPORTANCE)
    check_errors(found, InTwo("w", ARRAY), None, IMPORTANCE)
    moved = np.roll(ARRAY.reshape(-1), 1).reshape(SHAPE)
    with pytest.raises(DamagedError, match="it has the squared error"):
        check_errors(found, InTwo("w", moved), None, IMPORTANCE)
