"""Palettes inside ``ct.convert``, and the package judged by the torch model that it was converted from.

python examples/convert_with_palettes.py [OUT.mlpackage]

OUT.mlpackage is out/converted.mlpackage where none is given; what is there is replaced.
"""

from __future__ import annotations

import sys
from pathlib import Path

import coremltools as ct
import torch
from torch import nn

from mil_palettize import OpPalettizerConfig, OptimizationConfig, pass_pipeline
from mil_palettize.torch import compare_with


def network() -> nn.Module:
    """Yours, trained."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.Flatten(), nn.Linear(32 * 64, 10))


def main(destination: str = "out/converted.mlpackage") -> None:
    Path(destination).parent.mkdir(parents=True, exist_ok=True)
    model = network().eval()
    traced = torch.jit.trace(model, torch.zeros(1, 3, 12, 12))
    config = OptimizationConfig(global_config=OpPalettizerConfig(nbits=4, group_size=16))
    mlmodel = ct.convert(
        traced,
        inputs=[ct.TensorType("x", (1, 3, 12, 12))],
        minimum_deployment_target=ct.target.iOS18,  # groups need it
        pass_pipeline=pass_pipeline(config),
        skip_model_load=True,
    )
    mlmodel.save(destination)
    samples = [{"x": torch.randn(1, 3, 12, 12).numpy()} for _ in range(8)]
    print(compare_with(model, destination, samples).to_text())


if __name__ == "__main__":
    main(*sys.argv[1:])
