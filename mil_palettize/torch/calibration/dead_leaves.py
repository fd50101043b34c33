"""Images with the statistics of natural ones, from nothing: discs of all sizes that hide each other.

Sizes with a density of r⁻³ give images that look the same at every scale, with edges, as photographs do (Lee, Mumford
and Huang 2001; for training networks Baradad et al. 2021, arXiv 2106.05963). The least size and the colours are such
that pixels beside each other, and channels, correlate as they do in photographs: 0.95 and 0.88 at 224 × 224.
"""

from __future__ import annotations

import numpy as np

_LEAST = 1 / 20  # of the smaller side: the smallest radius
_LEAST_PIXELS = 3.0
_LARGEST = 1.0
_COVERED = 6.0  # how often each pixel is painted over, about
_MOST = 2000  # discs
_GRAIN = 0.03
_TINT = 0.18  # how far a channel may be from the gray of its disc


def dead_leaves(height: int, width: int, channels: int, random: np.random.Generator) -> np.ndarray:
    """One image, float32 (channels, height, width) from 0 to 1."""
    side = min(height, width)
    least, largest = max(_LEAST_PIXELS, side * _LEAST), max(2 * _LEAST_PIXELS, side * _LARGEST)
    mean_area = np.pi * 2.0 * np.log(largest / least) / (least**-2 - largest**-2)
    count = int(min(_MOST, max(40, _COVERED * height * width / mean_area)))
    uniform = random.uniform(0.0, 1.0, count)
    radii = (largest**-2 + uniform * (least**-2 - largest**-2)) ** -0.5
    rows, columns = random.uniform(0, height, count), random.uniform(0, width, count)
    image = np.empty((channels, height, width), np.float32)
    image[:] = random.uniform(0.0, 1.0, (channels, 1, 1))
    grays = random.uniform(0.0, 1.0, (count, 1))
    colors = (grays + random.uniform(-_TINT, _TINT, (count, channels))).astype(np.float32)
    for radius, row, column, color in zip(radii, rows, columns, colors, strict=True):
        _paint(image, radius, row, column, color)
    image += _pink(height, width, channels, random) * np.float32(_GRAIN)
    return np.clip(image, 0.0, 1.0)


def _paint(image: np.ndarray, radius: float, row: float, column: float, color: np.ndarray) -> None:
    top, left = max(0, int(row - radius)), max(0, int(column - radius))
    part = image[:, top : int(row + radius) + 2, left : int(column + radius) + 2]
    y = np.arange(top, top + part.shape[1])[:, None] + 0.5 - row
    x = np.arange(left, left + part.shape[2])[None, :] + 0.5 - column
    part[:, y * y + x * x <= radius * radius] = color[:, None]


def _pink(height: int, width: int, channels: int, random: np.random.Generator) -> np.ndarray:
    """Noise whose amplitude falls with frequency, of standard deviation 1."""
    spectrum = np.fft.rfft2(random.standard_normal((channels, height, width)))
    y, x = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    frequency = np.maximum(np.hypot(y, x), 1.0 / max(height, width))
    noise = np.fft.irfft2(spectrum / frequency, s=(height, width))
    return np.asarray(noise / max(float(noise.std()), 1e-12), np.float32)
