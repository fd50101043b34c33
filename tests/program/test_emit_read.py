"""Written and read again: ops made of an expression give the expression back, and decode to what coremltools and the
independent reader decode them to."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from coremltools.proto import MIL_pb2 as MIL
from coremltools.proto import Model_pb2
from coremltools_palettes import decoded_there
from handmade import write_package
from hypothesis import given, settings
from hypothesis import strategies as st
from mil_messages import const, kind, op, program, stored, surveyed
from packages import blob_file, blob_values, constants, read_record, read_spec

from mil_palettize.expressions.digest import expression_digest
from mil_palettize.expressions.packed import Packed
from mil_palettize.expressions.weight_expr import Const, Lut, Scale, Sparse, WeightExpr
from mil_palettize.package.blob import BlobWriter
from mil_palettize.program.forms import PACKED, TYPED, TYPED_IOS26, Form
from mil_palettize.program.model import Model
from mil_palettize.program.new_names import NameSource
from mil_palettize.program.palette_ops import palette_ops, store_palette
from mil_palettize.program.site_values import expression
from mil_palettize.program.sites import Site

FLOATS = {"FLOAT16": np.float16, "FLOAT32": np.float32}
TYPE_NAMES = {np.dtype(t): n for n, t in FLOATS.items()} | {np.dtype(np.int8): "INT8", np.dtype(np.uint8): "UINT8"}
BLOB_CODES = {"FLOAT16": 1, "FLOAT32": 2, "UINT8": 3, "INT8": 4, "UINT1": 9}
OPSETS = {PACKED: ("CoreML6", 7), TYPED: ("CoreML8", 9), TYPED_IOS26: ("CoreML9", 10)}
LEGAL = (1, 2, 3, 4, 6, 8)
Append = Callable[[np.ndarray, int, int], tuple[str, int]]


@dataclass(frozen=True)
class Sample:
    """An expression, and what joint compression it is of (see ``Weight.joint``)."""

    name: str
    expr: WeightExpr
    form: Form = TYPED
    joint: str = ""


def floats(rng: np.random.Generator, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Of every size, signed zeros and subnormal numbers among them."""
    small = np.finfo(dtype).smallest_subnormal
    special = np.array([0.0, -0.0, small, -3 * small, np.finfo(dtype).max], dtype)
    values = (rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 3, shape)).astype(dtype)
    return np.where(rng.random(shape) < 0.2, rng.choice(special, shape), values)


def integers(rng: np.random.Generator, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    return rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max + 1, shape).astype(dtype)


