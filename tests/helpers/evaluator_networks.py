"""Small networks of many kinds, with what they are run on: whole programs for the evaluator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import coremltools as ct
import numpy as np
import torch
from image_networks import (
    ConvNeXt,
    Detector,
    Keypoints,
    MobileNet,
    ResNet,
    StyleTransfer,
    SuperResolution,
    UNet,
    VisionOps,
    VisionTransformer,
)
from sequence_networks import Audio, Recurrent, TorchAttention, Transformer
from torch import nn

IOS15, IOS16, IOS17, IOS18 = ct.target.iOS15, ct.target.iOS16, ct.target.iOS17, ct.target.iOS18


@dataclass(frozen=True)
class Network:
    """``inputs``: shapes of arrays from N(0, 1), or arrays."""

    make: Callable[[], nn.Module]
    inputs: Sequence[Any]
    target: Any

    def module(self) -> nn.Module:
        """The same weights every time, and statistics of batches that are not 0 and 1."""
        torch.manual_seed(0)
        module = self.make()
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm | nn.GroupNorm | nn.LayerNorm | nn.InstanceNorm2d):
                _shaken(part)
        return module.eval()

    def arrays(self) -> list[np.ndarray]:
        random = np.random.default_rng(0)
        return [
            item if isinstance(item, np.ndarray) else random.standard_normal(item).astype(np.float32)
            for item in self.inputs
        ]


def _shaken(norm: nn.Module) -> None:
    """Its parameters and statistics are not those that do nothing."""
    with torch.no_grad():
        for name, tensor in (*norm.named_parameters(), *norm.named_buffers()):
            if name in ("weight", "running_var"):
                tensor.uniform_(0.5, 1.5)
            elif tensor.is_floating_point():
                tensor.normal_(0, 0.3)


def tokens(*shape: int, count: int = 11) -> np.ndarray:
    return np.random.default_rng(1).integers(0, count, shape).astype(np.int32)


NETWORKS: dict[str, Network] = {
    "resnet": Network(lambda: ResNet(2, (4, 8, 16)), [(2, 3, 16, 16)], IOS15),
    "mobilenet": Network(MobileNet, [(1, 3, 24, 24)], IOS16),
    "convnext": Network(ConvNeXt, [(2, 3, 16, 16)], IOS17),
    "transformer": Network(Transformer, [tokens(2, 7), tokens(2, 5)], IOS15),
    "transformer_ios18": Network(Transformer, [tokens(1, 7), tokens(1, 5)], IOS18),
    "attention": Network(TorchAttention, [(2, 6, 16), (6, 6)], IOS18),
    "attention_ios16": Network(TorchAttention, [(2, 6, 16), (6, 6)], IOS16),
    "vision_transformer": Network(VisionTransformer, [(2, 3, 16, 16)], IOS17),
    "lstm": Network(lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True), [tokens(2, 6)], IOS15),
    "lstm_forward": Network(lambda: Recurrent(nn.LSTM), [tokens(2, 6)], IOS18),
    "gru": Network(lambda: Recurrent(nn.GRU, num_layers=2, bidirectional=True), [tokens(2, 6)], IOS17),
    "rnn": Network(lambda: Recurrent(nn.RNN, nonlinearity="relu"), [tokens(2, 6)], IOS16),
    "audio": Network(Audio, [(2, 1, 64)], IOS16),
    "unet": Network(UNet, [(2, 3, 16, 16), np.array([3.0, 11.0], np.float32)], IOS17),
    "super_resolution": Network(SuperResolution, [(1, 3, 8, 6)], IOS16),
    "style_transfer": Network(StyleTransfer, [(1, 3, 16, 16), (1, 3, 16, 16)], IOS18),
    "detector": Network(Detector, [(1, 3, 16, 16)], IOS17),
    "keypoints": Network(Keypoints, [(2, 3, 15, 17)], IOS16),
    "vision_ops": Network(VisionOps, [(2, 4, 6, 8)], IOS17),
}
