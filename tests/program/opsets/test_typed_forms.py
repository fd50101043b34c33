"""Compressed weights re-emitted for iOS18: the messages coremltools writes, over the same bytes."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import types
from coremltools.converters.mil.mil.ops.defs.iOS16 import constexpr_ops as ios16
from coremltools.proto import MIL_pb2 as MIL
from coremltools.proto import Model_pb2
from opset_programs import block_of, built, loaded, moved, op_named, unchanged
from slow_cases import slow_where

from mil_palettize.errors import PlanError
from mil_palettize.program.opsets.move import parse_target, plan_move

X = mb.TensorSpec((1, 4))
# weight.bin records by declared type: (data type code, bits), from MILBlob/Blob/BlobDataType.hpp
RECORDS = {"UINT1": (9, 1), "UINT2": (10, 2), "UINT4": (11, 4), "UINT6": (13, 6), "UINT8": (3, 8)}


def inline_blobs(program: MIL.Program) -> list[MIL.Value]:
    """Values in weight files that ops hold as inputs."""
    return [
        binding.value
        for op in block_of(program).operations
        for argument in op.inputs.values()
        for binding in argument.arguments
        if binding.WhichOneof("binding") == "value" and binding.value.WhichOneof("value") == "blobFileValue"
    ]


def redeclared(program: MIL.Program, weights: Path, copy: Path) -> Path:
    """A copy of the weight folder whose records have the types ``program`` declares; data stays in place."""
    shutil.copytree(weights, copy)
    file = copy / "weight.bin"
    data = bytearray(file.read_bytes()) if file.exists() else bytearray()
    for value in inline_blobs(program):
        tensor = value.type.tensorType
        declared = MIL.DataType.Name(tensor.dataType)
        if declared in RECORDS:
            code, bits = RECORDS[declared]
            count = int(np.prod([d.constant.size for d in tensor.dimensions]))
            sentinel, _, size = struct.unpack_from("<IIQ", data, value.blobFileValue.offset)
            assert (sentinel, size) == (0xDEADBEEF, (count * bits + 7) // 8)
            struct.pack_into("<I", data, value.blobFileValue.offset + 4, code)
            struct.pack_into("<Q", data, value.blobFileValue.offset + 24, size * 8 - count * bits)
    if file.exists():
        file.write_bytes(data)
    return copy


def dense(program: MIL.Program, weights: Path) -> dict[str, np.ndarray]:
    """What coremltools decompresses every constexpr op of ``main`` to."""
    operations = loaded(program, weights).functions["main"].operations
    return {
        op.outputs[0].name: op.materialized_val_inference() for op in operations if op.op_type.startswith("constexpr_")
    }


def packed(values: np.ndarray, nbits: int) -> np.ndarray:
    bits = np.unpackbits(values.reshape(-1, 1), axis=1, bitorder="little", count=nbits)
    return np.packbits(bits.reshape(-1), bitorder="little")


def as_type(values: np.ndarray, nbits: int) -> np.ndarray:
    return values.astype(types.nptype_from_builtin(types.string_to_builtin(f"uint{nbits}")))


def lut_bodies(nbits: int, shape: tuple[int, ...], dtype: type) -> tuple:
    rng = np.random.default_rng(nbits)
    indices = rng.integers(0, 2**nbits, shape, dtype=np.uint8)
    lut = np.arange(2**nbits).astype(dtype)

    def old(x):
        w = mb.constexpr_lut_to_dense(indices=packed(indices, nbits), lut=lut, shape=np.uint32(shape), name="w")
        return mb.relu(x=x), mb.identity(x=w)

    def new(x):
        table = lut.reshape((1,) * len(shape) + (-1, 1))
        w = mb.constexpr_lut_to_dense(indices=as_type(indices, nbits), lut=table, name="w")
        return mb.relu(x=x), mb.identity(x=w)

    return old, new, lut[indices]


def sparse_bodies(shape: tuple[int, ...], dtype: type) -> tuple:
    mask = np.random.default_rng(3).integers(0, 2, shape, dtype=np.uint8)
    nonzero = np.arange(1, 1 + mask.sum()).astype(dtype)
    weight = np.zeros(shape, dtype)
    weight[mask == 1] = nonzero

    def old(x):
        w = mb.constexpr_sparse_to_dense(nonzero_data=nonzero, mask=packed(mask, 1), shape=np.uint32(shape), name="w")
        return mb.relu(x=x), mb.identity(x=w)

    def new(x):
        w = mb.constexpr_sparse_to_dense(nonzero_data=nonzero, mask=as_type(mask, 1), name="w")
        return mb.relu(x=x), mb.identity(x=w)

    return old, new, weight


def cast_bodies(shape: tuple[int, ...]) -> tuple:
    source = np.random.default_rng(4).standard_normal(shape).astype(np.float16)

    def body(x):
        w = mb.constexpr_cast(source_val=source, output_dtype="fp32", name="w")
        return mb.relu(x=x), mb.identity(x=w)

    return body, body, source.astype(np.float32)


def affine_bodies(zero: np.ndarray, scale: np.ndarray, axis: int, dtype: type = np.int8) -> tuple:
    """``zero`` and ``scale`` of rank 0 or 1; the weight is computed by coremltools' own iOS16 op."""
    shape = (12, 20, 3)
    info = np.iinfo(dtype)
    data = np.random.default_rng(5).integers(info.min, info.max + 1, shape).astype(dtype)
    spread = [1] * len(shape)
    spread[axis] = max(zero.size, scale.size)

    def old(x):
        w = mb.constexpr_affine_dequantize(quantized_data=data, zero_point=zero, scale=scale, axis=axis, name="w")
        return mb.relu(x=x), mb.identity(x=w)

    def new(x):
        parts = {
            k: np.broadcast_to(v.reshape(-1), spread[axis]).reshape(spread) for k, v in (("s", scale), ("z", zero))
        }
        w = mb.constexpr_blockwise_shift_scale(data=data, scale=parts["s"], offset=parts["z"], name="w")
        return mb.relu(x=x), mb.identity(x=w)

    return old, new, ios16.constexpr_affine_dequantize.decompress(data, zero, scale, axis)


