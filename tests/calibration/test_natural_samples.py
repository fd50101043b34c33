"""Made-up sounds, features, masks and states: what they have in common with natural ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.proto import MIL_pb2 as MIL
from mil_messages import block, const, function, op, write_package

torch = pytest.importorskip("torch")

from mil_palettize.torch.calibration.made_up_samples import fed_back, natural_samples  # noqa: E402
from mil_palettize.torch.calibration.natural_sound import features, smooth_noise, sound  # noqa: E402
from mil_palettize.torch.evaluator.module import MILModule  # noqa: E402


def test_sounds_are_seeded_and_their_power_lies_at_low_frequencies() -> None:
    one, two = (sound(8000, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    made = [sound(8000, np.random.default_rng(seed)) for seed in range(20)]
    peaks = [float(np.abs(x).max()) for x in made]
    assert 0.015 < min(peaks) < 0.1 < max(peaks) <= 0.7 + 1e-6
    low = []
    for x in made:
        power = np.square(np.abs(np.fft.rfft(x)))
        low.append(power[: len(power) // 4].sum() / power.sum())
    assert np.median(low) > 0.8  # of white noise a quarter


def test_neighbours_of_features_are_alike() -> None:
    noise = smooth_noise((4, 50, 80), np.random.default_rng(0))
    assert np.corrcoef(noise[:, :, 1:].ravel(), noise[:, :, :-1].ravel())[0, 1] > 0.4
    assert np.corrcoef(noise[:, 1:].ravel(), noise[:, :-1].ravel())[0, 1] > 0.4
    magnitudes = features((1, 1, 257), np.random.default_rng(0), positive=True)
    assert magnitudes.min() > 0
    signed = features((3, 20, 80), np.random.default_rng(0), positive=False)
    assert signed.min() < 0 < signed.max()


def summed(folder: Path, length: int, *, logarithm: bool) -> MILModule:
    """A matrix behind one float input, or behind its logarithm."""
    weight = np.random.default_rng(0).standard_normal((3, length)).astype(np.float32)
    first = [const("eps", np.float32(1e-6)), op("log", "z", {"x": "x", "epsilon": "eps"})] if logarithm else []
    ops = [*first, const("w", weight), op("linear", "y", {"x": "z" if logarithm else "x", "weight": "w"})]
    made = function({"CoreML7": block(*ops, outputs=["y"])}, [("x", (1, 2 if logarithm else 1, length))])
    return MILModule.from_package(
        write_package(folder / "x.mlpackage", MIL.Program(version=1, functions={"main": made}))
    )


def test_long_rows_are_sounds(tmp_path: Path) -> None:
    samples = natural_samples(summed(tmp_path, 2000, logarithm=False), 8, 0)
    assert max(float(np.abs(sample["x"]).max()) for sample in samples) <= 0.7 + 1e-6


def test_what_only_takes_positive_numbers_gets_magnitudes(tmp_path: Path) -> None:
    samples = natural_samples(summed(tmp_path, 64, logarithm=True), 8, 0)
    assert min(float(sample["x"].min()) for sample in samples) > 0.0


class Recurrent:
    """Stands for a network: an input, and states."""

    def __init__(self, outputs: dict[str, tuple[int, ...]]) -> None:
        self.outputs = outputs

    def predict(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {name: np.zeros(shape, np.float32) for name, shape in self.outputs.items()}


@pytest.mark.parametrize(
    ("inputs", "outputs", "found"),
    [
        (
            {"x": (1, 9), "h": (1, 4), "c": (1, 4)},
            {"y": (1, 9, 1), "new_h": (1, 4), "new_c": (1, 4)},
            {"h": "new_h", "c": "new_c"},
        ),
        ({"x": (1, 9), "states_in": (2, 4)}, {"y": (1, 9), "Identity_1": (2, 4)}, {"states_in": "Identity_1"}),
        ({"latents": (1, 4), "time": (1, 1)}, {"noise": (1, 4)}, {}),  # the output is no next value
        ({"x": (1, 4)}, {"x_new": (1, 4)}, {}),  # nothing would be left to make up
        ({"x": (1, 9), "states": (2, 4)}, {"one": (2, 4), "two": (2, 4)}, {}),  # which of them is not known
    ],
)  # fmt: skip
def test_states_that_are_fed_back(inputs: Any, outputs: Any, found: dict[str, str]) -> None:
    sample = {name: np.zeros(shape, np.float32) for name, shape in inputs.items()}
    assert fed_back(Recurrent(outputs), sample) == found
