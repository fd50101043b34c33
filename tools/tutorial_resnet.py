"""What coremltools' article on ResNet50 does, on ResNet-20 and with this library: tables of size and of accuracy.

    python -m tools.tutorial_resnet DATA [--images 1000] [--train 2000]

DATA: the folder of ``tools/accuracy/resnets.py``. Without data: bits, and groups of channels. With data: palettes that
are calibrated, and trained. Then models that were compressed in other ways before: pruned by ``MagnitudePruner``, whose
zeros stay zeros, and of 8 bits by ``LinearQuantizer``, whose activations stay as they are.
"""

from __future__ import annotations

import argparse
import copy
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import torch
from coremltools.optimize.torch.pruning import MagnitudePruner, MagnitudePrunerConfig
from coremltools.optimize.torch.quantization import LinearQuantizer, LinearQuantizerConfig
from torch import nn
from torch.nn import functional as F

from mil_palettize import Calibration, Finetuning, OpPalettizerConfig, OptimizationConfig, palettize_package
from mil_palettize.torch import DKMPalettizer, DKMPalettizerConfig, MILModule
from mil_palettize.torch.training.batches import Batched, floats_of, inputs_of, runner
from tools.accuracy.resnets import network_of, prepared

SHAPE = (1, 3, 32, 32)
BATCH = 50