def halves(count: int) -> np.ndarray:
    return np.random.default_rng(6).uniform(0.001, 3, count).astype(np.float16)


AFFINE = {
    "affine per tensor": affine_bodies(np.int8(-7), np.float16(0.37), 0),
    "affine per channel": affine_bodies(np.arange(-6, 6, dtype=np.int8), halves(12), 0),
    "affine, last axis": affine_bodies(np.zeros(3, np.int8), halves(3).astype(np.float32), -1),
    "affine, uint8": affine_bodies(np.arange(90, 110, dtype=np.uint8), halves(20), 1, np.uint8),
    "affine, one zero point": affine_bodies(np.int8(3), halves(3), 2),
}
BODIES = {
    **{f"lut {n} bits": lut_bodies(n, (5, 7, 3), np.float16) for n in (1, 2, 4, 6, 8)},
    "lut in the program": lut_bodies(2, (3, 3), np.float16),
    "lut of int8": lut_bodies(4, (9, 9), np.int8),
    "lut of rank 1": lut_bodies(6, (33,), np.float32),
    "sparse": sparse_bodies((5, 7, 3), np.float16),
    "sparse in the program": sparse_bodies((3, 3), np.float32),
    "sparse int8": sparse_bodies((40, 3), np.int8),
    "cast": cast_bodies((4, 5)),
    "cast in the program": cast_bodies((3, 3)),
}


@pytest.mark.parametrize(("old", "new", "weight"), BODIES.values(), ids=BODIES.keys())
@pytest.mark.parametrize("source", ["iOS16", "iOS17"])
def test_the_moved_op_is_what_coremltools_writes(old, new, weight: np.ndarray, source: str, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("old", "new")]
    for folder in folders:
        folder.mkdir()
    program, direct = built(old, [X], source, folders[0]), built(new, [X], "iOS18", folders[1])
    after, move = moved(program, "iOS18")
    assert [(change.op_name, change.function) for change in move.changes] == [("w", "main")]
    assert op_named(block_of(after), "w") == op_named(block_of(direct), "w")
    unchanged(program, after, {"w"})
    copy = redeclared(after, folders[0], tmp_path / "copy")
    assert sorted(p.name for p in copy.iterdir()) == sorted(p.name for p in folders[1].iterdir())
    for file in copy.iterdir():
        assert file.read_bytes() == (folders[1] / file.name).read_bytes()
    np.testing.assert_array_equal(dense(after, copy)["w"], weight)


