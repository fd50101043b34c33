"""Accuracy of small image classifiers before and after palettes: a Markdown table, and a plot where matplotlib is.

    python tools/accuracy.py DATA --networks resnet20 --nbits 4 3 2 --calibrations none weights 128 made-up [--seeds 3]

DATA: a folder with ``resnet20.npz``, ``resnet56.npz`` (CIFAR-10 networks of He et al. 2015 as torch ``state_dict``),
``cifar10_train_10k.npz`` to calibrate with and ``cifar10_test.npz`` to test on. Networks are converted with
``ct.convert`` as fp16 packages of batch 1, palettized through ``palettize_package``, and what was written is run on
all test images (``--images`` fewer, evenly spaced: they are sorted by class) in a package of flexible batch.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import coremltools as ct
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from mil_palettize import Calibration, OpPalettizerConfig, OptimizationConfig, palettize_package
from mil_palettize.torch import MILModule

BLOCKS = {"resnet20": 3, "resnet56": 9}
MEAN, DEVIATION = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
_BATCH = 250


class Block(nn.Module):
    """Two convolutions beside a shortcut that takes every other pixel and adds channels of zeros."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.added = (outputs - inputs) // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.added:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.added, self.added))
        return F.relu(y + x)


class ResNet(nn.Module):
    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(Block(16, 16, 1) for _ in range(blocks)))
        self.layer2 = nn.Sequential(Block(16, 32, 2), *(Block(32, 32, 1) for _ in range(blocks - 1)))
        self.layer3 = nn.Sequential(Block(32, 64, 2), *(Block(64, 64, 1) for _ in range(blocks - 1)))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(F.avg_pool2d(x, 8).flatten(1))


@dataclass(frozen=True)
class Row:
    """``accuracies``: per cent, one for each seed; ``nbytes``: of ``weight.bin``; ``seconds``: of palettizing."""

    network: str
    nbits: int | None
    calibration: str
    accuracies: list[float]
    nbytes: int
    seconds: float


def converted(data: Path, name: str, folder: Path) -> tuple[Path, Path]:
    """Packages of batch 1 and of flexible batch."""
    network = ResNet(BLOCKS[name])
    with np.load(data / f"{name}.npz") as arrays:
        network.load_state_dict({key: torch.tensor(arrays[key]) for key in arrays.files})
    traced = torch.jit.trace(network.eval(), torch.zeros(1, 3, 32, 32))
    paths = []
    for batch in (1, ct.RangeDim(1, 1024, default=1)):
        model = ct.convert(
            traced,
            inputs=[ct.TensorType("x", (batch, 3, 32, 32))],
            convert_to="mlprogram",
            minimum_deployment_target=ct.target.iOS18,
            skip_model_load=True,
        )
        paths.append(folder / f"{name}_{len(paths)}.mlpackage")
        model.save(str(paths[-1]))
    return paths[0], paths[1]


def prepared(images: np.ndarray) -> np.ndarray:
    """uint8 (count, 32, 32, 3) as the networks take them."""
    return np.ascontiguousarray(((images / np.float32(255) - MEAN) / DEVIATION).transpose(0, 3, 1, 2))


def accuracy(flexible: Path, palettized: Path, images: np.ndarray, labels: np.ndarray) -> float:
    """Per cent that are right with the weights that were written, run in the package of flexible batch."""
    module, written = MILModule.from_package(flexible), MILModule.from_package(palettized)
    right = 0
    with torch.no_grad():
        for name, weight in written.weights.items():
            module.weights[name].copy_(weight)
        for start in range(0, len(images), _BATCH):
            (scores,) = module(x=torch.from_numpy(images[start : start + _BATCH])).values()
            right += int((scores.argmax(1).numpy() == labels[start : start + _BATCH]).sum())
    return 100.0 * right / len(images)


def calibration_of(kind: str, train: np.ndarray, seed: int) -> Calibration | None:
    """``none``, ``weights``, ``made-up``, or a number of training images."""
    if kind in ("none", "weights"):
        return None if kind == "none" else Calibration(method="weights")
    if kind == "made-up":
        return Calibration(samples=128, seed=seed)
    picked = np.random.default_rng(seed).choice(len(train), int(kind), replace=False)
    return Calibration([{"x": image[None]} for image in prepared(train[picked])], seed=seed)


def rows(options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    with np.load(options.data / "cifar10_test.npz") as test:
        step = max(1, len(test["labels"]) // options.images)
        images, labels = prepared(test["images"][::step]), test["labels"][::step]
    with np.load(options.data / "cifar10_train_10k.npz") as file:
        train = file["images"]
    for name in options.networks:
        source, flexible = converted(options.data, name, folder)
        yield Row(name, None, "", [accuracy(flexible, source, images, labels)], weight_nbytes(source), 0.0)
        for nbits in options.nbits:
            config = OptimizationConfig(global_config=OpPalettizerConfig(nbits=nbits, weight_threshold=0))
            for kind in options.calibrations:
                found, seconds = [], []
                for seed in range(options.seeds if kind not in ("none", "weights") else 1):
                    out = folder / "palettized.mlpackage"
                    started = time.process_time()
                    palettize_package(
                        source, out, config, calibration=calibration_of(kind, train, seed), overwrite=True, workers=1
                    )
                    seconds.append(time.process_time() - started)
                    found.append(accuracy(flexible, out, images, labels))
                yield Row(name, nbits, kind, found, weight_nbytes(out), min(seconds))


def weight_nbytes(package: Path) -> int:
    return sum(file.stat().st_size for file in package.rglob("weight.bin"))


def cells(row: Row) -> list[str]:
    spread = f" ± {statistics.stdev(row.accuracies):.2f}" if len(row.accuracies) > 1 else ""
    return [
        row.network, "float" if row.nbits is None else str(row.nbits), row.calibration,
        f"{statistics.mean(row.accuracies):.2f}{spread}", f"{row.nbytes:,}", f"{row.seconds:.1f}",
    ]  # fmt: skip


def plot(found: Sequence[Row], path: Path) -> bool:
    """Accuracy by bits; False where matplotlib is missing."""
    try:
        from matplotlib import pyplot
    except ImportError:
        return False
    figure, axes = pyplot.subplots()
    for network, kind in dict.fromkeys((r.network, r.calibration) for r in found if r.nbits is not None):
        own = [r for r in found if (r.network, r.calibration) == (network, kind)]
        points = [(r.nbits, statistics.mean(r.accuracies)) for r in own]
        axes.plot(*zip(*points, strict=True), marker="o", label=f"{network}, {kind}")
    axes.set(xlabel="bits", ylabel="right, %")
    axes.legend()
    figure.savefig(path)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--networks", nargs="+", choices=sorted(BLOCKS), default=["resnet20"])
    parser.add_argument("--nbits", nargs="+", type=int, default=[4, 3, 2])
    parser.add_argument("--calibrations", nargs="+", default=["none", "weights", "128"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=10_000, help="of the test")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    options = parser.parse_args()
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    header = ("network", "bits", "calibrated with", "right, %", "bytes of weight.bin", "CPU s")
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}", flush=True)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for row in rows(options, Path(folder)):
            found.append(row)
            print(f"| {' | '.join(cells(row))} |", flush=True)
    if options.plot is not None and not plot(found, options.plot):
        print(f"no {options.plot}: matplotlib is not installed")


if __name__ == "__main__":
    main()