@dataclass(frozen=True)
class Images:
    """float32 (count, 3, 32, 32), and their classes."""

    x: torch.Tensor
    y: torch.Tensor

    @classmethod
    def of(cls, file: Path, count: int) -> Images:
        """Evenly spaced: they may be sorted by class."""
        with np.load(file) as found:
            step = max(1, len(found["labels"]) // count)
            return cls(
                torch.from_numpy(prepared(found["images"][::step])), torch.tensor(found["labels"][::step]).long()
            )

    def batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for chosen in torch.randperm(len(self.x)).split(BATCH):
            yield self.x[chosen], self.y[chosen]


class Tutorial:
    """``folder``: of the packages that are made."""

    def __init__(self, data: Path, folder: Path, images: int, train: int) -> None:
        self._folder = folder
        self._test = Images.of(data / "cifar10_test.npz", images)
        self._train = Images.of(data / "cifar10_train_10k.npz", train)
        self._network = network_of(data, "resnet20")
        self._float = self._saved(self._network, "float")
        self._samples = [{"x": image[None].numpy()} for image in self._train.x]

    def without_data(self) -> None:
        self._heading("Without data")
        self._row("float", self._float)
        for nbits in (8, 6, 4, 3, 2):
            self._palettized(f"{nbits} bits", self._float, {"nbits": nbits})
        for size in (16, 8):
            groups = {"nbits": 4, "granularity": "per_grouped_channel", "group_size": size}
            self._palettized(f"4 bits, groups of {size}", self._float, groups)

    def with_data(self) -> None:
        self._heading("With data")
        few = Calibration(self._samples[:128])
        for nbits in (4, 2, 1):
            self._palettized(f"{nbits} bits, calibrated", self._float, {"nbits": nbits}, calibration=few)
        tuning = Finetuning(self._samples, epochs=6, augment=("flip", "shift", "mix"), batch=64)
        for nbits in (2, 1):
            self._palettized(
                f"{nbits} bits, fine tuned", self._float, {"nbits": nbits}, calibration=few, finetuning=tuning
            )

    def pruned(self) -> None:
        self._heading("Pruned by half")
        config = MagnitudePrunerConfig.from_dict({"global_config": {"target_sparsity": 0.5}})
        pruner = MagnitudePruner(copy.deepcopy(self._network), config)
        model = pruner.prepare()
        pruner.step()
        model = pruner.finalize(self._trained(model, 1e-4, lambda: None))
        self._row("pruned", self._saved(model, "pruned"))
        self._palettized("and 4 bits", self._folder / "pruned.mlpackage", {"nbits": 4}, joint_compression=True)
        palettizer = DKMPalettizer(
            model, DKMPalettizerConfig.from_dict({"global_config": {"n_bits": 2, "weight_threshold": 500}})
        )
        self._trained(palettizer.prepare(), 1e-4, palettizer.step)
        self._row("and 2 bits, learned (DKM)", self._saved(palettizer.finalize(), "learned"))

    def quantized(self) -> None:
        self._heading("Weights and activations of 8 bits")
        entry = {"quantization_scheme": "symmetric"}
        quantizer = LinearQuantizer(
            copy.deepcopy(self._network), LinearQuantizerConfig.from_dict({"global_config": entry})
        )
        model = quantizer.prepare(example_inputs=torch.zeros(SHAPE)).eval()
        with torch.no_grad():
            for x, _ in list(self._train.batches())[:5]:
                model(x)
        self._row("8 bits", self._saved(quantizer.finalize(), "w8a8"))
        for nbits in (6, 4):
            source = self._folder / "w8a8.mlpackage"
            self._palettized(f"weights of {nbits} bits", source, {"nbits": nbits}, joint_compression=True)

    def _trained(self, model: nn.Module, rate: float, step: Any) -> nn.Module:
        """Once through the images, batch norms as they are."""
        optimizer = torch.optim.Adam(model.parameters(), rate)
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        for x, y in self._train.batches():
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            step()
        return model.eval()

    def _saved(self, model: nn.Module, name: str) -> Path:
        pipeline = ct.PassPipeline()
        # Of coremltools 9.0; it loses a change of scale on the way through a reshape, here before the last layer.
        pipeline.remove_passes(["common::int_op_canonicalization"])
        package = ct.convert(
            torch.jit.trace(model.eval(), torch.zeros(SHAPE)),
            inputs=[ct.TensorType("x", SHAPE)],
            minimum_deployment_target=ct.target.iOS18,
            skip_model_load=True,
            pass_pipeline=pipeline,
        )
        package.save(str(self._folder / f"{name}.mlpackage"))
        return self._folder / f"{name}.mlpackage"

    def _palettized(self, name: str, source: Path, options: dict[str, Any], **keywords: Any) -> None:
        config = OptimizationConfig(OpPalettizerConfig(weight_threshold=500, **options))
        out = self._folder / "palettized.mlpackage"
        palettize_package(source, out, config, overwrite=True, **keywords)
        self._row(name, out)

    def _heading(self, title: str) -> None:
        print(f"\n| {title} | right, % | bytes of weight.bin |\n|---|---|---|", flush=True)

    def _row(self, name: str, package: Path) -> None:
        nbytes = sum(file.stat().st_size for file in package.rglob("weight.bin"))
        print(f"| {name} | {self._right(package):.1f} | {nbytes:,} |", flush=True)

    @torch.no_grad()
    def _right(self, package: Path) -> float:
        module = MILModule.from_package(package)
        function = module.function
        run = Batched(runner(function, function.block.steps, floats_of(module), function.block.outputs))
        given = inputs_of(module, [{"x": image[None]} for image in self._test.x])
        found = [out for start in range(0, len(given), BATCH) for out in run(given[start : start + BATCH])]
        chosen = torch.stack([next(iter(out.values())).argmax() for out in found])
        return 100.0 * float((chosen == self._test.y).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--images", type=int, default=1000, help="of the test [1000]")
    parser.add_argument("--train", type=int, default=2000, help="images to calibrate and to train with [2000]")
    options = parser.parse_args()
    logging.getLogger("coremltools").setLevel(logging.CRITICAL)
    logging.getLogger("mil_palettize").setLevel(logging.ERROR)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        tutorial = Tutorial(options.data, Path(folder), options.images, options.train)
        for part in (tutorial.without_data, tutorial.with_data, tutorial.pruned, tutorial.quantized):
            part()


if __name__ == "__main__":
    main()
