"""The pass door: the weights alone, as at the other doors; samples need a whole model."""

from __future__ import annotations

from pathlib import Path

import coremltools as ct
import numpy as np
import pytest
from packages import constants

torch = pytest.importorskip("torch")

from mil_palettize import (  # noqa: E402
    Calibration,
    ConfigError,
    OpPalettizerConfig,
    OptimizationConfig,
    palettize_package,
    pass_pipeline,
)


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
