"""Expressions alone decode to what coremltools' static decoders make of them, and their parts have to fit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from coremltools.converters.mil.mil.ops.defs.iOS16 import constexpr_ops as ios16
from coremltools.converters.mil.mil.ops.defs.iOS18 import compression as ios18
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from packages import unpack
from test_expression_reader import same

from mil_palettize.expressions.packed import CHUNK
from mil_palettize.expressions.weight_expr import Cast, Const, Lut, Packed, Scale, Sparse, WeightExpr

FEW = settings(max_examples=60, deadline=None)


def packed(array: np.ndarray, nbits: int) -> Packed:
    return Packed.pack(array, nbits, signed=array.dtype == np.int8)


@FEW
@given(st.data(), st.sampled_from([(1, 0), (2, 0), (3, 0), (4, 0), (6, 0), (8, 0), (4, 1)]))
def test_packing_is_undone_here_and_in_the_judge(data: st.DataObject, kind: tuple[int, int]) -> None:
    nbits, signed = kind
    low, high = (-8, 7) if signed else (0, 2**nbits - 1)
    shape = data.draw(st.tuples(st.integers(0, 5), st.integers(1, 9)))
    values = data.draw(arrays(np.int8 if signed else np.uint8, shape, elements=st.integers(low, high)))
    made = packed(values, nbits)
    assert same(made.unpack(), values)
    assert same(unpack(made.data.tobytes(), nbits, values.size, bool(signed)).reshape(shape), values)
    assert made.padding_bits == made.data.size * 8 - values.size * nbits
    assert made.nbytes == made.data.size
    assert made.ones() == int(np.unpackbits(made.data).sum())


@pytest.mark.parametrize("nbits", [1, 3, 4, 6])
def test_packing_works_across_its_chunks(nbits: int) -> None:
    values = np.random.default_rng(nbits).integers(0, 2**nbits, 2 * CHUNK + 5).astype(np.uint8)
    made = packed(values, nbits)
    assert same(made.unpack(), values)
    assert same(unpack(made.data.tobytes(), nbits, values.size), values)


@st.composite
def blocked(draw: st.DrawFn, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Counts of blocks, and a shape they divide."""
    counts = draw(st.tuples(*[st.integers(1, 3)] * rank))
    return counts, tuple(c * draw(st.integers(1, 3)) for c in counts)


HALVES = st.floats(-1000, 1000, width=16)
RANKS = st.integers(1, 3)


