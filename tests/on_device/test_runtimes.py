"""The evaluator beside Core ML on a Mac; off it, that the packages run. There: ``pytest tests/on_device -m macos``."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mil_palettize import OpPalettizerConfig, OptimizationConfig, compare, palettize_package  # noqa: E402
from mil_palettize.torch import open_model  # noqa: E402
from mil_palettize.torch.made_up_inputs import plausible_inputs  # noqa: E402

PACKAGES = (
    "conv_fp16_ios16", "conv_fp32_ios18", "embedding_linear_ios16", "flexible_ios16", "loop_ios16", "branches_ios16",
    "recurrent_fp32_ios16", "palettized_ios16", "palettized_grouped_ios18", "image_classifier_ios15", "detector_ios16",
)  # fmt: skip
TOLERANCE = 0.01  # of the largest output: Core ML computes in float16 where it likes


@pytest.mark.parametrize("name", PACKAGES)
def test_packages_run_off_a_mac(name: str, fixtures: Path) -> None:
    module = open_model(fixtures / f"{name}.mlpackage")
    assert module.predict(plausible_inputs(module, 1)[0])


@pytest.mark.macos
@pytest.mark.skipif(platform.system() != "Darwin", reason="Core ML runs on Apple systems only")
@pytest.mark.parametrize("name", PACKAGES)
def test_both_runtimes_agree(name: str, fixtures: Path) -> None:
    from coremltools.models import MLModel

    path = fixtures / f"{name}.mlpackage"
    module = open_model(path)
    (sample,) = plausible_inputs(module, 1)
    ours, theirs = module.predict(sample), MLModel(str(path)).predict(sample)
    for output, value in ours.items():
        if isinstance(value, np.ndarray):
            scale = np.abs(theirs[output]).max() or 1
            assert np.abs(value - theirs[output]).max() <= TOLERANCE * scale


@pytest.mark.macos
@pytest.mark.skipif(platform.system() != "Darwin", reason="Core ML runs on Apple systems only")
def test_both_runtimes_see_the_same_cost(fixtures: Path, tmp_path: Path) -> None:
    source, path = fixtures / "conv_fp16_ios18.mlpackage", tmp_path / "p.mlpackage"
    palettize_package(source, path, OptimizationConfig(global_config=OpPalettizerConfig(nbits=4)))
    found = [compare(source, path, random=2, runtime=runtime).snr_db for runtime in ("torch", "coreml")]
    assert found[1] == pytest.approx(found[0], abs=1)
