"""Damaged packages through the whole library: one line of this library that names the package, the weight or the
file, quickly and without much memory; nothing is written. Never a crash."""

from __future__ import annotations

import json
import re
import resource
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest
from coremltools.proto import Model_pb2
from handmade import contents
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import mutate
from packages import blob_users, read_record, read_spec, spec_file, weights_dir

from mil_palettize import (
    OpPalettizerConfig,
    OptimizationConfig,
    PackageError,
    PalettizeError,
    diff_packages,
    inspect_package,
    palettize_package,
)

SOUND = Path(__file__).resolve().parents[2] / "fixtures"
FIXTURES = (
    "conv_fp16_ios16",
    "loop_ios16",
    "joint_ios18",
    "const_chains_ios16",
    "pipeline_ios17",
    "recurrent_fp16_ios17",
)
REQUESTS = (
    ({"nbits": 4}, None),
    ({"nbits": 2, "granularity": "per_grouped_channel", "group_size": 4}, "iOS18"),
    ({"mode": "unique"}, None),
)
VERBS = 2 + len(REQUESTS)


def put(fixture: str, folder: Path) -> Path:
    """A fresh copy of a fixture."""
    package = folder / "in.mlpackage"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(SOUND / f"{fixture}.mlpackage", package)
    return package


@contextmanager
def little_memory() -> Iterator[None]:
    """At most a gigabyte more than is mapped now, where that can be had."""
    if not Path("/proc/self/statm").exists():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 30), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def look(package: Path) -> None:
    inspection = inspect_package(package)
    json.loads(inspection.to_json(), parse_constant=pytest.fail)
    inspection.to_text(80)


def compare(package: Path) -> None:
    difference = diff_packages(package, package)
    assert difference.identical
    difference.to_text(80)


def palettize(package: Path, keywords: dict[str, object], target: str | None) -> None:
    config = OptimizationConfig(global_config=OpPalettizerConfig(weight_threshold=64, **keywords))
    destination = package.with_name("out.mlpackage")
    report = palettize_package(package, destination, config, select="all", target=target, workers=1, verify=True)
    json.loads(report.to_json(), parse_constant=pytest.fail)
    report.to_text(80)


def refusals(package: Path) -> list[str]:
    """The line of each verb that refuses the package. The source and what lies beside it stay as they were."""
    before = contents(package.parent)
    verbs: list[Callable[[], None]] = [lambda: look(package), lambda: compare(package)]
    verbs += [lambda k=keywords, t=target: palettize(package, k, t) for keywords, target in REQUESTS]
    lines = []
    with little_memory():
        for verb in verbs:
            try:
                verb()
                shutil.rmtree(package.with_name("out.mlpackage"), ignore_errors=True)
            except PalettizeError as error:
                lines.append(str(error))
            assert contents(package.parent) == before
    for line in lines:
        assert "\n" not in line
        assert str(package) in line or re.search(r"'[^']+'", line), line
        assert "check the disk" not in line, "what was written was not found to be right"
    return lines


@pytest.mark.parametrize("fixture", FIXTURES)
def test_what_is_damaged_is_sound(fixture: str, tmp_path: Path) -> None:
    assert refusals(put(fixture, tmp_path)) == []


# Weight files


def weight_file(package: Path) -> Path:
    return weights_dir(package) / "weight.bin"


def overwrite(file: Path, at: int, data: bytes) -> None:
    stored = bytearray(file.read_bytes())
    stored[at : at + len(data)] = data
    file.write_bytes(stored)


RECORD_DAMAGE = [
    pytest.param(0, bytes(4), "begins with 0x00000000, not 0xdeadbeef", id="sentinel"),
    pytest.param(8, struct.pack("<Q", 2**40), "past the end of the file", id="size"),
    pytest.param(8, struct.pack("<Q", 2**64 - 1), "past the end of the file", id="largest size"),
    pytest.param(16, struct.pack("<Q", 2**40), "past the end of the file", id="offset"),
    pytest.param(16, struct.pack("<Q", 2**64 - 64), "past the end of the file", id="largest offset"),
    pytest.param(16, struct.pack("<Q", 3), "not at a later multiple of 64", id="misaligned"),
    pytest.param(8, struct.pack("<Q", 2), "bytes by its shape .* holds 2; the package is damaged", id="too small"),
]


