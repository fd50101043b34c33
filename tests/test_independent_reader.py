"""The judge judged: does the independent reader decode rightly, and does it see what moved?"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from coremltools.proto import MIL_pb2 as MIL
from coremltools.proto import Model_pb2
from packages import (
    blob_users,
    blob_values,
    constants,
    decode_op,
    decode_value,
    differences,
    manifest,
    normalised,
    read_record,
    read_spec,
    spec_file,
    unpack,
    weights_dir,
)

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


@pytest.fixture
def copy(tmp_path: Path) -> Callable[[str], Path]:
    """A writable copy of a fixture."""
    return lambda name: Path(shutil.copytree(FIXTURES / f"{name}.mlpackage", tmp_path / f"{name}.mlpackage"))


def rewrite(package: Path, edit: Callable[[Model_pb2.Model], object]) -> None:
    spec = read_spec(package)
    edit(spec)
    spec_file(package).write_bytes(spec.SerializeToString())


def operations(spec: Model_pb2.Model) -> list[MIL.Operation]:
    function = spec.mlProgram.functions["main"]
    return function.block_specializations[function.opset].operations


@pytest.mark.parametrize("nbits", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("count", [1, 7, 8, 9, 64, 101])
def test_unpack_reads_least_significant_bits_first(nbits: int, count: int) -> None:
    values = np.random.default_rng(nbits * count).integers(0, 2**nbits, count).tolist()
    number = sum(value << (position * nbits) for position, value in enumerate(values))
    data = number.to_bytes(-(-count * nbits // 8), "little")
    assert unpack(data, nbits, count).tolist() == values
    signed = [value - 2**nbits if value >= 2 ** (nbits - 1) else value for value in values]
    assert unpack(data, nbits, count, signed=True).tolist() == signed


def test_iOS18_palettes_follow_their_definition() -> None:
    """Element by element, as the docstring of the op puts it, on groups along two axes and on vectors."""
    found = constants(FIXTURES / "joint_ios18.mlpackage")
    for name, vector_axis in (("two_axes_weight", None), ("vector_weight", 0)):
        op, decode = found["", "main", "", name]
        package = FIXTURES / "joint_ios18.mlpackage"
        indices, lut = (decode_value(op.inputs[k].arguments[0].value, package) for k in ("indices", "lut"))
        dense = decode()
        for at in np.ndindex(dense.shape):
            place, component = list(at), 0
            if vector_axis is not None:
                place[vector_axis], component = divmod(at[vector_axis], lut.shape[-1])
            group = [p * lut.shape[a] // indices.shape[a] for a, p in enumerate(place)]
            assert dense[at] == lut[(*group, indices[tuple(place)], component)]


def test_iOS16_palette_follows_the_example_of_its_docstring() -> None:
    """2 bits, shape (5,): i0..i3 in byte 0 from its low bits up, i4 in byte 1."""
    op = MIL.Operation(type="constexpr_lut_to_dense")
    lut = np.array([10, 20, 30, 40], np.float16).tobytes()
    for name, type_name, size, data in (
        ("indices", "UINT8", 2, bytes([0b01101100, 0b00000011])),
        ("lut", "FLOAT16", 4, lut),
        ("shape", "UINT32", 1, struct.pack("<I", 5)),
    ):
        value = op.attributes[name]
        value.type.tensorType.dataType = MIL.DataType.Value(type_name)
        value.type.tensorType.dimensions.add().constant.size = size
        value.immediateValue.tensor.bytes.values = data
    assert decode_op(op, Path()).tolist() == [10, 40, 30, 20, 40]


def test_records_are_checked(tmp_path: Path) -> None:
    file = tmp_path / "weight.bin"
    header = struct.pack("<II56x", 1, 2)
    good = struct.pack("<IIQQQ32x", 0xDEADBEEF, 3, 5, 128, 0)
    file.write_bytes(header + good + b"hello")
    assert read_record(file, 64) == (3, b"hello", 0)
    for metadata, complaint in (
        (struct.pack("<IIQQQ32x", 0xDEADBEEE, 3, 5, 128, 0), "sentinel"),
        (struct.pack("<IIQQQ32x", 0xDEADBEEF, 3, 6, 128, 0), "outside"),
        (struct.pack("<IIQQQ32x", 0xDEADBEEF, 3, 5, 129, 0), "aligned"),
        (struct.pack("<IIQQQ32x", 0xDEADBEEF, 3, 5, 64, 0), "before"),
    ):
        file.write_bytes(header + metadata + b"hello")
        with pytest.raises(AssertionError, match=complaint):
            read_record(file, 64)


def test_where_records_lie_is_no_difference(copy: Callable[[str], Path]) -> None:
    """All records moved 4096 bytes down, which only references and offsets can tell."""
    package = copy("shared_ios16")
    file, distance = weights_dir(package) / "weight.bin", 4096
    data = bytearray(file.read_bytes())
    for _, offset in blob_users(package):
        struct.pack_into("<Q", data, offset + 16, struct.unpack_from("<Q", data, offset + 16)[0] + distance)
    file.write_bytes(data[:64] + bytes(distance) + data[64:])

    def edit(spec: Model_pb2.Model) -> None:
        for value in blob_values(spec):
            value.blobFileValue.offset += distance

    rewrite(package, edit)
    assert differences(FIXTURES / package.name, package) == []


def flip_byte(package: Path) -> None:
    file = weights_dir(package) / "weight.bin"
    data = bytearray(file.read_bytes())
    data[128 + 7] ^= 1
    file.write_bytes(data)


def add_file(package: Path) -> None:
    (package / "Data/com.example/more.txt").write_text("more")


def change_notes(package: Path) -> None:
    (package / "Data/com.example/notes.txt").write_text("changed")


def change_manifest(package: Path) -> None:
    content = manifest(package)
    next(iter(content["itemInfoEntries"].values()))["description"] = "changed"
    (package / "Manifest.json").write_text(json.dumps(content))


def linear(spec: Model_pb2.Model) -> MIL.Operation:
    return next(op for op in operations(spec) if op.type == "linear")


def swap_first_two(spec: Model_pb2.Model) -> None:
    ops = operations(spec)
    moved = MIL.Operation()
    moved.CopyFrom(ops[0])
    ops[0].CopyFrom(ops[1])
    ops[1].CopyFrom(moved)


def move_up(spec: Model_pb2.Model) -> None:
    function = spec.mlProgram.functions["main"]
    function.block_specializations["CoreML7"].CopyFrom(function.block_specializations[function.opset])
    del function.block_specializations[function.opset]
    function.opset = "CoreML7"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (flip_byte, ["op main//in_weight: changed"]),
        (add_file, ["file Data/com.example/more.txt: only in", "files: changed"]),
        (change_notes, ["file Data/com.example/notes.txt: changed"]),
        (change_manifest, ["manifest: changed"]),
    ],
)
def test_changes_of_files_are_seen(
    copy: Callable[[str], Path], change: Callable[[Path], None], expected: list[str]
) -> None:
    package = copy("extras_ios16")
    assert differences(FIXTURES / package.name, package) == []
    change(package)
    lines = differences(FIXTURES / package.name, package)
    assert len(lines) == len(expected)
    assert all(line.startswith(start) for line, start in zip(lines, expected, strict=True)), lines


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda s: linear(s).attributes["name"].immediateValue.tensor.strings.values.append("x"), ["op main//in"]),
        (lambda s: setattr(linear(s).inputs["x"].arguments[0], "name", "other"), ["op main//in"]),
        (lambda s: operations(s).pop(), ["op main//y", "order main/"]),
        (swap_first_two, ["order main/"]),
        (lambda s: setattr(s, "specificationVersion", 8), ["specificationVersion"]),
        (lambda s: setattr(s.mlProgram.functions["main"].inputs[0], "name", "z"), ["function main"]),
        (lambda s: setattr(s.description.input[0], "shortDescription", "z"), ["description.input"]),
        (lambda s: s.description.metadata.userDefined.update(z="z"), ["description.metadata"]),
        (lambda s: setattr(s.mlProgram, "docString", "z"), ["program"]),
        (lambda s: setattr(s, "isUpdatable", True), ["model"]),
        (move_up, ["opset main", "specializations main"]),
    ],
)
def test_changes_of_messages_are_seen(
    copy: Callable[[str], Path], edit: Callable[[Model_pb2.Model], object], expected: list[str]
) -> None:
    package = copy("extras_ios16")
    rewrite(package, edit)
    lines = differences(FIXTURES / package.name, package)
    assert [line.split(":")[0] for line in lines] == expected


def test_pipelines_are_compared_stage_by_stage(copy: Callable[[str], Path]) -> None:
    package = copy("pipeline_ios17")
    rewrite(package, lambda spec: setattr(spec.pipeline.models[1], "specificationVersion", 9))
    assert differences(FIXTURES / package.name, package) == ["specificationVersion[1]: 8 -> 9"]
    detector = copy("detector_ios16")
    rewrite(detector, lambda spec: setattr(spec.pipeline.models[1].nonMaximumSuppression, "iouThreshold", 0.5))
    assert differences(FIXTURES / detector.name, detector) == ["model[1]: changed"]


def test_every_piece_has_a_key_of_its_own() -> None:
    pieces = normalised(FIXTURES / "loop_ios16.mlpackage")
    assert {"op main/loop_0#1/inner_weight", "op main//outer_weight", "block main/loop_0#0"} <= pieces.keys()
