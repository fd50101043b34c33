"""Calibration through the doors: what is written, what it computes, what the report says, and nothing else moved."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb
from coremltools.proto import Model_pb2
from packages import blob_values, blocks, constants, differences

pytest.importorskip("torch")

from evaluator import program_of, saved

from mil_palettize import (
    Calibration,
    ConfigError,
    EvaluationError,
    OpPalettizerConfig,
    OptimizationConfig,
    PalettizeError,
    PlanError,
    compare,
    palettize_package,
    palettize_weights,
)
from mil_palettize.cli.main import main
from mil_palettize.doors import palettize_run
from mil_palettize.doors.calibrating import Calibrated, calibrated

NAME = "conv_fp32_ios18.mlpackage"


def config(nbits: int = 2) -> OptimizationConfig:
    return OptimizationConfig(global_config=OpPalettizerConfig(nbits=nbits, weight_threshold=64))


def least_snr(one: Path, two: Path, inputs: list[dict[str, np.ndarray]]) -> float:
    return min(output.snr_db for output in compare(one, two, inputs).outputs)


def sample_shape(fixtures: Path) -> tuple[int, ...]:
    spec = ct.utils.load_spec(str(fixtures / NAME))
    return tuple(spec.description.input[0].type.multiArrayType.shape)


@pytest.fixture
def data(fixtures: Path) -> list[dict[str, np.ndarray]]:
    """Of the only input of the network."""
    random, shape = np.random.default_rng(0), sample_shape(fixtures)
    return [{"image": random.normal(size=shape).astype(np.float32)} for _ in range(50)]


def test_outputs_are_nearer_with_calibration_at_the_same_bytes(
    fixtures: Path, tmp_path: Path, data: list[dict[str, np.ndarray]]
) -> None:
    plain, made = tmp_path / "plain.mlpackage", tmp_path / "made.mlpackage"
    before = palettize_package(fixtures / NAME, plain, config())
    report = palettize_package(fixtures / NAME, made, config(), calibration=Calibration(data[:40]), verify=True)
    assert report.verified
    assert report.bytes_after == before.bytes_after
    assert least_snr(fixtures / NAME, made, data[40:]) > least_snr(fixtures / NAME, plain, data[40:]) + 3
    told = [w.calibration for w in report.palettized]
    assert all(one is not None and one.samples == 32 for one in told)
    assert any(note.startswith("outputs of 'main' on 8 samples held out") for note in report.notes)
    text = json.loads(report.to_json())
    assert text["weights"][0]["calibration"]["method"]
    assert math.isfinite(text["weights"][0]["calibration"]["after_db"] or 0.0)


def test_calibration_beside_importance_is_verified(
    fixtures: Path, tmp_path: Path, data: list[dict[str, np.ndarray]]
) -> None:
    weights = palettize_package(fixtures / NAME, None, config(), dry_run=True).palettized
    importance = {w.name: np.full(w.shape, 2.0, np.float32) for w in weights}
    report = palettize_package(
        fixtures / NAME, tmp_path / "made.mlpackage", config(), calibration=Calibration(data), importance=importance,
        verify=True,
    )  # fmt: skip
    assert report.verified
    weighted = [w for w in report.palettized if w.weighted_error is not None]
    assert weighted
    assert [w.weighted_error for w in weighted] == pytest.approx([2 * (w.squared_error or 0) for w in weighted])


def test_nothing_else_moves(fixtures: Path, tmp_path: Path, data: list[dict[str, np.ndarray]]) -> None:
    plain, made = tmp_path / "plain.mlpackage", tmp_path / "made.mlpackage"
    palettize_package(fixtures / NAME, plain, config())
    report = palettize_package(fixtures / NAME, made, config(), calibration=Calibration(data[:10]))
    names = {w.name for w in report.palettized}
    changed = differences(plain, made)
    assert len(changed) == len(names)
    assert {line.partition(":")[0].rpartition("/")[2] for line in changed} == names


def test_the_model_door_makes_the_same_palettes(fixtures: Path, tmp_path: Path) -> None:
    """Of the weights alone, and of samples."""
    for calibration in (Calibration(method="weights"), Calibration(samples=10)):
        written = tmp_path / f"{calibration.method}.mlpackage"
        palettize_package(fixtures / NAME, written, config(), calibration=calibration)
        model = ct.models.MLModel(str(fixtures / NAME), skip_model_load=True)
        saved = tmp_path / f"{calibration.method}_saved.mlpackage"
        palettize_weights(model, config(), calibration=calibration).save(str(saved))
        by_package = sorted(decode().tobytes() for op, decode in constants(written).values() if "lut" in op.type)
        by_model = sorted(decode().tobytes() for op, decode in constants(saved).values() if "lut" in op.type)
        assert by_package == by_model
        assert by_package


def test_the_command_line(
    fixtures: Path, tmp_path: Path, data: list[dict[str, np.ndarray]], capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "x.npz", image=np.stack([sample["image"] for sample in data[:10]]))
    for number, what in enumerate(("weights", "8", str(tmp_path / "x.npz"))):
        out = tmp_path / f"{number}.mlpackage"
        command = ["palettize", str(fixtures / NAME), str(out), "--nbits", "2", "--weight-threshold", "64"]
        assert main([*command, "--calibrate", what, "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        found = {w["calibration"]["samples"] for w in report["weights"] if w["status"] == "palettized"}
        assert found == {0 if what == "weights" else 7 if what == "8" else 8}


@pytest.mark.parametrize("what", ["0", "nothing.npz", ""])
def test_what_cannot_be_calibrated_with_is_one_line(
    fixtures: Path, tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.mlpackage"
    try:
        code = main(["palettize", str(fixtures / NAME), str(out), "--nbits", "2", "--calibrate", what])
    except SystemExit as error:
        code = int(str(error.code))
    assert code in (2, 3)
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not out.exists()


def test_bad_samples_write_nothing(fixtures: Path, tmp_path: Path, data: list[dict[str, np.ndarray]]) -> None:
    out = tmp_path / "out.mlpackage"
    shape = sample_shape(fixtures)
    bad = {
        "no input": [{"other": np.zeros(shape, np.float32)}],
        "has shape": [{"image": np.zeros((*shape, 2), np.float32)}],
        "NaN": [{"image": np.full(shape, np.nan, np.float32)}],
        "is missing": [{}],
    }
    for message, given in bad.items():
        with pytest.raises(EvaluationError, match=message):
            palettize_package(fixtures / NAME, out, config(), calibration=Calibration(given))
    with pytest.raises(ConfigError, match="method"):
        palettize_package(fixtures / NAME, out, config(), calibration=Calibration(data, method="none"))
    assert not list(tmp_path.iterdir())


def test_the_same_samples_give_the_same_bytes(
    fixtures: Path, tmp_path: Path, data: list[dict[str, np.ndarray]]
) -> None:
    found = []
    for number, workers in enumerate((1, 4)):
        out = tmp_path / f"{number}.mlpackage"
        palettize_package(fixtures / NAME, out, config(), calibration=Calibration(data[:10]), workers=workers)
        found.append({file.name: file.read_bytes() for file in out.rglob("*") if file.suffix in (".bin", ".mlmodel")})
    assert found[0] == found[1]


def two_shapes_of_one_record(folder: Path) -> Path:
    """Two layers whose weights, of other shapes, are the same bytes of the file."""
    weight = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
    folder.mkdir()

    def network(x: Any) -> Any:
        hidden = mb.relu(x=mb.linear(x=x, weight=weight, name="one"))
        return mb.linear(x=hidden, weight=weight.reshape(8, 16) + np.float32(0), name="two")

    path = saved(program_of(network, [((1, 8), np.float32)]), folder)
    file = path / "Data" / "com.apple.CoreML" / "model.mlmodel"
    spec = Model_pb2.Model.FromString(file.read_bytes())
    held = [v for placed in blocks(spec) for v in blob_values(placed.block) if len(v.type.tensorType.dimensions) == 2]
    for value in held:
        value.blobFileValue.offset = held[0].blobFileValue.offset
    file.write_bytes(spec.SerializeToString())
    assert len({str(value.type) for value in held}) == 2
    return path


@pytest.mark.parametrize("method", ["weights", "reconstruct"])
def test_one_record_in_two_shapes_gets_a_palette_for_each(tmp_path: Path, method: str) -> None:
    source, out = two_shapes_of_one_record(tmp_path / "in"), tmp_path / "o.mlpackage"
    request = OptimizationConfig(global_config=OpPalettizerConfig(nbits=2, weight_threshold=4))
    report = palettize_package(source, out, request, calibration=Calibration(method=method, samples=10), verify=True)
    assert report.verified
    shapes = sorted(decode().shape for op, decode in constants(out).values() if "lut" in op.type)
    assert shapes == [(8, 16), (16, 8)]
    assert np.isfinite(least_snr(source, out, [{"x0": np.ones((1, 8), np.float32)}]))


def test_an_expression_that_does_not_fit_is_never_written(
    fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever calibration hands over."""

    def of_another_shape(*given: Any, **options: Any) -> Calibrated:
        done = calibrated(*given, **options)
        first = next(iter(done.palettes.values()))
        return replace(done, palettes=dict.fromkeys(done.palettes, first))

    monkeypatch.setattr(palettize_run, "calibrated", of_another_shape)
    with pytest.raises(PlanError, match="both have to be the same"):
        palettize_package(
            fixtures / NAME, tmp_path / "o.mlpackage", config(), calibration=Calibration(method="weights")
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "message"),
    [("weights", "calibration is 'weights', it must be a mil_palettize.Calibration"),
     ([{"image": 1}], r"calibration is \[\{'image': 1\}\], it must be")],
)  # fmt: skip
def test_what_is_no_calibration_is_refused_at_every_door(fixtures: Path, given: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        palettize_package(fixtures / NAME, None, config(), calibration=given, dry_run=True)
    model = ct.models.MLModel(str(fixtures / NAME), skip_model_load=True)
    with pytest.raises(ConfigError, match=message):
        palettize_weights(model, config(), calibration=given)


@pytest.mark.parametrize(
    "given", [5, np.zeros((2, 3)), [np.zeros(3)], [{"x": 1}, "x"], [{1: np.zeros(3)}], b"x.npz", iter([]), {}.values()]
)
def test_samples_that_are_none_are_refused_where_they_are_given(given: Any) -> None:
    with pytest.raises(ConfigError, match="calibration sample_data") as caught:
        Calibration(given)
    assert "\n" not in str(caught.value)


def test_one_sample_and_iterators_are_lists_of_samples() -> None:
    one, two = {"x": np.zeros(2)}, {"x": np.ones(2)}
    assert Calibration(one).sample_data == [one]
    assert Calibration(iter([one, two])).sample_data == [one, two]
    assert Calibration(sample for sample in (one, two)).sample_data == [one, two]
    assert Calibration("x.npz").sample_data == "x.npz"


def test_what_has_no_effect_beside_calibration_is_told(fixtures: Path, tmp_path: Path) -> None:
    """And refused under strict, before anything is written."""
    alone, out = Calibration(method="weights"), tmp_path / "o.mlpackage"
    found = palettize_package(fixtures / NAME, None, config(), dry_run=True).palettized
    importance = {w.name: np.ones(w.shape, np.float32) for w in found}
    lossless = OptimizationConfig(global_config=OpPalettizerConfig(mode="unique", weight_threshold=0))
    odd = fixtures / "odd_values_ios18.mlpackage"
    cases: list[tuple[Path, OptimizationConfig, dict[str, Any], str]] = [
        (fixtures / NAME, config(), {"importance": importance}, "importance does not decide on"),
        (odd, lossless, {}, "calibration has no effect on"),
    ]
    for source, request, options, told in cases:
        report = palettize_package(source, out, request, calibration=alone, overwrite=True, **options)
        assert [note for note in report.notes if note.startswith(told)]
        before = out.stat().st_mtime_ns
        with pytest.raises(PlanError, match=f"strict: .*{told}"):
            palettize_package(source, out, request, calibration=alone, strict=True, overwrite=True, **options)
        assert out.stat().st_mtime_ns == before
    model = ct.models.MLModel(str(fixtures / NAME), skip_model_load=True)
    with pytest.raises(PlanError, match="importance does not decide on"):
        palettize_weights(model, config(), calibration=alone, importance=importance, strict=True)


def test_nothing_is_told_where_everything_has_its_effect(fixtures: Path, tmp_path: Path) -> None:
    report = palettize_package(
        fixtures / NAME, tmp_path / "o.mlpackage", config(), calibration=Calibration(method="weights"), strict=True
    )
    assert not any("effect" in note or "decide" in note for note in report.notes)


def test_palettes_that_calibration_begins_with_are_kept(fixtures: Path, tmp_path: Path) -> None:
    kept, found = tmp_path / "kept", []
    for number, resume in enumerate((None, kept, kept)):
        out = tmp_path / f"{number}.mlpackage"
        palettize_package(fixtures / NAME, out, config(), calibration=Calibration(method="weights"), resume=resume)
        found.append({file.name: file.read_bytes() for file in out.rglob("*") if file.suffix in (".bin", ".mlmodel")})
    assert found[0] == found[1] == found[2]
    assert list(kept.rglob("*.npz"))


def test_a_dry_run_looks_at_the_samples(fixtures: Path, tmp_path: Path, data: list[dict[str, np.ndarray]]) -> None:
    """And at the ops: what it says would be refused is refused."""
    out, odd = tmp_path / "o.mlpackage", fixtures / "future_op_ios17.mlpackage"
    cases: list[tuple[Path, Any]] = [
        (fixtures / NAME, [{"other": np.zeros(2, np.float32)}]),
        (fixtures / NAME, [{"image": np.full(sample_shape(fixtures), np.nan, np.float32)}]),
        (odd, None),
    ]
    for source, given in cases:
        calibration = Calibration(given)
        with pytest.raises(PalettizeError) as caught:
            palettize_package(source, out, config(), calibration=calibration)
        report = palettize_package(source, out, config(), calibration=calibration, dry_run=True)
        assert f"without the dry run, this would be refused: {caught.value}" in report.notes
    with pytest.raises(PalettizeError, match="there is no such file"):  # told before anything is looked at
        palettize_package(
            fixtures / NAME, out, config(), calibration=Calibration(tmp_path / "nothing.npz"), dry_run=True
        )
    for calibration in (Calibration(data[:2]), Calibration(samples=2), Calibration(method="weights")):
        report = palettize_package(fixtures / NAME, out, config(), calibration=calibration, dry_run=True)
        assert not any("refused" in note for note in report.notes)
    assert not list(tmp_path.iterdir())