@FEW
@given(st.data(), RANKS, st.sampled_from([1, 2, 3]), st.sampled_from([1, 2, 4]))
def test_palettes_decode_as_there(data: st.DataObject, rank: int, nbits: int, vector: int) -> None:
    groups, shape = data.draw(blocked(rank))
    indices = data.draw(arrays(np.uint8, shape, elements=st.integers(0, 2**nbits - 1)))
    table = data.draw(arrays(np.float16, (*groups, 2**nbits, vector), elements=HALVES))
    axis = data.draw(st.integers(0, rank - 1)) if vector > 1 else None
    expr = Lut(packed(indices, nbits), table, axis)
    assert same(expr.decode(), ios18.constexpr_lut_to_dense.decompress(indices, table, axis))
    assert expr.nbytes == -(-indices.size * nbits // 8) + table.nbytes
    assert same(Lut(packed(indices, nbits), Const(table), axis).decode(), expr.decode())


INTEGERS = {"int4": (np.int8, -8, 7, 4), "uint4": (np.uint8, 0, 15, 4), "int8": (np.int8, -128, 127, 8)}


@FEW
@given(
    arrays(np.float32, (2, 4), elements=st.floats(-1000, 1000, width=32)), arrays(np.float16, (2, 1), elements=HALVES)
)
def test_floats_are_rounded_to_the_dtype_of_the_scale_first(values: np.ndarray, scale: np.ndarray) -> None:
    with np.errstate(all="ignore"):
        expected = ios18.constexpr_blockwise_shift_scale.decompress(values, scale, None)
    assert same(Scale(Const(values), scale).decode(), expected)
    shift = np.float32([[0.1], [0.2]])
    with np.errstate(all="ignore"):
        expected = ios18.constexpr_blockwise_shift_scale.decompress(values, scale, shift).astype(np.float16)
    assert same(Scale(Const(values), scale, shift).decode(), expected)


@FEW
@given(st.data(), RANKS, st.sampled_from(list(INTEGERS)), st.sampled_from([None, "int", np.float16, np.float32]))
def test_blocks_decode_as_there(data: st.DataObject, rank: int, kind: str, shift: object) -> None:
    dtype, low, high, nbits = INTEGERS[kind]
    counts, shape = data.draw(blocked(rank))
    values = data.draw(arrays(dtype, shape, elements=st.integers(low, high)))
    scale_dtype = data.draw(st.sampled_from([np.float16, np.float32]))
    scale = data.draw(arrays(scale_dtype, counts, elements=HALVES))
    offset = None
    if shift == "int":
        offset = data.draw(arrays(dtype, counts, elements=st.integers(low, high)))
    elif shift is not None:
        offset = data.draw(arrays(shift, counts, elements=HALVES))
    stored = Const(packed(values, 4)) if nbits == 4 else Const(values)
    expr = Scale(stored, scale, offset)
    with np.errstate(all="ignore"):
        expected = ios18.constexpr_blockwise_shift_scale.decompress(values, scale, offset)
        # With fp16 scales and fp32 offsets it returns fp32 for a weight of fp16.
        expected = np.asarray(expected).astype(scale_dtype)
    assert same(expr.decode(), expected)
    assert expr.nbytes == -(-values.size * nbits // 8) + scale.nbytes + (0 if offset is None else offset.nbytes)


@FEW
@given(st.data(), RANKS, st.sampled_from([np.int8, np.uint8]), st.sampled_from([np.float16, np.float32]))
def test_affine_decodes_as_there(data: st.DataObject, rank: int, dtype: type, scale_dtype: type) -> None:
    shape = data.draw(st.tuples(*[st.integers(1, 4)] * rank))
    axis = data.draw(st.integers(0, rank - 1))
    info = np.iinfo(dtype)
    values = data.draw(arrays(dtype, shape, elements=st.integers(info.min, info.max)))
    scale = data.draw(arrays(scale_dtype, (shape[axis],), elements=HALVES))
    zero = data.draw(
        st.one_of(
            arrays(dtype, (shape[axis],), elements=st.integers(info.min, info.max)),
            arrays(np.float32, (), elements=HALVES),
        )
    )
    spread = [-1 if i == axis else 1 for i in range(rank)]
    expr = Scale(Const(values), scale.reshape(spread), zero.reshape(spread if zero.ndim else [1] * rank), affine=True)
    with np.errstate(all="ignore"):
        expected = ios16.constexpr_affine_dequantize.decompress(values, zero, scale, axis)
    assert same(expr.decode(), expected)


@FEW
@given(st.data(), RANKS)
def test_sparse_decodes_as_there(data: st.DataObject, rank: int) -> None:
    counts, shape = data.draw(blocked(rank))
    mask = data.draw(arrays(np.uint8, shape, elements=st.integers(0, 1)))
    stored = int(np.count_nonzero(mask))
    nonzeros = data.draw(arrays(np.float16, (stored,), elements=HALVES))
    expr = Sparse(Const(nonzeros), packed(mask, 1))
    assert same(expr.decode(), ios18.constexpr_sparse_to_dense.decompress(nonzeros, mask))
    assert expr.nbytes == -(-mask.size // 8) + nonzeros.nbytes

    values = data.draw(arrays(np.int8, (stored,), elements=st.integers(-128, 127)))
    scale = data.draw(arrays(np.float16, counts, elements=HALVES))
    in_place = np.zeros(shape, np.int8)
    in_place[mask != 0] = values
    scaled = Sparse(Scale(Const(in_place), scale), packed(mask, 1))
    with np.errstate(all="ignore"):
        _, expected = ios18.constexpr_sparse_blockwise_shift_scale.decompress(mask, values, scale, None)
    assert same(scaled.nonzeros(), expected)
    assert same(scaled.decode(), ios18.constexpr_sparse_to_dense.decompress(expected, mask))
    assert scaled.nbytes == -(-mask.size // 8) + stored + scale.nbytes


@FEW
@given(st.data(), RANKS, st.sampled_from([1, 2]))
def test_sparse_palettes_decode_as_there(data: st.DataObject, rank: int, vector: int) -> None:
    groups, shape = data.draw(blocked(rank))
    mask = data.draw(arrays(np.uint8, shape, elements=st.integers(0, 1)))
    stored = int(np.count_nonzero(mask))
    nonzeros = data.draw(arrays(np.uint8, (stored,), elements=st.integers(0, 7)))
    table = data.draw(arrays(np.float16, (*groups, 8, vector), elements=HALVES))
    axis = data.draw(st.integers(0, rank - 1)) if vector > 1 else None
    indices = np.zeros(shape, np.uint8)
    indices[mask != 0] = nonzeros
    expr = Sparse(Lut(packed(indices, 3), table, axis), packed(mask, 1))
    out_mask, values = ios18.constexpr_lut_to_sparse.decompress(mask, nonzeros, table, axis)
    assert same(expr.dense_mask().view(np.uint8), out_mask)
    assert same(expr.nonzeros(), values)
    assert same(expr.decode(), ios18.constexpr_sparse_to_dense.decompress(values, out_mask))
    assert expr.nbytes == -(-mask.size // 8) + -(-stored * 3 // 8) + table.nbytes


def test_large_palettes_decode_across_their_chunks() -> None:
    draw = np.random.default_rng(0)
    indices = draw.integers(0, 8, (700, 800)).astype(np.uint8)
    assert indices.size > 2 * CHUNK
    for groups in ((1, 1), (7, 1), (1, 8), (2, 4)):
        table = draw.standard_normal((*groups, 8, 1)).astype(np.float32)
        expected = np.empty(indices.shape, np.float32)
        rows, columns = 700 // groups[0], 800 // groups[1]
        for i in range(groups[0]):
            for j in range(groups[1]):
                block = np.s_[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns]
                expected[block] = table[i, j, :, 0][indices[block]]
        assert same(Lut(packed(indices, 3), table).decode(), expected)


def test_overflow_is_silent_and_infinite(recwarn: pytest.WarningsRecorder) -> None:
    expr = Scale(Const(np.int8([[127, -128, 0]])), np.float16([[60000]]))
    assert expr.decode().tolist() == [[np.inf, -np.inf, 0]]
    assert same(Cast(Const(np.float16([1, 2])), np.dtype(np.float32)).decode(), np.float32([1, 2]))
    assert not recwarn.list


ONES = packed(np.ones((2, 4), np.uint8), 1)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Packed(np.zeros(3, np.uint8), 4, (2, 4)), r"uint8\[3\]; 8 values of 4 bits need uint8\[4\]"),
        (lambda: Packed(np.zeros(1, np.uint8), 5, (1,)), "nbits is 5"),
        (lambda: Packed(np.zeros(1, np.uint8), 6, (1,), signed=True), "only int4 is packed"),
        (lambda: Lut(ONES, np.zeros((1, 1, 4, 1))), r"lut has shape \(1, 1, 4, 1\)"),
        (lambda: Lut(ONES, np.zeros((1, 3, 2, 1))), "3 groups do not divide the 4 elements of axis 1"),
        (lambda: Lut(ONES, np.zeros((1, 1, 2, 2))), "vectors of 2 with vector_axis None"),
        (lambda: Lut(ONES, np.zeros((1, 1, 2, 2)), 2), "vector_axis 2 is none of 2 axes"),
        (lambda: Lut(packed(np.zeros((2, 4), np.int8), 4), np.zeros((1, 1, 16, 1))), "are signed"),
        (lambda: Scale(Const(np.zeros((2, 4), np.int8)), np.ones((1, 3))), r"scale of shape \(1, 3\) does not divide"),
        (lambda: Scale(Const(np.zeros((2, 4), np.int8)), np.ones((1,))), r"scale of shape \(1,\) does not divide"),
        (lambda: Scale(Const(np.zeros(2, np.int8)), np.ones(1, np.int8)), "scale is int8, not a float"),
        (
            lambda: Scale(Const(np.zeros(4, np.int8)), np.ones(1), np.ones(3, np.int8)),
            r"offset of shape \(3,\) does not divide",
        ),
        (lambda: Sparse(Const(np.zeros(7)), ONES), r"the mask sets 8 of \[2, 4\] values, but there are \[7\]"),
        (lambda: Sparse(Const(np.zeros(2)), packed(np.ones(2, np.uint8), 2)), "a mask of 2 bits"),
    ],
)
def test_parts_that_do_not_fit_are_refused(make: Callable[[], WeightExpr], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()
