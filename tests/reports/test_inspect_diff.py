"""``inspect`` and ``diff``: what they say is what an independent reader finds."""

from __future__ import annotations

import json
import math
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from coremltools.proto import Model_pb2
from packages import blob_users, constants, differences, read_record, read_spec, spec_file, weights_dir

from mil_palettize import Report, diff_packages, inspect_package

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = sorted(path.stem for path in (ROOT / "fixtures").glob("*.mlpackage"))
Palettize = Callable[..., tuple[Path, Report]]
MIL_NAMES = {"float16": "fp16", "float32": "fp32", "object": "string"}


@pytest.fixture
def package(tmp_path: Path, fixtures: Path) -> Path:
    return Path(shutil.copytree(fixtures / "conv_fp16_ios16.mlpackage", tmp_path / "copy.mlpackage"))


def label(model: str, function: str) -> str:
    return f"{model}/{function}" if model else function


# inspect


@pytest.mark.parametrize("name", FIXTURES)
def test_every_constant_is_listed(name: str, fixtures: Path) -> None:
    path = fixtures / f"{name}.mlpackage"
    inspection = inspect_package(path)
    listed = sorted((c.function, c.name) for c in inspection.constants if c.form != "inline")
    names = dict(enumerate(read_spec(path).pipeline.names))
    stage = {key: names.get(int(key[0]), key[0]) if key[0] else "" for key in constants(path)}
    # One output of each op is the constant; the others are its masks.
    found = {id(op): (label(stage[key], key[1]), key[3]) for key, (op, _) in reversed(constants(path).items())}
    assert listed == sorted(found.values()) or sorted({*listed}) == sorted({*found.values()})
    assert inspection.nbytes == sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    values = {
        (label(stage[key], key[1]), key[3]): array for key, (op, array) in constants(path).items() if op.type == "const"
    }
    for constant in inspection.constants:
        if constant.form == "const":
            array = np.asarray(values[constant.function, constant.name]())
            assert constant.shape == array.shape
            assert constant.dtype == MIL_NAMES.get(str(array.dtype), str(array.dtype))
            assert constant.nbytes == (0 if constant.dtype == "string" else array.nbytes)


@pytest.mark.parametrize("name", FIXTURES)
def test_reasons_are_those_of_a_run(name: str, fixtures: Path, palettize: Palettize) -> None:
    inspection = inspect_package(fixtures / f"{name}.mlpackage")
    _, report = palettize(fixtures / f"{name}.mlpackage", nbits=4, dry_run=True)
    promised = [(c.function, c.name, c.nbytes) for c in inspection.constants if not c.reason]
    assert promised == [(w.function, w.name, w.bytes_before) for w in report.palettized]
    reasons = {(c.function, c.name): c.reason for c in inspection.constants}
    for weight in report.skipped:
        assert reasons[weight.function, weight.name] == weight.reason


def test_what_reads_a_constant(fixtures: Path) -> None:
    def of(name: str) -> dict[str, list[tuple[str, str]]]:
        return {c.name: c.consumers for c in inspect_package(fixtures / f"{name}.mlpackage").constants}

    assert of("embedding_matmul_ios16")["table"] == [("gather", "x"), ("matmul", "y")]
    assert of("conv_fp16_ios16")["up_weight"] == [("conv_transpose", "weight")]
    assert of("non_weights_ios16")["output_const"] == []


