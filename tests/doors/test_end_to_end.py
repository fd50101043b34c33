"""A package in, a smaller package out, nothing else moved: judged by a reader that shares no code with the library."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from packages import blob_users, constants, decode_op, differences, read_spec, spec_file, weights_dir
from slow_cases import slow_where

from mil_palettize import OpPalettizerConfig, OptimizationConfig, PlanError, Report

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = sorted(path.name for path in (ROOT / "fixtures").glob("*.mlpackage"))
REAL = [
    "adain_mobilenet_mondrian",
    "basic_pitch_nmp",
    "beatit",
    "dtln_aec_128_part1_fp32",
    "dtln_aec_128_part1_v1",
    "silero_vad_unified",
    "silero_vad_unified_256ms",
    "silero_vad_unified_int8",
    "silero_vad_unified_palette_4bit",
    "silero_vad_unified_pruned_int8",
]
REQUESTS = {
    "4 bits": {"nbits": 4},
    "6 bits, everything": {"nbits": 6, "select": "all", "weight_threshold": 64},
    "3 bits in groups, iOS18": {
        "nbits": 3,
        "granularity": "per_grouped_channel",
        "group_size": 8,
        "target": "iOS18",
    },
    "uniform 8 bits": {"nbits": 8, "mode": "uniform"},
    "unique": {"mode": "unique"},
}
# By default, these of the real packages are asked for everything, and the others for a little.
WHOLE = ("basic_pitch_nmp", "dtln_aec_128_part1_fp32", "silero_vad_unified_pruned_int8")
DEFAULT = ("4 bits", "3 bits in groups, iOS18")
Palettize = Callable[..., tuple[Path, Report]]


def check(source: Path, written: Path, report: Report) -> None:
    """Every promise that can be checked on files alone."""
    before, after = constants(source), constants(written)
    stages = dict(enumerate(read_spec(source).pipeline.names))
    palettized = {(w.function, w.name) for w in report.palettized}
    moved_ops = {(m.function, m.op_name) for m in report.moved if m.op_name}
    for line in differences(source, written):
        kind, _, rest = line.partition(" ")
        location, name = rest.partition(":")[0].rpartition("/")[::2]
        function = function_of(location, stages)
        if kind == "op" and "only in" in rest:  # put in front of an op that was moved, and named after it
            assert any(function == at and name.startswith(op) for at, op in moved_ops), line
        elif kind == "op":
            assert (function, name) in palettized | moved_ops, line
        elif kind == "order":
            assert moved_ops, line
        else:
            assert kind.partition("[")[0].rstrip(":") in ("opset", "specializations", "specificationVersion"), line
            assert report.moved, line
    claims = {}
    for w in report.palettized:
        claims.setdefault((w.function, w.name), []).append(w)
    for key, (op, dense) in after.items():
        model, function, _, name = key
        claim = claims.get((function_of(f"{function}/[{model}]" if model else function, stages), name))
        if op.type != "constexpr_lut_to_dense" or not claim:
            continue
        check_palette(before[key][1](), dense(), claim.pop(0))
    assert not any(claims.values())


def function_of(location: str, stages: dict[int, str]) -> str:
    """``main/loop#1`` → ``main``, ``main/[0]`` → ``0/main``, or the stage's name in its pipeline."""
    place, _, stage = location.partition("[")
    function = place.partition("/")[0]
    return f"{stages.get(int(stage[:-1]), stage[:-1])}/{function}" if stage else function


