"""A W8A8 model of coremltools' ``LinearQuantizer``: its weights become palettes, its activations stay as they are."""

from __future__ import annotations

from pathlib import Path

import coremltools as ct
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from coremltools.optimize.torch.quantization import LinearQuantizer, LinearQuantizerConfig  # noqa: E402
from packages import constants  # noqa: E402
from torch import nn  # noqa: E402

from mil_palettize import OpPalettizerConfig, OptimizationConfig, palettize_package  # noqa: E402
from mil_palettize.torch import MILModule  # noqa: E402

SHAPE = (1, 8, 16, 16)


def quantized(folder: Path) -> Path:
    """Weights and activations of 8 bits, observed on three batches."""
    torch.manual_seed(0)
    first, second, last = nn.Conv2d(8, 16, 3), nn.Conv2d(16, 16, 3), nn.Linear(2304, 4)
    model = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), last)
    config = LinearQuantizerConfig.from_dict({"global_config": {"quantization_scheme": "symmetric"}})
    quantizer = LinearQuantizer(model, config)
    prepared = quantizer.prepare(example_inputs=torch.zeros(SHAPE))
    for _ in range(3):
        prepared(torch.randn(8, *SHAPE[1:]))
    made = ct.convert(
        torch.jit.trace(quantizer.finalize().eval(), torch.zeros(SHAPE)),
        inputs=[ct.TensorType("x", SHAPE)],
        minimum_deployment_target=ct.target.iOS18,
        skip_model_load=True,
    )
    made.save(str(folder / "w8a8.mlpackage"))
    return folder / "w8a8.mlpackage"


def activations(module: MILModule) -> list[tuple[str, str]]:
    """Ops that quantize what goes from op to op."""
    steps = module.function.block.all_steps()
    return [(step.info.type, step.info.name) for step in steps if step.info.type in ("quantize", "dequantize")]


def test_activations_stay_and_weights_get_palettes(tmp_path: Path) -> None:
    source = quantized(tmp_path)
    config = OptimizationConfig(OpPalettizerConfig(nbits=4, weight_threshold=0))
    report = palettize_package(source, tmp_path / "out.mlpackage", config, joint_compression=True, verify=True)
    before, after = (MILModule.from_package(path) for path in (source, tmp_path / "out.mlpackage"))
    assert len(report.palettized) == 3
    assert report.bytes_after < report.bytes_before
    assert len(activations(before)) > 3
    assert activations(after) == activations(before)
    kinds = [op.type for op, _ in constants(tmp_path / "out.mlpackage").values()]
    assert kinds.count("constexpr_lut_to_dense") == 3
    x = torch.randn(SHAPE)
    (wanted,), (found,) = before(x=x).values(), after(x=x).values()
    assert float((found - wanted).square().sum()) < 0.05 * float(wanted.square().sum())
    scales = {key: read() for key, (op, read) in constants(source).items() if "scale" in key[3]}
    for key, value in scales.items():
        np.testing.assert_array_equal(constants(tmp_path / "out.mlpackage")[key][1](), value)