def test_forms(fixtures: Path, palettize: Palettize) -> None:
    def of(path: Path) -> dict[str, tuple[str, int]]:
        return {c.name: (c.form, c.nbytes) for c in inspect_package(path).constants}

    forms = of(fixtures / "joint_ios18.mlpackage")
    assert forms["two_axes_weight"][0] == "3-bit palette, 12 groups"
    assert forms["blocks_weight"][0] == "int4 scaled"
    assert of(fixtures / "palettized_ios16.mlpackage")["a_weight_palettized"] == ("4-bit palette", 64 * 48 // 2 + 32)
    for name, keywords in (("conv_fp16_ios16", {"nbits": 6}), ("conv_fp32_ios18", {"nbits": 3, "group_size": 8})):
        granularity = "per_grouped_channel" if "group_size" in keywords else "per_tensor"
        written, report = palettize(fixtures / f"{name}.mlpackage", granularity=granularity, **keywords)
        found = of(written)
        for weight in report.palettized:
            form, nbytes = found[weight.name]
            assert form.startswith(f"{weight.nbits}-bit palette")
            assert nbytes == weight.bytes_after


def test_shared_data_is_counted_once(fixtures: Path, palettize: Palettize) -> None:
    source = fixtures / "multifunction_ios18.mlpackage"
    written, _ = palettize(source, nbits=4)
    for path in (source, written):
        inspection = inspect_package(path)
        stored = sum(len(read_record(weights_dir(path) / file, offset)[1]) for file, offset in blob_users(path))
        inside = inspection.constant_nbytes - stored
        assert 0 <= inside < 100
        assert sum(c.nbytes for c in inspection.constants) > inspection.constant_nbytes
        shared = {c.label: c.shared_with for c in inspection.listed() if c.shared_with}
        assert shared == {
            "decode/base_weight": ("prefill/base_weight",), "prefill/base_weight": ("decode/base_weight",)
        }  # fmt: skip
        assert "linear (stored once with decode/base_weight)" in inspection.to_text(200)
    assert inspect_package(source).taken_nbytes == 3 * 64 * 48 * 2
    assert inspect_package(written).taken_nbytes == 0


@pytest.mark.parametrize("name", ["joint_ios18", "pipeline_ios17", "flexible_ios16"])
@pytest.mark.parametrize("width", [60, 80, 200])
def test_inspection_as_text_and_json(name: str, width: int, fixtures: Path) -> None:
    inspection = inspect_package(fixtures / f"{name}.mlpackage")
    text = inspection.to_text(width, every=True)
    assert max(len(line) for line in text.splitlines()) <= width
    wide = inspection.to_text(1000, every=True)
    assert all((c.name if c.function == "main" else f"{c.function}/{c.name}") in wide for c in inspection.constants)
    assert all(opset in text for _, opset in inspection.functions)
    got = json.loads(inspection.to_json(), parse_constant=pytest.fail)
    assert [c["name"] for c in got["constants"]] == [c.name for c in inspection.constants]


# diff


@pytest.mark.parametrize("name", FIXTURES)
def test_a_package_and_itself(name: str, fixtures: Path) -> None:
    path = fixtures / f"{name}.mlpackage"
    difference = diff_packages(path, path)
    assert difference.identical
    assert "nothing differs" in difference.to_text()
    assert difference.same_ops > 0


@pytest.mark.parametrize("name", FIXTURES)
def test_palettes_are_all_that_differs(name: str, fixtures: Path, palettize: Palettize) -> None:
    source = fixtures / f"{name}.mlpackage"
    if "ios15" in name:
        pytest.skip("moves up")
    written, report = palettize(source, nbits=2, workers=1)
    difference = diff_packages(source, written)
    assert (difference.ops, difference.metadata) == ([], [])
    assert (difference.bytes_first, difference.bytes_second) == (report.bytes_before, report.bytes_after)
    got = sorted((w.function, w.name, w.bytes_before, w.bytes_after) for w in difference.weights)
    assert got == sorted((w.function, w.name, w.bytes_before, w.bytes_after) for w in report.palettized)
    snr = {(w.function, w.name): w.snr_db for w in report.palettized}
    for weight in difference.weights:
        assert weight.before == "const"
        assert weight.after == "2-bit palette"
        expected = snr[weight.function, weight.name]
        if "branches" not in name:  # where two constants of one function have one name
            assert weight.snr_db == expected or math.isclose(weight.snr_db, expected, abs_tol=1e-6)


def test_text_and_json_of_differences(fixtures: Path, palettize: Palettize) -> None:
    source = fixtures / "odd_values_ios18.mlpackage"
    written, _ = palettize(source, nbits=4)
    difference = diff_packages(source, written)
    rows = [line.split() for line in difference.to_text(200).splitlines() if line.split()[0:1] == ["equal_weight"]]
    assert rows == [["equal_weight", "const", "4-bit", "palette", "6.14", "kB", "1.57", "kB", "equal"]]
    got = json.loads(difference.to_json(), parse_constant=pytest.fail)
    assert {w["name"]: w["snr_db"] for w in got["weights"]}["equal_weight"] == "equal"
    assert got["identical"] is False
    assert max(len(line) for line in difference.to_text(60).splitlines()[3:]) <= 60


def reversed_records(package: Path) -> None:
    """The same data, the last record first."""
    spec = read_spec(package)
    file = weights_dir(package) / "weight.bin"
    offsets = sorted((offset for _, offset in blob_users(package)), reverse=True)
    stored, moved = bytearray(struct.pack("<II56x", len(offsets), 2)), {}
    for offset in offsets:
        code, data, padding = read_record(file, offset)
        stored += bytes(-len(stored) % 64)
        moved[offset] = len(stored)
        stored += struct.pack("<IIQQQ32x", 0xDEADBEEF, code, len(data), len(stored) + 64, padding) + data
    for function in spec.mlProgram.functions.values():
        for block in function.block_specializations.values():
            for op in block.operations:
                values = [*op.attributes.values(), *(b.value for a in op.inputs.values() for b in a.arguments)]
                for value in values:
                    if value.WhichOneof("value") == "blobFileValue":
                        value.blobFileValue.offset = moved[value.blobFileValue.offset]
    file.write_bytes(stored)
    spec_file(package).write_bytes(spec.SerializeToString())


@pytest.mark.parametrize("name", ["conv_fp16_ios16", "joint_ios18", "quantized_sparse_ios16", "shared_ios16"])
def test_where_data_lies_is_no_difference(name: str, fixtures: Path, tmp_path: Path) -> None:
    source = fixtures / f"{name}.mlpackage"
    moved = Path(shutil.copytree(source, tmp_path / "moved.mlpackage"))
    reversed_records(moved)
    assert differences(source, moved) == []
    assert diff_packages(source, moved).identical


def test_exchanged_parts_of_one_op_are_a_difference(fixtures: Path, tmp_path: Path) -> None:
    """The same op pointing at the same records the other way round."""
    paths = [Path(shutil.copytree(fixtures / "shared_ios16.mlpackage", tmp_path / f"{i}.mlpackage")) for i in range(2)]
    for turn, path in enumerate(paths):
        spec = read_spec(path)
        (block,) = spec.mlProgram.functions["main"].block_specializations.values()
        weights = [op.attributes["val"] for op in block.operations if op.outputs[0].name in ("twice_weight", "twin_a")]
        linear = next(op for op in block.operations if op.type == "linear")
        for name, value in zip(("weight", "extra"), weights[::-1] if turn else weights, strict=True):
            linear.inputs[name].ClearField("arguments")
            linear.inputs[name].arguments.add().value.CopyFrom(value)
        spec_file(path).write_bytes(spec.SerializeToString())
    assert diff_packages(*paths).ops == [f"main/{linear.outputs[0].name} (linear) differs"]


def changed(package: Path, change: Callable[[Model_pb2.Model], object]) -> Path:
    other = Path(shutil.copytree(package, package.with_name("other.mlpackage")))
    spec = read_spec(other)
    change(spec)
    spec_file(other).write_bytes(spec.SerializeToString())
    return other


def ops_of(spec: Model_pb2.Model) -> list:
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    return block.operations


def rename_function(spec: Model_pb2.Model) -> None:
    spec.mlProgram.functions["other"].CopyFrom(spec.mlProgram.functions["main"])


CHANGES = [
    (lambda s: setattr(s, "specificationVersion", 9), "metadata", "specificationVersion: 7, 9"),
    (lambda s: setattr(s.description.metadata, "author", "me"), "metadata", "description.metadata differs"),
    (lambda s: setattr(s.description.input[0], "shortDescription", "x"), "metadata", "description.input differs"),
    (lambda s: setattr(s, "isUpdatable", True), "metadata", "the model around its programs differs"),
    (lambda s: s.mlProgram.functions["main"].inputs.pop(), "metadata", "function main: inputs differ"),
    (lambda s: setattr(s.mlProgram.functions["main"], "opset", "X"), "metadata", "function main: opset CoreML6, X"),
    (rename_function, "metadata", "function other is only in the second"),
    (lambda s: ops_of(s).pop(), "ops", "main/scores (cast) is only in the first"),
    (lambda s: setattr(ops_of(s)[-1], "type", "relu"), "ops", "main/scores (cast, relu) differs"),
    (lambda s: ops_of(s)[-1].attributes["name"].Clear(), "ops", "main/scores (cast) differs"),
]


@pytest.mark.parametrize(("change", "where", "line"), CHANGES)
def test_what_differs_is_named(package: Path, change: Callable, where: str, line: str) -> None:
    difference = diff_packages(package, changed(package, change))
    assert any(got.startswith(line) for got in getattr(difference, where)), difference
    assert not difference.identical
    assert line in difference.to_text()


def test_files_that_differ(package: Path) -> None:
    other = changed(package, lambda spec: None)
    (other / "notes.txt").write_text("x")
    (other / "Manifest.json").write_bytes((other / "Manifest.json").read_bytes() + b"\n")
    assert diff_packages(package, other).metadata == [
        "file Manifest.json differs",
        "file notes.txt is only in the second",
    ]
    assert diff_packages(other, package).metadata == [
        "file Manifest.json differs",
        "file notes.txt is only in the first",
    ]


def test_changed_weights_have_an_snr(package: Path) -> None:
    other = changed(package, lambda spec: None)
    ((_, offset),) = (key for key, users in blob_users(other).items() if users[0][-1] == "head_weight")
    file = weights_dir(other) / "weight.bin"
    stored = bytearray(file.read_bytes())
    size, start = struct.unpack_from("<QQ", stored, offset + 8)
    before = np.frombuffer(bytes(stored[start : start + size]), np.float16)
    after = (before * np.float16(1.1)).astype(np.float16)
    stored[start : start + size] = after.tobytes()
    file.write_bytes(stored)
    (weight,) = diff_packages(package, other).weights
    noise = before.astype(np.float64) - after.astype(np.float64)
    assert weight.name == "head_weight"
    assert math.isclose(
        weight.snr_db, 10 * math.log10(float(np.sum(before.astype(np.float64) ** 2) / np.sum(noise**2)))
    )
    stored[start : start + 2] = np.float16(np.nan).tobytes()
    file.write_bytes(stored)
    difference = diff_packages(package, other)
    assert difference.weights[0].snr_db is None
    json.loads(difference.to_json(), parse_constant=pytest.fail)