def check_palette(weight: np.ndarray, decoded: np.ndarray, claim) -> None:
    assert decoded.dtype == weight.dtype
    assert decoded.shape == weight.shape == claim.shape
    error = float(np.sum((weight.astype(np.float64) - decoded.astype(np.float64)) ** 2))
    assert math.isclose(error, claim.squared_error, rel_tol=1e-9, abs_tol=1e-300)
    signal = float(np.sum(weight.astype(np.float64) ** 2))
    if error and signal:
        assert math.isclose(claim.snr_db, 10 * math.log10(signal / error), abs_tol=1e-6)
    if claim.granularity == "per_tensor":
        assert len(np.unique(decoded.astype(np.float64))) <= 2**claim.nbits
    else:
        groups = np.split(decoded, decoded.shape[claim.channel_axis] // claim.group_size, axis=claim.channel_axis)
        assert all(len(np.unique(group.astype(np.float64))) <= 2**claim.nbits for group in groups)
    assert claim.bytes_after < claim.bytes_before


@pytest.mark.parametrize("request_name", REQUESTS)
@pytest.mark.parametrize("name", FIXTURES)
def test_fixture(name: str, request_name: str, fixtures: Path, palettize: Palettize) -> None:
    if name.startswith("future_op") and "target" in REQUESTS[request_name]:
        with pytest.raises(PlanError, match=r"1 future_op \('hidden' of function 'main'\)"):
            palettize(fixtures / name, **REQUESTS[request_name])
        return
    written, report = palettize(fixtures / name, verify=True, **REQUESTS[request_name])
    check(fixtures / name, written, report)


@pytest.mark.parametrize(
    ("name", "request_name"),
    slow_where(lambda name, request: name not in WHOLE and request not in DEFAULT, product(REAL, REQUESTS)),
)
def test_real_package(name: str, request_name: str, shared_models: Path, palettize: Palettize) -> None:
    source = shared_models / f"{name}.mlpackage"
    written, report = palettize(source, verify=True, **REQUESTS[request_name])
    check(source, written, report)
    assert report.bytes_after <= report.bytes_before * 1.01


@pytest.mark.parametrize("name", ["conv_fp16_ios16.mlpackage", "multifunction_ios18.mlpackage"])
def test_runs_and_workers_give_the_same_bytes(name: str, fixtures: Path, palettize: Palettize) -> None:
    packages = [palettize(fixtures / name, nbits=4, workers=workers)[0] for workers in (1, 1, 2, 5)]
    contents = [{p.relative_to(w): p.read_bytes() for p in w.rglob("*") if p.is_file()} for w in packages]
    assert all(content == contents[0] for content in contents)


def test_grouped_result_does_not_depend_on_workers(fixtures: Path, palettize: Palettize) -> None:
    options = {"nbits": 2, "granularity": "per_grouped_channel", "group_size": 2, "target": "iOS18"}
    one, three = (palettize(fixtures / "conv_fp32_ios18.mlpackage", workers=n, **options)[0] for n in (1, 3))
    assert differences(one, three) == []


def test_shared_record_stays_shared(fixtures: Path, palettize: Palettize) -> None:
    source = fixtures / "multifunction_ios18.mlpackage"
    written, report = palettize(source, nbits=4)

    def sharing(package: Path) -> list[int]:
        return sorted(len(users) for users in blob_users(package).values())

    assert max(sharing(source)) > 1
    base = [w for w in report.palettized if w.name == "base_weight"]
    assert len(base) == 2
    assert not any(w.notes for w in base)
    both = [users for users in blob_users(written).values() if len(users) == 2]
    assert len(both) >= 2  # indices and table of the shared weight
    assert report.bytes_after < report.bytes_before


def test_shared_record_is_split_where_plans_differ(fixtures: Path, palettize: Palettize) -> None:
    four, two = OpPalettizerConfig(nbits=4), OpPalettizerConfig(nbits=2)
    config = OptimizationConfig(global_config=four, op_name_configs={"prefill/base_weight": two})
    source = fixtures / "multifunction_ios18.mlpackage"
    written, report = palettize(source, config)
    check(source, written, report)
    bits = {w.function: w.nbits for w in report.palettized if w.name == "base_weight"}
    assert bits == {"decode": 4, "prefill": 2}
    assert all("stored apart" in w.notes[-1] for w in report.palettized if w.name == "base_weight")


def test_unreferenced_records_are_dropped_and_counted(fixtures: Path, palettize: Palettize) -> None:
    """Palettizing one of two functions' weights, then dropping that function, leaves records nobody points at."""
    written, _ = palettize(fixtures / "multifunction_ios18.mlpackage", nbits=4)
    spec = read_spec(written)
    del spec.mlProgram.functions["decode"]
    spec_file(written).write_bytes(spec.SerializeToString())
    again, report = palettize(written, nbits=4)
    assert report.dropped_records == 2
    assert report.bytes_after < report.bytes_before
    assert "nothing pointed at" in report.to_text()
    assert differences(written, again) == []


def test_nothing_to_do_gives_the_same_package(fixtures: Path, palettize: Palettize) -> None:
    config = OptimizationConfig(global_config=None)
    source = fixtures / "extras_ios16.mlpackage"
    written, report = palettize(source, config)
    assert differences(source, written) == []
    assert not report.palettized
    assert {w.reason for w in report.skipped} == {"left alone by global_config"}


def test_identifiers_extra_items_and_metadata_are_kept(fixtures: Path, palettize: Palettize) -> None:
    source = fixtures / "extras_ios16.mlpackage"
    written, _ = palettize(source, nbits=4)
    assert (written / "Manifest.json").read_bytes() == (source / "Manifest.json").read_bytes()
    assert {p.relative_to(written) for p in written.rglob("*")} == {p.relative_to(source) for p in source.rglob("*")}


def test_source_and_destination_may_be_the_same(fixtures: Path, palettize: Palettize, tmp_path: Path) -> None:
    from mil_palettize import palettize_package

    package = tmp_path / "same.mlpackage"
    shutil.copytree(fixtures / "conv_fp16_ios16.mlpackage", package)
    config = OptimizationConfig(global_config=OpPalettizerConfig(nbits=4))
    report = palettize_package(package, package, config, overwrite=True, verify=True)
    check(fixtures / "conv_fp16_ios16.mlpackage", package, report)
    elsewhere, _ = palettize(fixtures / "conv_fp16_ios16.mlpackage", nbits=4)
    assert differences(package, elsewhere) == []


def test_pipeline_in_a_pipeline_moves_as_a_whole(fixtures: Path, palettize: Palettize, tmp_path: Path) -> None:
    """A pipeline is of the latest version of what it holds, at every level."""
    source = tmp_path / "nested.mlpackage"
    shutil.copytree(fixtures / "pipeline_ios17.mlpackage", source)
    inner = read_spec(source)
    outer = type(inner)()
    outer.specificationVersion = inner.specificationVersion
    outer.description.CopyFrom(inner.description)
    outer.pipeline.models.append(inner)
    spec_file(source).write_bytes(outer.SerializeToString())
    written, report = palettize(source, nbits=3, target="iOS18", verify=True)
    moved = read_spec(written)
    versions = [moved, moved.pipeline.models[0], *moved.pipeline.models[0].pipeline.models]
    assert [model.specificationVersion for model in versions] == [9, 9, 9, 9]
    assert {w.function for w in report.palettized} == {"0/0/main", "0/1/main"}


def test_empty_folder_of_the_manifest_is_kept(fixtures: Path, palettize: Palettize, tmp_path: Path) -> None:
    """A program with all its values inside has a weights folder with nothing in it."""
    source = tmp_path / "inside.mlpackage"
    shutil.copytree(fixtures / "extras_ios16.mlpackage", source)
    spec = read_spec(source)
    for op in list(spec.mlProgram.functions["main"].block_specializations["CoreML6"].operations):
        if op.type == "const" and op.attributes["val"].WhichOneof("value") == "blobFileValue":
            array = decode_op(op, source)
            value = op.attributes["val"]
            value.ClearField("blobFileValue")
            value.immediateValue.tensor.bytes.values = array.tobytes()
    spec_file(source).write_bytes(spec.SerializeToString())
    (weights_dir(source) / "weight.bin").unlink()
    written, report = palettize(source, nbits=4, verify=True)
    check(source, written, report)
    assert report.palettized
    assert (written / weights_dir(source).relative_to(source)).is_dir()
