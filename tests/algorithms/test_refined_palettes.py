"""Palettes that are more than plain: every combination that is allowed, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refined_palettes import ALLOWED, DTYPES, bits, by_quantiles, error_of, make, sample, spread

from mil_palettize.algorithms.making import NonFiniteError
from mil_palettize.errors import AlgorithmError
from mil_palettize.expressions.packed import Packed
from mil_palettize.expressions.weight_expr import Lut, Scale, Sparse, lut_of

# Every combination that is allowed


@st.composite
def requests(draw: st.DrawFn) -> tuple[np.ndarray, dict[str, Any]]:
    rank = draw(st.integers(1, 4))
    shape = tuple(draw(st.integers(1, 6)) for _ in range(rank))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    dtype = draw(st.sampled_from([np.float16, np.float32, np.int8, np.uint8]))
    floats = np.dtype(dtype).kind == "f"
    if floats:
        array = (rng.standard_normal(shape) * 10.0 ** rng.integers(-6, 4)).astype(dtype)
        if draw(st.booleans()):
            array = np.where(rng.random(shape) < 0.3, array.dtype.type(0), array)
    else:
        limits = np.iinfo(dtype)
        array = rng.integers(limits.min, limits.max + 1, shape).astype(dtype)
    options: dict[str, Any] = {"mode": draw(st.sampled_from(["kmeans", "uniform", "custom"]))}
    if options["mode"] == "custom":
        options["lut_function"] = by_quantiles
    else:
        options["nbits"] = draw(st.sampled_from(ALLOWED))
    if draw(st.booleans()):
        axis = draw(st.integers(0, rank - 1))
        sizes = [n for n in range(1, shape[axis] + 1) if shape[axis] % n == 0]
        options.update(axis=axis - draw(st.sampled_from([0, rank])), group_size=draw(st.sampled_from(sizes)))
    if draw(st.booleans()):
        mask = rng.random(shape) < draw(st.sampled_from([0.0, 0.2, 0.7, 1.0]))
        options["mask"] = bits(mask)
        if floats:
            array[~mask] = draw(st.sampled_from([0.0, np.nan]))
    if floats and draw(st.booleans()):
        options["scale_axis"] = draw(st.integers(-rank, rank - 1))
    if floats and draw(st.booleans()):
        options["lut_dtype"] = draw(st.sampled_from(["int8", "uint8"]))
    if draw(st.booleans()):
        blocks = tuple(draw(st.sampled_from([n for n in range(1, size + 1) if size % n == 0])) for size in shape)
        options["importance"] = 10.0 ** rng.uniform(-3, 3, blocks)
    return array, options


@settings(max_examples=400, deadline=None)
@given(requests())
def test_the_expression_decodes_to_what_is_reported(case: tuple[np.ndarray, dict[str, Any]]) -> None:
    array, options = case
    before = array.copy()
    array.flags.writeable = False
    made = make(array, **options)
    assert array.tobytes() == before.tobytes()
    decoded = made.expr.decode()
    assert decoded.shape == array.shape
    assert decoded.dtype == array.dtype
    assert np.isfinite(decoded).all()
    weights = np.ones(array.shape)
    if "importance" in options:
        weights = spread(options["importance"], array.shape)
    expr, counted = made.expr, array
    if "mask" in options:
        assert isinstance(expr, Sparse)
        assert expr.mask is options["mask"]
        mask = expr.dense_mask()
        assert not decoded[~mask].any()
        assert not lut_of(expr).indices.unpack()[~mask].any()
        expr, counted, weights = expr.data, np.where(mask, array, array.dtype.type(0)), weights * mask
    if "scale_axis" in options:
        assert isinstance(expr, Scale)
        axis = options["scale_axis"] % array.ndim
        assert expr.scale.shape == tuple(size if i == axis else 1 for i, size in enumerate(array.shape))
        assert np.all(expr.scale >= np.finfo(array.dtype).tiny)
        assert np.isfinite(expr.scale).all()
        assert expr.offset is None
        expr = expr.data
    assert isinstance(expr, Lut)
    if "lut_dtype" in options:
        assert isinstance(expr.lut, Scale)
        assert expr.lut.data.dtype == options["lut_dtype"]
        assert expr.lut.scale.shape == (*expr.groups, 1, 1)
        assert (expr.lut.offset is None) == (options["lut_dtype"] == "int8")
    groups = [1] * array.ndim
    if "axis" in options:
        groups[options["axis"]] = array.shape[options["axis"]] // options["group_size"]
    assert expr.groups == tuple(groups)
    assert made.sse == pytest.approx(error_of(counted, decoded, weights), rel=1e-9, abs=1e-290)
    assert made.signal == pytest.approx(error_of(counted, np.zeros(1), weights), rel=1e-9, abs=1e-290)


@settings(max_examples=60, deadline=None)
@given(requests())
def test_threads_and_layout_do_not_matter(case: tuple[np.ndarray, dict[str, Any]]) -> None:
    array, options = case
    first = make(array, **options)
    with ThreadPoolExecutor(3) as executor:
        second = make(np.asfortranarray(array), pmap=executor.map, **options)
    assert first.expr.decode().tobytes() == second.expr.decode().tobytes()
    assert lut_of(first.expr).indices.data.tobytes() == lut_of(second.expr).indices.data.tobytes()
    assert lut_of(first.expr).table.tobytes() == lut_of(second.expr).table.tobytes()
    assert (first.sse, first.signal) == (second.sse, second.signal)


@pytest.mark.parametrize("mode", ["kmeans", "uniform", "unique"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{}, {"scale_axis": 0}, {"lut_dtype": "int8"}, {"importance": np.ones((1, 1))}])
def test_nan_and_infinity_are_refused_where_they_count(mode: str, dtype: type, options: dict[str, Any]) -> None:
    array = np.ones((4, 6), dtype)
    array[1, 2], array[3, 3], array[0, 0] = np.nan, -np.inf, np.inf
    mask = np.ones((4, 6), bool)
    mask[0, 0] = False
    with pytest.raises(NonFiniteError, match=r"'layer.weight' has 1 NaN and 1 infinite"):
        make(array, mode, mask=bits(mask), **options)
    mask[1, 2] = mask[3, 3] = False
    assert make(array, mode, mask=bits(mask), **options).sse <= 1e-4


# Requests


WRONG: list[tuple[type, dict[str, Any], str]] = [
    (np.int8, {"lut_dtype": "int8"}, "is int8, whose tables have no lut_dtype; leave it out"),
    (np.uint8, {"scale_axis": 0}, "is uint8, whose tables have no scale_axis; leave it out"),
    (np.float16, {"lut_dtype": "int4"}, r"lut_dtype is 'int4'; use one of \['int8', 'uint8'\]"),
    (np.float16, {"scale_axis": 2}, "has 2 axes; scale_axis 2 is none of them"),
    (np.float16, {"mask": Packed(np.zeros(2, np.uint8), 1, (16,))}, r"has a mask of 1 bits and shape \[16\]"),
    (np.float16, {"mask": Packed(np.zeros(4, np.uint8), 2, (4, 4))}, "has a mask of 2 bits"),
    (np.int8, {"cluster_dim": 2, "axis": 0}, "int8 needs scalars, but cluster_dim is 2"),
]


@pytest.mark.parametrize(("dtype", "options", "message"), WRONG)
def test_wrong_requests(dtype: type, options: dict[str, Any], message: str) -> None:
    with pytest.raises(AlgorithmError, match=f"weight 'layer.weight'.*{message}") as caught:
        make(np.ones((4, 4), dtype), **options)
    assert "\n" not in str(caught.value)


FUNCTION_FAULTS: list[tuple[dict[str, Any], Callable[[np.ndarray], Any]]] = [
    ({"scale_axis": 0}, lambda w: ([0.0], np.zeros(w.size - 1, int))),
    ({"lut_dtype": "int8"}, lambda w: ([np.inf], np.zeros(w.size, int))),
]


@pytest.mark.parametrize(("options", "function"), FUNCTION_FAULTS)
def test_functions_are_checked(options: dict[str, Any], function: Callable[[np.ndarray], Any]) -> None:
    with pytest.raises(AlgorithmError, match=r"'layer.weight': lut_function returned"):
        make(np.ones((4, 4), np.float16), "custom", lut_function=function, **options)


def test_functions_see_the_values_divided_by_the_scales() -> None:
    array = sample((3, 8), np.float16)
    mask = np.random.default_rng(0).random(array.shape) < 0.6
    mask[:, np.abs(array.astype(np.float64)).argmax(axis=1)] = True
    seen = []

    def function(weight: np.ndarray) -> tuple[list[float], np.ndarray]:
        seen.append(weight.copy())
        return [0.5], np.zeros(weight.size, int)

    scaled = array / np.abs(array).max(axis=1, keepdims=True)
    make(array, "custom", lut_function=function, scale_axis=0)
    make(array, "custom", lut_function=function, scale_axis=0, mask=bits(mask))
    assert np.array_equal(seen[0], scaled)
    assert np.array_equal(seen[1], scaled[mask])
