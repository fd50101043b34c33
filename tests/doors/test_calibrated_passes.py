"""The pass door: the weights alone, as at the other doors; samples need a whole model."""

from __future__ import annotations

import logging
from pathlib import Path

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb
from packages import constants

torch = pytest.importorskip("torch")

import mil_palettize  # noqa: E402
from mil_palettize import (  # noqa: E402
    Calibration,
    ConfigError,
    OpPalettizerConfig,
    OptimizationConfig,
    PlanError,
    palettize_package,
    pass_pipeline,
)
from mil_palettize.doors.graph_passes import palettize_weights  # noqa: E402


def converted(pipeline: ct.PassPipeline | None) -> ct.models.MLModel:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 24, 3), torch.nn.ReLU(), torch.nn.Conv2d(24, 16, 3, groups=2))
    options = {} if pipeline is None else {"pass_pipeline": pipeline}
    return ct.convert(
        torch.jit.trace(network.eval(), torch.zeros(1, 3, 8, 8)),
        inputs=[ct.TensorType("x", (1, 3, 8, 8))],
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS18,
        skip_model_load=True,
        **options,
    )


def palettes(path: Path) -> list[bytes]:
    return sorted(decode().tobytes() for op, decode in constants(path).values() if "lut" in op.type)


def test_the_pass_makes_what_the_package_door_makes(tmp_path: Path) -> None:
    config = OptimizationConfig(global_config=OpPalettizerConfig(nbits=2, weight_threshold=64))
    calibration = Calibration(method="weights")
    converted(pass_pipeline(config, calibration=calibration)).save(str(tmp_path / "pass.mlpackage"))
    converted(None).save(str(tmp_path / "source.mlpackage"))
    palettize_package(tmp_path / "source.mlpackage", tmp_path / "out.mlpackage", config, calibration=calibration)
    plain = palettize_package(tmp_path / "source.mlpackage", tmp_path / "plain.mlpackage", config)
    found = palettes(tmp_path / "pass.mlpackage")
    assert len(found) == len(plain.palettized) == 2
    assert found == palettes(tmp_path / "out.mlpackage")
    assert found != palettes(tmp_path / "plain.mlpackage")


@pytest.mark.parametrize(
    "calibration", [Calibration(samples=8), Calibration([{"x": np.zeros(1)}], method="importance")]
)
def test_samples_are_refused_with_the_door_to_use(calibration: Calibration) -> None:
    config = OptimizationConfig(global_config=OpPalettizerConfig(nbits=2, weight_threshold=64))
    with pytest.raises(ConfigError, match=r"needs a whole model.*palettize_package or palettize_weights"):
        converted(pass_pipeline(config, calibration=calibration))


def of_the_extremes(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = array.min(), array.max()
    return np.array([low, high]), (array > (low + high) / 2).reshape(-1).astype(int)


def without_effect(kind: str) -> tuple[OptimizationConfig, dict[str, np.ndarray]]:
    """What calibration has no effect on, or decides on by itself: a config, and importance by name."""
    asked: dict[str, object] = {"nbits": 2}
    if kind == "custom":
        asked = {"mode": "custom", "lut_function": of_the_extremes}
    elif kind == "unique":
        asked = {"mode": "unique"}
    importance = {"main/weight": np.ones((6, 5), np.float32)} if kind == "importance" else {}
    return OptimizationConfig(global_config=OpPalettizerConfig(weight_threshold=4, **asked)), importance


SAID = {
    "custom": "calibration has no effect on 1 weight ('main/weight'): mode 'custom' takes the entries it is given",
    "unique": "calibration has no effect on 1 weight ('main/weight'): mode 'unique' keeps all values",
    "importance": "importance does not decide on 1 weight ('main/weight')",
}


def small_program(few: bool) -> ct.converters.mil.mil.Program:
    weight = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)

    @mb.program(input_specs=[mb.TensorSpec((2, 5))], opset_version=ct.target.iOS18)
    def prog(x: object) -> object:
        return mb.linear(x=x, weight=mb.const(val=np.sign(weight) if few else weight, name="weight"))

    return prog


@pytest.mark.parametrize("kind", SAID)
def test_what_has_no_effect_in_a_pass_is_told_and_refused_under_strict(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    config, importance = without_effect(kind)
    made = palettize_weights(config)
    made.calibration, made.importance = Calibration(method="weights"), importance
    with caplog.at_level(logging.WARNING, "mil_palettize"):
        made.apply(small_program(few=kind == "unique"))
    assert made.report is not None
    assert len(made.report.palettized) == 1
    assert [note for note in made.report.notes if note.startswith(SAID[kind])]
    assert any(record.getMessage().startswith(SAID[kind]) for record in caplog.records)
    strict = palettize_weights(config)
    strict.calibration, strict.importance, strict.strict = Calibration(method="weights"), importance, True
    untouched = small_program(few=kind == "unique")
    with pytest.raises(PlanError, match="strict: 1 request cannot be met as asked"):
        strict.apply(untouched)
    assert not [op for op in untouched.functions["main"].operations if "lut" in op.op_type]


def test_custom_entries_are_what_the_function_gave_at_every_door(tmp_path: Path) -> None:
    """Calibrated or not."""
    config, _ = without_effect("custom")
    converted(None).save(str(tmp_path / "in.mlpackage"))
    for door in ("package", "model", "pass"):
        out = [tmp_path / f"{door}{number}.mlpackage" for number in range(2)]
        for path, calibration in zip(out, (None, Calibration(method="weights")), strict=True):
            if door == "package":
                palettize_package(tmp_path / "in.mlpackage", path, config, calibration=calibration)
            elif door == "model":
                model = ct.models.MLModel(str(tmp_path / "in.mlpackage"), skip_model_load=True)
                mil_palettize.palettize_weights(model, config, calibration=calibration).save(str(path))
            else:
                converted(pass_pipeline(config, calibration=calibration)).save(str(path))
        assert palettes(out[0]) == palettes(out[1])
        assert palettes(out[0])
