"""ResNet-20 and ResNet-56 on CIFAR-10 (He et al. 2015): per cent of images that are right.

The data are ``resnet20.npz`` and ``resnet56.npz`` (torch ``state_dict``), ``cifar10_train_10k.npz`` to calibrate with
and ``cifar10_test.npz`` to test on. Networks are converted with ``ct.convert`` as fp16 packages of batch 1; what was
written is run on all test images (fewer are evenly spaced: they are sorted by class) in a package of flexible batch.
"""

from __future__ import annotations

from pathlib import Path

import coremltools as ct
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from mil_palettize.torch import MILModule
from tools.accuracy.by_coremltools import original_name
from tools.accuracy.network import Place

_BLOCKS = {"resnet20": 3, "resnet56": 9}
_MEAN, _DEVIATION = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
_BATCH = 250


class CifarNetwork:
    """One of them."""

    figures = ("right, %",)

    def __init__(self, name: str, place: Place) -> None:
        self.source, self._flexible = converted(place.data, name, place.folder)
        with np.load(place.data / "cifar10_test.npz") as test:
            step = max(1, len(test["labels"]) // place.images)
            self._images, self._labels = prepared(test["images"][::step]), test["labels"][::step]
        with np.load(place.data / "cifar10_train_10k.npz") as file:
            self._train, self._classes = file["images"], file["labels"]

    def samples(self, count: int, seed: int) -> list[dict[str, np.ndarray]]:
        return [{"x": image[None]} for image in prepared(self._train[self._picked(count, seed)])]

    def labels(self, count: int, seed: int) -> list[int]:
        return [int(label) for label in self._classes[self._picked(count, seed)]]

    def _picked(self, count: int, seed: int) -> np.ndarray:
        return np.random.default_rng(seed).choice(len(self._train), count, replace=False)

    def measured(self, package: Path) -> tuple[float]:
        """With the weights and biases that were written, run in the package of flexible batch."""
        module, written = MILModule.from_package(self._flexible), MILModule.from_package(package)
        right = 0
        with torch.no_grad():
            own = module.constants()
            for written_name, value in written.constants().items():
                name = original_name(written_name)
                floats = isinstance(value, torch.Tensor) and value.is_floating_point()
                if floats and name in own and own[name].shape == value.shape:
                    own[name].copy_(value)
            for start in range(0, len(self._images), _BATCH):
                (scores,) = module(x=torch.from_numpy(self._images[start : start + _BATCH])).values()
                right += int((scores.argmax(1).numpy() == self._labels[start : start + _BATCH]).sum())
        return (100.0 * right / len(self._images),)


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


def network_of(data: Path, name: str) -> ResNet:
    """In eval mode."""
    network = ResNet(_BLOCKS[name])
    with np.load(data / f"{name}.npz") as arrays:
        network.load_state_dict({key: torch.tensor(arrays[key]) for key in arrays.files})
    return network.eval()


def converted(data: Path, name: str, folder: Path) -> tuple[Path, Path]:
    """Packages of batch 1 and of flexible batch."""
    traced = torch.jit.trace(network_of(data, name), torch.zeros(1, 3, 32, 32))
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
    return np.ascontiguousarray(((images / np.float32(255) - _MEAN) / _DEVIATION).transpose(0, 3, 1, 2))