@pytest.mark.parametrize(("at", "data", "said"), RECORD_DAMAGE)
def test_damaged_record_names_weight_and_file(tmp_path: Path, at: int, data: bytes, said: str) -> None:
    package = put("conv_fp16_ios16", tmp_path)
    for (_, offset), users in list(blob_users(package).items())[::5]:
        put("conv_fp16_ios16", tmp_path)
        overwrite(weight_file(package), offset + at, data)
        lines = refusals(package)
        assert len(lines) == VERBS
        for line in lines:
            assert re.search(said, line), line
            assert str(weight_file(package)) in line
            assert any(repr(key[-1]) in line for key in users)


def test_overlapping_records_name_both(tmp_path: Path) -> None:
    """The program points at a record that lies inside the data of another."""
    package = put("conv_fp16_ios16", tmp_path)
    users = blob_users(package)
    (_, inside), (large,) = max(users.items(), key=lambda item: len(read_record(weight_file(package), item[0][1])[1]))
    spec = read_spec(package)
    ops = spec.mlProgram.functions["main"].block_specializations["CoreML6"].operations
    moved = next(op.attributes["val"].blobFileValue for op in ops if op.outputs[0].name == "head_bias")
    record = weight_file(package).read_bytes()[moved.offset : moved.offset + 64]
    hidden = inside + 128
    overwrite(weight_file(package), hidden, record[:16] + struct.pack("<Q", hidden + 64) + record[24:])
    moved.offset = hidden
    spec_file(package).write_bytes(spec.SerializeToString())
    lines = refusals(package)
    assert len(lines) == VERBS
    assert all(f"the records of {large[-1]!r} and 'head_bias' overlap at byte {hidden}" in line for line in lines)


