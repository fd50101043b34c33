"""Made-up samples: seeded, of the declared kind, with the statistics that natural images have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from mil_palettize.torch.calibration.dead_leaves import dead_leaves
from mil_palettize.torch.calibration.made_up_samples import natural_samples
from mil_palettize.torch.evaluator.module import MILModule


def test_images_are_seeded_and_in_range() -> None:
    one, same, other = (dead_leaves(24, 32, 3, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert one.shape == (3, 24, 32)
    assert one.dtype == np.float32
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert one.min() >= 0.0
    assert one.max() <= 1.0


def test_power_falls_with_frequency_as_in_photographs() -> None:
    """Its amplitude is about that of 1/f: a slope of the power between -1.5 and -2.5."""
    power = np.zeros((64, 33))
    for seed in range(24):
        image = dead_leaves(64, 64, 1, np.random.default_rng(seed))[0]
        power += np.abs(np.fft.rfft2(image - image.mean())) ** 2
    frequency = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.rfftfreq(64)[None])
    inside = (frequency > 0.04) & (frequency < 0.4)
    slope = np.polyfit(np.log(frequency[inside]), np.log(power[inside]), 1)[0]
    assert -2.5 < slope < -1.5


def test_every_kind_of_input(fixtures: Path) -> None:
    image = MILModule.from_package(fixtures / "image_classifier_ios15.mlpackage")
    for sample in natural_samples(image, 2, 0):
        for name, array in sample.items():
            assert array.dtype == np.uint8, name
    tokens = MILModule.from_package(fixtures / "embedding_linear_ios16.mlpackage")
    samples = natural_samples(tokens, 20, 0)
    ids = np.concatenate([next(iter(sample.values())).reshape(-1) for sample in samples])
    rows = max(shape[0] for shape in tokens.shapes.values() if len(shape) == 2)
    assert ids.min() >= 0
    assert ids.max() < rows
    assert np.median(ids) < rows / 4  # small ids are far more frequent
    assert all(np.isfinite(value).all() for value in tokens.predict(samples[0]).values())