@st.composite
def samples(draw: st.DrawFn, names: Sequence[str]) -> Sample:
    """Of any shape, bits and groups a form may have."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    name = draw(st.sampled_from(names))
    rank = draw(st.integers(1, 4))
    groups = draw(st.tuples(*[st.sampled_from((1, 1, 2, 3))] * rank))
    shape = tuple(n * draw(st.integers(1, 3)) for n in groups)
    dtype = FLOATS[draw(st.sampled_from(sorted(FLOATS)))]
    nbits = draw(st.sampled_from(LEGAL))
    return dataclasses.replace(MAKERS[name](draw, rng, groups, shape, nbits, dtype), name=name)


def indices(rng: np.random.Generator, shape: tuple[int, ...], nbits: int) -> Packed:
    return Packed.pack(rng.integers(0, 2**nbits, shape).astype(np.uint8), nbits)


def packed(draw, rng, groups, shape, nbits, dtype) -> Sample:
    nbits = {3: 4}.get(nbits, nbits)
    table = floats(rng, (1,) * len(shape) + (2**nbits, 1), dtype)
    return Sample("", Lut(indices(rng, shape, nbits), table), PACKED)


def typed(draw, rng, groups, shape, nbits, dtype) -> Sample:
    vector = draw(st.sampled_from((1, 2, 4)))
    axis = None if vector == 1 else draw(st.integers(0, len(shape) - 1))
    table = floats(rng, (*groups, 2**nbits, vector), dtype)
    return Sample("", Lut(indices(rng, shape, nbits), table, axis), draw(st.sampled_from((TYPED, TYPED_IOS26))))


def scaled(draw, rng, groups, shape, nbits, dtype) -> Sample:
    lut = typed(draw, rng, groups, shape, nbits, dtype).expr
    axis = draw(st.integers(0, len(shape) - 1))
    scale = floats(rng, tuple(n if i == axis else 1 for i, n in enumerate(lut.shape)), dtype)
    return Sample("", Scale(lut, scale))


def quantized(draw, rng, groups, shape, nbits, dtype) -> Sample:
    plain = typed(draw, rng, groups, shape, nbits, dtype).expr
    assert isinstance(plain, Lut)
    integer = draw(st.sampled_from((np.int8, np.uint8)))
    scales = draw(st.sampled_from(((1,) * len(groups), groups)))
    offset = integers(rng, (*scales, 1, 1), integer) if draw(st.booleans()) else None
    table = Scale(Const(integers(rng, plain.lut.shape, integer)), floats(rng, (*scales, 1, 1), dtype), offset)
    return Sample("", dataclasses.replace(plain, lut=table))


def quantized_and_scaled(draw, rng, groups, shape, nbits, dtype) -> Sample:
    lut = quantized(draw, rng, groups, shape, nbits, dtype).expr
    return Sample("", Scale(lut, floats(rng, (lut.shape[0], *(1,) * (len(shape) - 1)), dtype)))


def sparse(draw, rng, groups, shape, nbits, dtype, table=None) -> Sample:
    mask = (rng.random(shape) < draw(st.sampled_from((0.0, 0.3, 0.7, 1.0)))).astype(np.uint8)
    chosen = rng.integers(0, 2**nbits, shape).astype(np.uint8) * mask
    lut = Lut(Packed.pack(chosen, nbits), floats(rng, (*groups, 2**nbits, 1), dtype) if table is None else table)
    return Sample("", Sparse(lut, Packed.pack(mask, 1)), joint="sparse")


def sparse_quantized(draw, rng, groups, shape, nbits, dtype) -> Sample:
    ones = (1,) * (len(groups) + 2)
    integer = draw(st.sampled_from((np.int8, np.uint8)))
    offset = integers(rng, ones, integer) if integer == np.uint8 else None
    table = Scale(Const(integers(rng, (*groups, 2**nbits, 1), integer)), floats(rng, ones, dtype), offset)
    return sparse(draw, rng, groups, shape, nbits, dtype, table)


def tables_first(draw, rng, groups, shape, nbits, dtype) -> Sample:
    """There are as many tables as scales, or a multiple of that."""
    integer = draw(st.sampled_from((np.int8, np.uint8)))
    blocks = tuple(draw(st.sampled_from(sorted({1, n}))) for n in groups)
    offset = integers(rng, (*blocks, 1, 1), integer) if draw(st.booleans()) else None
    table = Scale(Const(integers(rng, (*groups, 2**nbits, 1), integer)), floats(rng, (*blocks, 1, 1), dtype), offset)
    return Sample("", Lut(indices(rng, shape, nbits), table), joint="scaled")


def data_first(draw, rng, groups, shape, nbits, dtype) -> Sample:
    integer = draw(st.sampled_from((np.int8, np.uint8)))
    blocks = tuple(draw(st.sampled_from(sorted({1, n}))) for n in shape)
    offset = integers(rng, blocks, integer) if draw(st.booleans()) else None
    lut = Lut(indices(rng, shape, nbits), integers(rng, (*groups, 2**nbits, 1), integer))
    return Sample("", Scale(lut, floats(rng, blocks, dtype), offset), TYPED_IOS26, "scaled")


MAKERS = {
    "packed": packed,
    "typed": typed,
    "scaled": scaled,
    "quantized table": quantized,
    "quantized table, scaled": quantized_and_scaled,
    "sparse": sparse,
    "sparse with quantized table": sparse_quantized,
    "tables scaled first": tables_first,
    "data scaled first": data_first,
}


# A package with the expression in it


def held(array: np.ndarray, append: Append, type_name: str = "") -> MIL.Value:
    """As coremltools stores it: ten elements and more in the weight file. uint1 is given as uint8."""
    type_name = type_name or TYPE_NAMES[array.dtype]
    data = np.packbits(array, bitorder="little") if type_name == "UINT1" else array
    if array.size >= 10:
        _, offset = append(data, BLOB_CODES[type_name], data.size * 8 - array.size if type_name == "UINT1" else 0)
        return stored(array.shape, type_name, offset)
    value = MIL.Value(type=kind(array.shape, type_name))
    if type_name == "FLOAT32":
        value.immediateValue.tensor.floats.values.extend(array.reshape(-1).tolist())
    else:
        value.immediateValue.tensor.bytes.values = data.tobytes()
    return value


def constant(sample: Sample, append: Append) -> MIL.Operation:
    """What the palette takes the place of: a constant, or a compressed one with the same mask or scales."""
    expr, shape = sample.expr, sample.expr.shape
    type_name = TYPE_NAMES[expr.dtype]
    if not sample.joint:
        return const("w", shape=shape, dtype=type_name)
    if isinstance(expr, Sparse):
        parts = {"mask": held(expr.mask.unpack(), append, "UINT1"), "nonzero_data": stored((expr.count,), type_name)}
        made = op("constexpr_sparse_to_dense", "w", parts, shape=shape)
    else:
        scale = expr if isinstance(expr, Scale) else expr.lut
        table = expr.lut.data if isinstance(expr, Lut) else expr.data
        rank = len(shape)
        parts = {"data": stored(shape, TYPE_NAMES[table.dtype])}
        for name, part in (("scale", scale.scale), ("offset", scale.offset)):
            if part is not None:
                parts[name] = held(part.reshape(part.shape[:rank]), append)
        made = op("constexpr_blockwise_shift_scale", "w", parts, shape=shape)
    made.outputs[0].type.CopyFrom(kind(shape, type_name))
    return made


def written(sample: Sample, folder: Path) -> Path:
    """A package in which the expression stands in the constant's place."""
    opset, specification = OPSETS[sample.form]
    weights = folder / "weight.bin"
    with BlobWriter(weights) as writer:

        def append(data: np.ndarray, data_type: int, padding_bits: int) -> tuple[str, int]:
            offset = writer.append(data_type, data, padding_bits=padding_bits)
            return "@model_path/weights/weight.bin", offset

        readers = [
            op("identity", "read", {"x": "w"}, shape=sample.expr.shape),
            op("relu", "y", {"x": "x"}, shape=(1, 64)),
        ]
        readers[0].outputs[0].type.CopyFrom(kind(sample.expr.shape, TYPE_NAMES[sample.expr.dtype]))
        made = program(constant(sample, append), *readers, opset=opset, outputs=["y"])
        site: Site = surveyed(made).sites[0]
        assert site.weight.joint == sample.joint
        values = store_palette(sample.expr, sample.joint, sample.form, append)
        ops = palette_ops(site, values, NameSource(made.functions["main"]))
    block = made.functions["main"].block_specializations[opset]
    del block.operations[:]
    block.operations.extend([*ops, *readers])
    model = Model_pb2.Model(specificationVersion=specification, mlProgram=made).SerializeToString()
    return write_package(folder / "m.mlpackage", model=model, weights=weights.read_bytes())


