"""A small package to train palettes of, and samples for it."""

from __future__ import annotations

from pathlib import Path

import coremltools as ct
import numpy as np
import torch

from mil_palettize import OpPalettizerConfig, OptimizationConfig

CONFIG = OptimizationConfig(OpPalettizerConfig(nbits=2, weight_threshold=0))


def float_package(folder: Path) -> Path:
    """Three convolutions; the loss of what they give is its error by its power."""
    torch.manual_seed(0)
    nn = torch.nn
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3))
    made = ct.convert(
        torch.jit.trace(model.eval(), torch.zeros(1, 3, 8, 8)),
        inputs=[ct.TensorType("x", (1, 3, 8, 8))],
        minimum_deployment_target=ct.target.iOS18,
        skip_model_load=True,
    )
    path = folder / "float.mlpackage"
    made.save(str(path))
    return path


def samples(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    draw = np.random.default_rng(seed)
    return [{"x": draw.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(count)]
