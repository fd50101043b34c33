"""Palettes of 2 bits that are trained together with a torch model, then converted as they are.

python examples/learn_palettes.py [OUT.mlpackage]

OUT.mlpackage is out/learned.mlpackage where none is given; what is there is replaced.
"""

from __future__ import annotations

import sys
from pathlib import Path

import coremltools as ct
import torch
from torch import nn

import mil_palettize.torch as palettization  # in place of coremltools.optimize.torch.palettization

STEPS = 30


def data(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Yours. Here: eight classes, each a pattern in noise."""
    patterns = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(count) % 8
    return patterns[labels] + 0.5 * torch.randn(count, 1, 8, 8), labels


def accuracy(model: nn.Module) -> float:
    inputs, labels = data(512)
    with torch.no_grad():
        return (model.eval()(inputs).argmax(1) == labels).float().mean().item()


def train(model: nn.Module, palettizer: palettization.DKMPalettizer | None = None) -> None:
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    model.train()
    for _ in range(STEPS):
        inputs, labels = data(64)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        if palettizer is not None:
            palettizer.step()


def main(destination: str = "out/learned.mlpackage") -> None:
    Path(destination).parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, 64), nn.ReLU(), nn.Linear(64, 8))
    train(model)
    print(f"float: {accuracy(model):.1%}")

    config = palettization.DKMPalettizerConfig.from_dict({"global_config": {"n_bits": 2, "weight_threshold": 100}})
    palettizer = palettization.DKMPalettizer(model, config)
    model = palettizer.prepare()
    train(model, palettizer)
    model = palettizer.finalize().eval()
    print(f"2 bits: {accuracy(model):.1%}")

    mlmodel = ct.convert(
        torch.jit.trace(model, torch.zeros(1, 1, 8, 8)),
        inputs=[ct.TensorType("x", (1, 1, 8, 8))],
        minimum_deployment_target=ct.target.iOS18,
        skip_model_load=True,
    )
    mlmodel.save(destination)  # the tables that were learned are in it


if __name__ == "__main__":
    main(*sys.argv[1:])