def test_truncated_files_are_named(tmp_path: Path) -> None:
    package = put("conv_fp16_ios16", tmp_path)
    specification = spec_file(package)
    for file in (weight_file(package), specification, package / "Manifest.json"):
        whole = file.read_bytes()
        for size in (0, 1, 63, 64, len(whole) // 2, len(whole) - 2):
            file.write_bytes(whole[:size])
            lines = refusals(package)
            assert len(lines) == VERBS
            # The package's one specification needs no telling which.
            assert all(str(package if file == specification else file) in line for line in lines)
        file.write_bytes(whole)


def test_missing_files_are_named(tmp_path: Path) -> None:
    package = put("conv_fp16_ios16", tmp_path)
    for file in (weight_file(package), spec_file(package), package / "Manifest.json"):
        whole = file.read_bytes()
        file.unlink()
        lines = refusals(package)
        assert len(lines) == VERBS
        assert all(file.name in line and str(package) in line for line in lines)
        file.write_bytes(whole)


@pytest.mark.parametrize("name", ["@model_path/../../../../secret.bin", "../secret.bin", "/etc/passwd", ""])
def test_weight_file_outside_the_package(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.bin").write_bytes((SOUND / "conv_fp16_ios16.mlpackage/Manifest.json").read_bytes())
    package = put("conv_fp16_ios16", tmp_path)
    spec = read_spec(package)
    ops = spec.mlProgram.functions["main"].block_specializations["CoreML6"].operations
    next(op for op in ops if op.outputs[0].name == "stem_weight").attributes["val"].blobFileValue.fileName = name
    spec_file(package).write_bytes(spec.SerializeToString())
    lines = refusals(package)
    assert len(lines) == VERBS
    assert all(f"weight 'stem_weight' is in the file {name!r}" in line for line in lines)


def test_manifest_that_leads_out(tmp_path: Path) -> None:
    package = put("conv_fp16_ios16", tmp_path)
    manifest = (package / "Manifest.json").read_text()
    (package / "Manifest.json").write_text(manifest.replace("com.apple.CoreML/weights", "../../../etc"))
    lines = refusals(package)
    assert len(lines) == VERBS
    assert all(f"{package}/Manifest.json is damaged" in line and "'../../../etc'" in line for line in lines)


# Specifications


def test_models_without_a_program(tmp_path: Path) -> None:
    package = put("conv_fp16_ios16", tmp_path)
    network, nothing, tree = Model_pb2.Model(), Model_pb2.Model(), Model_pb2.Model()
    network.neuralNetwork.layers.add().name = "conv"
    nothing.specificationVersion = 7
    tree.treeEnsembleRegressor.SetInParent()
    cases = (network, "is a neural network, .* convert"), (nothing, "holds no model"), (tree, "treeEnsembleRegressor")
    for model, said in cases:
        spec_file(package).write_bytes(model.SerializeToString())
        lines = refusals(package)
        assert len(lines) == VERBS
        assert all(re.search(said, line) and str(package) in line for line in lines)


@pytest.mark.parametrize("sizes", [[2**63 - 1, 2**63 - 1], [2**64 - 1], [2**32, 2**32], [2**31, 2], [0], []])
def test_claimed_shapes_allocate_nothing(tmp_path: Path, sizes: list[int]) -> None:
    package = put("conv_fp16_ios16", tmp_path)
    spec = read_spec(package)
    ops = spec.mlProgram.functions["main"].block_specializations["CoreML6"].operations
    const = next(op for op in ops if op.outputs[0].name == "stem_weight")
    for value_type in (const.attributes["val"].type, const.outputs[0].type):
        del value_type.tensorType.dimensions[:]
        for size in sizes:
            value_type.tensorType.dimensions.add().constant.size = size
    spec_file(package).write_bytes(spec.SerializeToString())
    lines = refusals(package)
    assert len(lines) == VERBS
    assert all("'stem_weight' needs" in line for line in lines)


def test_deeply_nested_blocks(tmp_path: Path) -> None:
    package = put("conv_fp16_ios16", tmp_path)
    spec = read_spec(package)
    block = spec.mlProgram.functions["main"].block_specializations["CoreML6"]
    for _ in range(2000):
        op = block.operations.add(type="cond")
        block = op.blocks.add()
    spec_file(package).write_bytes(spec.SerializePartialToString())
    lines = refusals(package)
    assert len(lines) in (0, VERBS)
    assert all("is not a Core ML model specification" in line for line in lines)


QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=QUIET)
@given(fixture=st.sampled_from(FIXTURES), data=st.data())
def test_flipped_bits(tmp_path: Path, fixture: str, data: st.DataObject) -> None:
    """What is not refused is palettized and verified."""
    package = put(fixture, tmp_path)
    file = data.draw(st.sampled_from(sorted(p for p in package.rglob("*") if p.is_file())))
    stored = bytearray(file.read_bytes())
    for bit in data.draw(st.lists(st.integers(0, len(stored) * 8 - 1), min_size=1, max_size=4)):
        stored[bit // 8] ^= 1 << bit % 8
    file.write_bytes(stored)
    refusals(package)


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=QUIET)
@given(fixture=st.sampled_from(FIXTURES), seed=st.integers(0, 2**32), changes=st.integers(1, 4))
def test_changed_fields(tmp_path: Path, fixture: str, seed: int, changes: int) -> None:
    """Specifications that parse and mean something else, or nothing."""
    package = put(fixture, tmp_path)
    spec, random = read_spec(package), Random(seed)
    for _ in range(changes):
        mutate(spec, random)
    spec_file(package).write_bytes(spec.SerializePartialToString())
    refusals(package)


@pytest.mark.parametrize("suffix", [".mlmodel", ".mlmodelc", ".zip", ".mlpackage"])
def test_other_formats_are_named(tmp_path: Path, suffix: str) -> None:
    model = tmp_path / f"model{suffix}"
    if suffix == ".mlmodelc":
        model.mkdir()
        (model / "coremldata.bin").write_bytes(b"\1")
    elif suffix == ".mlmodel":
        model.write_bytes(spec_file(SOUND / "conv_fp16_ios16.mlpackage").read_bytes())
    else:
        archive = shutil.make_archive(str(tmp_path / "a"), "zip", SOUND, "shared_ios16.mlpackage")
        Path(archive).rename(model)
    said = {".mlmodel": "Core ML model file", ".mlmodelc": "compiled model"}.get(suffix, "zip file; unzip it first")
    config = OptimizationConfig(global_config=OpPalettizerConfig(nbits=4))
    before = contents(tmp_path)
    for verb in (
        lambda: inspect_package(model),
        lambda: diff_packages(SOUND / "shared_ios16.mlpackage", model),
        lambda: palettize_package(model, tmp_path / "out.mlpackage", config),
    ):
        with pytest.raises(PackageError, match=f"{re.escape(str(model))} is a .*{said}"):
            verb()
    assert contents(tmp_path) == before
