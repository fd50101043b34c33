"""``verify``: whatever is not as it was written, or not as the report says, is found before it takes its place."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest
from coremltools.proto import MIL_pb2 as MIL
from coremltools.proto import Model_pb2
from handmade import contents
from packages import blob_users, read_spec, spec_file, weights_dir

from mil_palettize import OpPalettizerConfig, OptimizationConfig, PackageError, Report, VerifyError, palettize_package
from mil_palettize.doors import palettize_run as api
from mil_palettize.program.values import string_value
from mil_palettize.reports.counting import Count
from mil_palettize.rewriting.verification import verify_package

Tamper = Callable[[Path, Report], None]
Weights = dict[tuple[str, str], np.ndarray]
NOTHING_WRITTEN = "nothing was put in place: check the disk, then run again"


def config(**keywords: object) -> OptimizationConfig:
    return OptimizationConfig(global_config=OpPalettizerConfig(**{"nbits": 4} | keywords))


def weight_file(package: Path) -> Path:
    return weights_dir(package) / "weight.bin"


def operations(spec: Model_pb2.Model) -> list[MIL.Operation]:
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    return block.operations


def find(spec: Model_pb2.Model, output: str) -> MIL.Operation:
    return next(op for op in operations(spec) if [o.name for o in op.outputs] == [output])


def in_spec(change: Callable[[Model_pb2.Model], object]) -> Tamper:
    def tamper(package: Path, report: Report) -> None:
        spec = read_spec(package)
        change(spec)
        spec_file(package).write_bytes(spec.SerializeToString())

    return tamper


def in_data(name: str, which: int, flip: Callable[[bytearray, int, int], None]) -> Tamper:
    """Damages the data of record number ``which`` of the constant ``name``: ``flip(stored, start, size)``."""

    def tamper(package: Path, report: Report) -> None:
        offset = sorted(o for (_, o), users in blob_users(package).items() if users[0][-1] == name)[which]
        stored = bytearray(weight_file(package).read_bytes())
        size, start = struct.unpack_from("<QQ", stored, offset + 8)
        flip(stored, start, size)
        weight_file(package).write_bytes(stored)

    return tamper


def first_bit(stored: bytearray, start: int, size: int) -> None:
    stored[start] ^= 1


def last_bit(stored: bytearray, start: int, size: int) -> None:
    stored[start + size - 1] ^= 0x80


def in_file(edit: Callable[[bytearray], object]) -> Tamper:
    def tamper(package: Path, report: Report) -> None:
        stored = bytearray(weight_file(package).read_bytes())
        edit(stored)
        weight_file(package).write_bytes(stored)

    return tamper


def in_report(change: Callable[[Report], object]) -> Tamper:
    return lambda package, report: change(report) and None


def claim(report: Report, **changes: object) -> Report:
    report.weights[0] = dataclasses.replace(report.weights[0], **changes)
    return report


def swap_offsets(spec: Model_pb2.Model) -> None:
    """The look-up tables of two palettes, which have the same type and size."""
    one, two = (find(spec, name).attributes["lut"].blobFileValue for name in ("stem_weight", "up_weight"))
    one.offset, two.offset = two.offset, one.offset


def rename_consumer(spec: Model_pb2.Model) -> None:
    find(spec, "depthwise").inputs["weight"].arguments[0].name = "stem_weight"


def reorder(spec: Model_pb2.Model) -> None:
    ops = operations(spec)
    kept = MIL.Operation()
    kept.CopyFrom(ops[0])
    ops[0].CopyFrom(ops[1])
    ops[1].CopyFrom(kept)


def add_a_space(package: Path, report: Report) -> None:
    manifest = package / "Manifest.json"
    manifest.write_bytes(manifest.read_bytes() + b" ")


def set_count(count: int) -> Callable[[bytearray], object]:
    return lambda stored: struct.pack_into("<I", stored, 0, count)


TAMPERING = [
    pytest.param(in_data("stem_weight", 0, first_bit), "'main/stem_weight' is not stored as", id="first index"),
    pytest.param(in_data("stem_weight", 0, last_bit), "'main/stem_weight' is not stored as", id="last index"),
    pytest.param(in_data("stem_weight", 1, first_bit), "'main/stem_weight' is not stored as", id="table entry"),
    pytest.param(in_data("head_weight", 1, last_bit), "'main/head_weight' is not stored as", id="last table entry"),
    pytest.param(in_data("stem_bias", 0, first_bit), "const 'stem_bias' .* differs", id="dense byte"),
    pytest.param(in_data("pointwise_weight", 0, last_bit), "const 'pointwise_weight' .* differs", id="left alone"),
    pytest.param(in_spec(swap_offsets), "'main/stem_weight' is not stored as", id="swapped offsets"),
    pytest.param(in_spec(lambda s: operations(s).remove(find(s, "stem_relu"))), "'stem_relu'", id="missing op"),
    pytest.param(in_spec(lambda s: operations(s).pop()), "cast 'scores' .* is missing", id="missing last op"),
    pytest.param(in_spec(lambda s: operations(s).remove(find(s, "head_weight"))), "'head_weight'", id="no palette"),
    pytest.param(in_spec(lambda s: operations(s).add().CopyFrom(operations(s)[0])), "is new", id="another op"),
    pytest.param(in_spec(reorder), "cast 'image_to_fp16' is in its place", id="order"),
    pytest.param(in_spec(rename_consumer), "conv 'depthwise' .* differs", id="input of an op"),
    pytest.param(
        in_spec(lambda s: find(s, "stem_weight").attributes["name"].CopyFrom(string_value("renamed"))),
        "the palette of 'main/stem_weight' has other parts, names or types",
        id="name of a palette",
    ),
    pytest.param(
        in_spec(lambda s: find(s, "stem_weight").attributes["name"].CopyFrom(MIL.Value())),
        "'main/stem_weight' is not stored as the palette",
        id="no name of a palette",
    ),
    pytest.param(
        in_spec(lambda s: setattr(find(s, "stem_weight").outputs[0].type.tensorType, "dataType", MIL.FLOAT32)),
        "'main/stem_weight'",
        id="type of a palette",
    ),
    pytest.param(in_spec(lambda s: s.description.input.pop()), "description", id="description"),
    pytest.param(in_spec(lambda s: setattr(s, "specificationVersion", 8)), "metadata", id="version"),
    pytest.param(in_spec(lambda s: setattr(s.mlProgram.functions["main"], "opset", "CoreML7")), "metadata", id="opset"),
    pytest.param(in_spec(lambda s: s.mlProgram.functions["main"].inputs.pop()), "inputs", id="function input"),
    pytest.param(in_file(lambda stored: stored.pop()), "past the end", id="truncated"),
    pytest.param(in_file(lambda stored: stored.append(0)), "counts 18 records, which are not all", id="appended"),
    pytest.param(in_file(set_count(17)), "counts 17 records, which are not all", id="count too small"),
    pytest.param(in_file(set_count(19)), "record 19 of 19", id="count too large"),
    pytest.param(in_file(lambda stored: stored.__setitem__(64, 0)), "begins with", id="sentinel"),
    pytest.param(in_file(lambda stored: stored.__setitem__(68, 2)), "'stem_weight|stem_weight'", id="data type"),
    pytest.param(lambda package, report: weight_file(package).unlink(), "there is no file", id="no weight file"),
    pytest.param(lambda package, report: spec_file(package).write_bytes(b""), "no model", id="no model"),
    pytest.param(lambda package, report: (package / "extra").touch(), "the file extra is not in", id="another file"),
    pytest.param(
        lambda package, report: (package / "Manifest.json").write_bytes(
            (package / "Manifest.json").read_bytes() + b" "
        ),
        "Manifest.json has other bytes",
        id="manifest",
    ),
    pytest.param(in_report(lambda r: claim(r, squared_error=r.weights[0].squared_error * 1.001)), "error", id="SNR"),
    pytest.param(in_report(lambda r: claim(r, nbits=2)), "palette of 2 bits that was reported", id="reported bits"),
    pytest.param(in_report(lambda r: claim(r, bytes_after=1)), "that was reported", id="reported bytes"),
    pytest.param(in_report(lambda r: claim(r, group_size=8, channel_axis=0)), "was reported", id="reported groups"),
    pytest.param(in_report(lambda r: claim(r, status="skipped")), "palette that was not reported", id="unreported"),
    pytest.param(in_report(lambda r: r.weights.append(r.weights[0])), "and is dense", id="reported and dense"),
]


@pytest.mark.parametrize("overwrite", [False, True], ids=["new", "existing"])
@pytest.mark.parametrize(("tamper", "said"), TAMPERING)
def test_tampering_is_found(
    tamper: Tamper, said: str, overwrite: bool, tmp_path: Path, fixtures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    destination = tmp_path / "out.mlpackage"
    if overwrite:
        palettize_package(fixtures / "shared_ios16.mlpackage", destination, config(nbits=2), workers=1)
    before = contents(tmp_path)

    def tampered(source: Path, written: Path, report: Report, importance: Weights, count: Count) -> None:
        verify_package(source, written, report, importance, count)
        tamper(written, report)
        verify_package(source, written, report, importance, count)

    monkeypatch.setattr(api, "verify_package", tampered)
    source = fixtures / "conv_fp16_ios16.mlpackage"
    with pytest.raises(VerifyError, match=said) as caught:
        palettize_package(source, destination, config(), verify=True, overwrite=overwrite, workers=1)
    assert str(caught.value).endswith(NOTHING_WRITTEN)
    assert "partial" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "keywords"),
    [
        ("conv_fp32_ios18", {"nbits": 8, "granularity": "per_grouped_channel", "group_size": 4}),
        ("palettized_ios16", {"nbits": 3, "target": "iOS18"}),
        ("joint_ios18", {}),
    ],
)
def test_any_changed_byte_of_data_is_found(
    name: str, keywords: dict, fixtures: Path, palettize: Callable[..., tuple[Path, Report]]
) -> None:
    """Down to the last bit of a 32-bit table entry, and in constants nobody touched."""
    source = fixtures / f"{name}.mlpackage"
    written, report = palettize(source, verify=True, workers=1, **{"nbits": 4} | keywords)
    assert report.verified
    whole = weight_file(written).read_bytes()
    random = Random(0)
    for _, offset in blob_users(written):
        size, start = struct.unpack_from("<QQ", whole, offset + 8)
        for position in random.sample(range(start, start + size), min(size, 3)):
            damaged = bytearray(whole)
            damaged[position] ^= 1
            weight_file(written).write_bytes(damaged)
            with pytest.raises(VerifyError):
                verify_package(source, written, report)
    weight_file(written).write_bytes(whole)
    verify_package(source, written, report)


def test_ops_in_nested_blocks_are_compared(fixtures: Path, palettize: Callable[..., tuple[Path, Report]]) -> None:
    for name in ("loop_ios16", "branches_ios16"):
        source = fixtures / f"{name}.mlpackage"
        written, report = palettize(source, nbits=4, verify=True, workers=1)
        whole = read_spec(written)
        owner = next(i for i, op in enumerate(operations(whole)) if op.blocks)
        for number in range(len(operations(whole)[owner].blocks)):
            for change in (
                lambda block: block.operations.pop(),
                lambda block: block.operations[0].attributes["name"].Clear(),
                lambda block: block.outputs.__setitem__(0, "elsewhere"),
            ):
                spec = read_spec(written)
                change(operations(spec)[owner].blocks[number])
                spec_file(written).write_bytes(spec.SerializeToString())
                with pytest.raises(VerifyError):
                    verify_package(source, written, report)
                spec_file(written).write_bytes(whole.SerializeToString())
        verify_package(source, written, report)


def test_every_function_and_stage_is_compared(fixtures: Path, palettize: Callable[..., tuple[Path, Report]]) -> None:
    for name, said in (("multifunction_ios18", "'prefill'"), ("pipeline_ios17", "'1/main'")):
        source = fixtures / f"{name}.mlpackage"
        written, report = palettize(source, nbits=4, verify=True, workers=1)
        spec = read_spec(written)
        program = spec.pipeline.models[1].mlProgram if spec.pipeline.models else spec.mlProgram
        function = program.functions["main" if spec.pipeline.models else "prefill"]
        (block,) = function.block_specializations.values()
        block.operations.pop()
        spec_file(written).write_bytes(spec.SerializeToString())
        with pytest.raises(VerifyError, match=f"of function {said} is missing"):
            verify_package(source, written, report)


def test_moves_that_were_not_reported_are_found(fixtures: Path, palettize: Callable[..., tuple[Path, Report]]) -> None:
    source = fixtures / "palettized_ios16.mlpackage"
    written, report = palettize(source, nbits=4, target="iOS18", verify=True, workers=1)
    kept = report.moved
    report.moved = []
    with pytest.raises(VerifyError):
        verify_package(source, written, report)
    report.moved = kept
    plain, unmoved = palettize(source, nbits=4, verify=True, workers=1)
    unmoved.moved = kept
    verify_package(source, plain, unmoved)  # a move to where it is changes nothing
    verify_package(source, written, report)


def test_source_that_is_gone_is_no_failed_verification(
    fixtures: Path, palettize: Callable[..., tuple[Path, Report]], tmp_path: Path
) -> None:
    written, report = palettize(fixtures / "shared_ios16.mlpackage", nbits=4, workers=1)
    with pytest.raises(PackageError, match="there is no"):
        verify_package(tmp_path / "gone.mlpackage", written, report)


def test_no_verification_without_asking(fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "verify_package", pytest.fail)
    report = palettize_package(fixtures / "shared_ios16.mlpackage", tmp_path / "out.mlpackage", config(), workers=1)
    assert not report.verified
    assert "verified" not in report.to_text()


WEIGHED = {"stem_weight": np.linspace(0.1, 5, 12).reshape(12, 1, 1, 1)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weighted_error": 0.5}, "weighted squared error [0-9.e-]+, reported was 0.5"),
        ({"weighted_error": None}, "weighted squared error [0-9.e-]+, reported was None"),
        ({"squared_error": 0.5}, "decodes with squared error [0-9.e-]+, reported was 0.5"),
    ],
)
def test_weighted_is_held_against_weighted(
    change: dict[str, object], said: str, tmp_path: Path, fixtures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, destination = fixtures / "conv_fp16_ios16.mlpackage", tmp_path / "out.mlpackage"
    report = palettize_package(source, destination, config(), verify=True, importance=WEIGHED)
    (of_stem,) = (w for w in report.weights if w.name == "stem_weight")
    assert of_stem.weighted_error is not None
    assert [w.name for w in report.palettized if w.weighted_error is not None] == ["stem_weight"]

    def tampered(source: Path, written: Path, report: Report, importance: Weights, count: Count) -> None:
        claim(report, **change)
        verify_package(source, written, report, importance, count)

    monkeypatch.setattr(api, "verify_package", tampered)
    with pytest.raises(VerifyError, match=f"'main/stem_weight' .*{said}"):
        palettize_package(source, destination, config(), verify=True, overwrite=True, importance=WEIGHED)
    with pytest.raises(VerifyError, match="weighted squared error None, reported was"):
        verify_package(source, destination, report)
