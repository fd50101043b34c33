"""Palettes of 1 bit learned by differentiable k-means, from a torch model to a Core ML package, in a minute.

    python tools/tutorial_dkm.py [OUT.mlpackage]

The data are the 1,797 handwritten digits that come with scikit-learn. A small network is trained, palettized without
data, and trained once more as its weights become palettes; both packages are run on digits that were not trained on.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import coremltools as ct
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from mil_palettize.torch import (
    DKMPalettizer,
    DKMPalettizerConfig,
    MILModule,
    PostTrainingPalettizer,
    PostTrainingPalettizerConfig,
)

BATCH, TESTED = 32, 297


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Images (count, 1, 8, 8) from 0 to 1, and what they show."""
    data = load_digits()
    return torch.tensor(data.images / 16.0, dtype=torch.float32)[:, None], torch.tensor(data.target)


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def trained(model: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int, rate: float, step=lambda: None) -> None:
    optimizer = torch.optim.Adam(model.parameters(), rate)
    for _ in range(epochs):
        for chosen in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(x[chosen]), y[chosen]).backward()
            optimizer.step()
            step()


def saved(model: nn.Module, path: Path) -> Path:
    """As a package for iOS 18, whose palettes are those of the model."""
    package = ct.convert(
        torch.jit.trace(model.eval(), torch.zeros(1, 1, 8, 8)),
        inputs=[ct.TensorType("image", (1, 1, 8, 8))],
        minimum_deployment_target=ct.target.iOS18,
        skip_model_load=True,
    )
    package.save(str(path))
    return path


def told(name: str, path: Path, x: torch.Tensor, y: torch.Tensor) -> None:
    """How many of the digits the package reads right, and its size."""
    module = MILModule.from_package(path)
    found = [int(next(iter(module(image=image[None]).values())).argmax()) for image in x]
    right = sum(one == int(n) for one, n in zip(found, y, strict=True))
    nbytes = sum(file.stat().st_size for file in path.rglob("weight.bin"))
    print(f"| {name} | {100 * right / len(x):.1f} | {nbytes:,} |", flush=True)


def main(out: Path, folder: Path) -> None:
    torch.manual_seed(0)
    x, y = digits()
    x, y, test_x, test_y = x[:-TESTED], y[:-TESTED], x[-TESTED:], y[-TESTED:]
    model = network()
    trained(model, x, y, 20, 2e-3)
    print("| package | right, % | bytes of weight.bin |\n|---|---|---|")
    told("float", saved(model, folder / "float.mlpackage"), test_x, test_y)

    config = PostTrainingPalettizerConfig.from_dict({"global_config": {"n_bits": 1}})
    plain = PostTrainingPalettizer(model, config).compress()
    told("1 bit, without data", saved(plain, folder / "plain.mlpackage"), test_x, test_y)

    # The same palettes, but learned; the last layer begins with the last step of an epoch.
    options = {"n_bits": 1, "weight_threshold": 0}
    late = {"n_bits": 1, "weight_threshold": 0, "milestone": len(x) // BATCH - 1}
    palettizer = DKMPalettizer(
        model, DKMPalettizerConfig.from_dict({"global_config": options, "module_name_configs": {"9": late}})
    )
    prepared = palettizer.prepare()
    trained(prepared, x, y, 20, 1e-3, palettizer.step)
    told("1 bit, learned", saved(palettizer.finalize(), out), test_x, test_y)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(folder, "digits.mlpackage")), Path(folder))