def same_fields(one: object, two: object) -> bool:
    if dataclasses.is_dataclass(one):
        fields = [f.name for f in dataclasses.fields(one)]
        return type(one) is type(two) and all(same_fields(getattr(one, n), getattr(two, n)) for n in fields)
    if isinstance(one, np.ndarray):
        return same(one, two)
    return one == two


def same(one: np.ndarray, two: object) -> bool:
    other = np.asarray(two)
    return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


def stored_nbytes(package: Path) -> int:
    """Of the constant ops' data: records of the weight file, and values in the program that say no axis or shape."""
    (block,) = read_spec(package).mlProgram.functions["main"].block_specializations.values()
    total = 0
    for made in block.operations:
        if made.type.startswith("constexpr_"):
            total += sum(
                len(read_record(blob_file(value, package), value.blobFileValue.offset)[1])
                for value in blob_values(made)
            )
            values = [(name, b.value) for name, a in made.inputs.items() for b in a.arguments] + list(
                made.attributes.items()
            )
            for name, value in values:
                if value.WhichOneof("value") == "immediateValue" and name not in ("name", "shape", "vector_axis"):
                    tensor = value.immediateValue.tensor
                    total += len(tensor.bytes.values) + 4 * len(tensor.floats.values)
    return total


@settings(max_examples=300, deadline=None)
@given(samples(sorted(MAKERS)))
def test_what_is_written_is_read(sample: Sample) -> None:
    with tempfile.TemporaryDirectory() as folder, np.errstate(all="ignore"):
        package = written(sample, Path(folder))
        with Model.open(package) as model:
            site = next(site for site in model.survey().sites if site.weight.name == "w")
            found = expression(site, model.store)
            assert found is not None
            assert expression_digest(found) == expression_digest(sample.expr)
            assert same_fields(sample.expr, found)
            dense = found.decode()
        judged = next(decode() for key, (_, decode) in constants(package).items() if key[-1] == "w")
        assert same(dense, judged)
        assert found.nbytes == sample.expr.nbytes == stored_nbytes(package)


@pytest.mark.parametrize("name", MAKERS)
def test_coremltools_decodes_it_to_the_same(name: str, tmp_path: Path) -> None:
    @settings(max_examples=25, deadline=None, database=None)
    @given(samples([name]))
    def check(sample: Sample) -> None:
        with tempfile.TemporaryDirectory() as folder, np.errstate(all="ignore"):
            package = written(sample, Path(folder))
            assert same(sample.expr.decode(), decoded_there(package)["main", "w"])

    check()
