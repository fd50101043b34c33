"""Sounds and features with the statistics of natural ones, from nothing but a seed.

Voices and instruments are pulses or strings of harmonics behind resonances, that begin and end, over noise whose power
falls with frequency (Voss and Clarke 1975, "1/f noise in music and speech"). Neighbours of features are alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_PERIODS = (50.0, 400.0)  # of tones, in samples: 40 to 320 Hz at 16 kHz, 110 to 880 Hz at 44.1 kHz
_LOUDNESS = (0.02, 0.7)
_LEAST = 8  # values along an axis whose neighbours are alike


def sound(length: int, random: np.random.Generator) -> np.ndarray:
    """float32 (length,) from -1 to 1, with its loudness drawn."""
    found = 0.05 * random.uniform(0.1, 1.0) * smooth_noise((length,), random)
    start = -int(random.integers(0, 4000))
    while start < length:
        duration = int(random.integers(1000, 6000))
        own = _tone(duration, random) * random.uniform(0.2, 1.0)
        first, last = max(0, start), min(length, start + duration)
        if last > first and random.uniform() < 0.85:
            found[first:last] += own[first - start : last - start]
        start += int(duration * random.uniform(0.5, 1.2))
    loudness = np.exp(random.uniform(*np.log(_LOUDNESS)))
    return np.asarray(loudness * found / max(1e-9, float(np.abs(found).max())), np.float32)


def _tone(length: int, random: np.random.Generator) -> np.ndarray:
    """Harmonics of a pitch that glides, stronger near resonances, or noise between two frequencies."""
    time = np.arange(length)
    envelope = np.sin(np.pi * (time + 0.5) / length) ** random.uniform(0.3, 2.0)
    if random.uniform() < 0.15:
        noise = np.diff(random.standard_normal(length), prepend=0.0)
        return np.asarray(0.3 * noise * envelope)
    period = np.exp(random.uniform(*np.log(_PERIODS)))
    phase = np.cumsum((1.0 + random.uniform(-0.1, 0.1) * time / length) / period) * 2.0 * np.pi
    count = max(1, min(30, int(period / 2.5)))
    numbers = np.arange(1, count + 1)
    peaks = random.uniform(0.01, 0.25, 3)
    strength = numbers ** -random.uniform(0.7, 1.6)
    strength *= 0.1 + np.exp(-np.square((numbers[:, None] / period - peaks) / 0.02)).sum(1)
    return np.asarray(np.sin(phase[None] * numbers[:, None]).T @ strength * envelope)


def features(shape: Sequence[int], random: np.random.Generator, *, positive: bool) -> np.ndarray:
    """float32. Of mean 0 and deviation 1, its level drawn; ``positive``: magnitudes of a spectrum that falls."""
    noise = smooth_noise(shape, random) + 0.5 * random.standard_normal()
    if not positive:
        return noise.astype(np.float32)
    fall = np.exp(-random.uniform(1.0, 5.0) * np.linspace(0.0, 1.0, shape[-1]))
    return np.asarray(np.exp(1.2 * noise + 0.5 * random.standard_normal(shape)) * fall, np.float32)


def smooth_noise(shape: Sequence[int], random: np.random.Generator) -> np.ndarray:
    """float64 of deviation 1, whose amplitude falls with frequency along every axis that is long enough."""
    axes = [axis for axis, size in enumerate(shape) if size >= _LEAST]
    noise = random.standard_normal(shape)
    if not axes:
        return noise
    spectrum = np.fft.fftn(noise, axes=axes)
    squares = np.zeros(shape)
    for axis in axes:
        frequency = np.fft.fftfreq(shape[axis])
        squares = squares + np.square(frequency).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    least = 1.0 / max(shape[axis] for axis in axes)
    found = np.fft.ifftn(spectrum / np.maximum(np.sqrt(squares), least) ** 0.75, axes=axes).real
    return np.asarray(found / max(float(found.std()), 1e-12))