@pytest.mark.parametrize(("old", "new", "weight"), AFFINE.values(), ids=AFFINE.keys())
def test_affine_becomes_blockwise_over_the_same_bytes(old, new, weight: np.ndarray, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("old", "new")]
    for folder in folders:
        folder.mkdir()
    program, direct = built(old, [X], "iOS16", folders[0]), built(new, [X], "iOS18", folders[1])
    after, move = moved(program, "iOS18")
    assert [change.op_type for change in move.changes] == ["constexpr_affine_dequantize"]
    unchanged(program, after, {"w"})
    found = dense(after, folders[0])["w"]
    assert found.tobytes() == weight.astype(found.dtype).tobytes()
    for message in (after, direct):  # they write offset and scale in another order
        for value in inline_blobs(message):
            value.blobFileValue.offset = 0
    assert op_named(block_of(after), "w") == op_named(block_of(direct), "w")


def test_affine_with_zero_points_of_another_type_stays(tmp_path: Path) -> None:
    old, _, weight = affine_bodies(np.linspace(-9, 9, 12).astype(np.float32), halves(12), 0)
    program = built(old, [X], "iOS16", tmp_path)
    after, move = moved(program, "iOS18")
    assert not move.changes
    unchanged(program, after, set())
    np.testing.assert_array_equal(dense(after, tmp_path)["w"], weight)


def test_forms_before_ios18_stay(tmp_path: Path) -> None:
    program = built(BODIES["lut 4 bits"][0], [X], "iOS16", tmp_path)
    unchanged(program, moved(program, "iOS17")[0], set())


@pytest.mark.parametrize(
    ("attribute", "size", "text"),
    [
        ("indices", 52, r"its indices have type uint8 \[52\]; \[5, 7, 3\] at 4 bits need uint8 \[53\]"),
        ("lut", 15, r"its lut has shape \(15,\); it must have one of \[2, 4, 16, 64, 256\] entries"),
        ("shape", 2, r"its attribute shape does not hold its output's shape \[5, 7, 3\]"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(attribute: str, size: int, text: str, tmp_path: Path) -> None:
    program = built(BODIES["lut 4 bits"][0], [X], "iOS16", tmp_path)
    value = op_named(block_of(program), "w").attributes[attribute]
    value.type.tensorType.dimensions[0].constant.size = size
    with pytest.raises(PlanError, match=text):
        plan_move(program, parse_target("iOS18"))


def real_program(package: Path) -> tuple[Model_pb2.Model, Path]:
    (file,) = package.glob("Data/*/*.mlmodel")
    model = Model_pb2.Model()
    model.ParseFromString(file.read_bytes())
    return model, file.parent / "weights"


@pytest.mark.parametrize("name", ["palette_4bit", "int8", "pruned_int8"])
def test_real_compressed_weights_decode_to_the_same(name: str, shared_models: Path, tmp_path: Path) -> None:
    model, weights = real_program(shared_models / f"silero_vad_unified_{name}.mlpackage")
    before = dense(model.mlProgram, weights)
    after, move = moved(model.mlProgram, "iOS18")
    assert len(move.changes) == {"palette_4bit": 7, "int8": 7, "pruned_int8": 7}[name]
    same = dense(after, redeclared(after, weights, tmp_path / "weights"))
    assert len(before) == len(same) == 7
    for key, array in before.items():
        assert array.dtype == same[key].dtype
        np.testing.assert_array_equal(array, same[key])


@pytest.mark.parametrize("target", slow_where(lambda target: target != "iOS18", ["iOS16", "iOS17", "iOS18"]))
def test_real_packages_load_at_every_opset(target: str, shared_models: Path, tmp_path: Path) -> None:
    for package in sorted(shared_models.glob("*.mlpackage")):
        model, weights = real_program(package)
        after, move = moved(model.mlProgram, target)
        assert all(change.op_type.startswith("constexpr_") for change in move.changes)
        unchanged(model.mlProgram, after, {change.op_name for change in move.changes})
        folder = redeclared(after, weights, tmp_path / package.stem)
        loaded(after, folder)
