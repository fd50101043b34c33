"""A recurrent network whose weights have heavy tails: large ones sit in gates that are always open or closed.

Two layers of ``lstm`` are trained for some seconds to tell the next frame of made spectra; then some gates are scaled
until they saturate, and the layer behind them trained once more. Squared errors of weights say little here:
large weights decide them, and do not matter.
"""

from __future__ import annotations

from pathlib import Path

import coremltools as ct
import numpy as np
import torch
from torch import nn

from mil_palettize.torch import MILModule
from tools.accuracy.network import Place
from tools.accuracy.packages import output_snr

_BANDS, _HIDDEN, _FRAMES, _TEST = 24, 64, 20, 48
_STEPS, _BATCH = 150, 32
_SCALED, _TAIL = 0.12, (5.0, 60.0)  # part of the gates, and by how much
_OPEN = 1.5  # added to what a gate sees, of the weights' own scale: so that it stays open, or closed


class Predictor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.LSTM(_BANDS, _HIDDEN, 2, batch_first=True)
        self.last = nn.Linear(_HIDDEN, _BANDS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.layers(x)[0])


def spectra(count: int, random: np.random.Generator) -> np.ndarray:
    """float32 (count, frames + 1, bands): resonances that move over a level that comes and goes."""
    time, bands = np.arange(_FRAMES + 1)[None, :, None], np.arange(_BANDS)[None, None]
    found = np.zeros((count, _FRAMES + 1, _BANDS))
    for _ in range(3):
        start, speed, width, rate, phase = (
            random.uniform(low, high, (count, 1, 1))
            for low, high in ((0, _BANDS), (-0.4, 0.4), (1.0, 4.0), (0.1, 0.9), (0.0, 6.28))
        )
        moved = (bands - start - speed * time) / width
        found += np.exp(-np.square(moved)) * (1.0 + np.sin(rate * time + phase))
    return (found - 0.5).astype(np.float32)


def trained(seed: int = 0) -> Predictor:
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    network = Predictor()
    _train(network, random, list(network.parameters()))
    with torch.no_grad():
        for layer in range(2):
            factors = np.exp(random.uniform(*np.log(_TAIL), 4 * _HIDDEN))
            factors = torch.from_numpy(np.where(random.uniform(size=4 * _HIDDEN) < _SCALED, factors, 1.0)).float()
            for kind in ("ih", "hh"):
                getattr(network.layers, f"weight_{kind}_l{layer}").mul_(factors[:, None])
            signs = torch.from_numpy(random.choice([-1.0, 1.0], 4 * _HIDDEN)).float()
            getattr(network.layers, f"bias_ih_l{layer}").add_(signs * (factors - 1.0) * _OPEN)
    _train(network, random, list(network.last.parameters()))
    return network.eval()


def _train(network: Predictor, random: np.random.Generator, parameters: list[nn.Parameter]) -> None:
    steps = torch.optim.Adam(parameters, 5e-3)
    for _ in range(_STEPS):
        frames = torch.from_numpy(spectra(_BATCH, random))
        loss = (network(frames[:, :-1]) - frames[:, 1:]).square().mean()
        steps.zero_grad()
        loss.backward()
        steps.step()


class SaturatedNetwork:
    figures = ("output SNR, dB",)

    def __init__(self, place: Place) -> None:
        self.source = place.folder / "saturated.mlpackage"
        example = torch.zeros(1, _FRAMES, _BANDS)
        model = ct.convert(
            torch.jit.trace(trained(), example),
            inputs=[ct.TensorType("x", example.shape)],
            convert_to="mlprogram",
            minimum_deployment_target=ct.target.iOS18,
            compute_precision=ct.precision.FLOAT32,
            skip_model_load=True,
        )
        model.save(str(self.source))
        self._test = self.samples(min(_TEST, place.images), 10_000)
        module = MILModule.from_package(self.source)
        self._wanted = [module.predict(sample) for sample in self._test]

    def samples(self, count: int, seed: int) -> list[dict[str, np.ndarray]]:
        return [{"x": one[None, :-1]} for one in spectra(count, np.random.default_rng(seed))]

    def measured(self, package: Path) -> tuple[float]:
        module = MILModule.from_package(package)
        return (output_snr(self._wanted, [module.predict(sample) for sample in self._test]),)
