"""Palettes that are more than plain: made of arrays with few words, and least errors to hold them against."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
from made_palettes import make_one

from mil_palettize.algorithms.making import ArraySource, Palette
from mil_palettize.expressions.packed import Packed

ALLOWED = (1, 2, 3, 4, 6, 8)
DTYPES = (np.float16, np.float32)


def make(array: np.ndarray, mode: str = "kmeans", **options: Any) -> Palette:
    if mode in ("unique", "custom"):
        options["nbits"] = None
    options.setdefault("nbits", 2)
    return make_one(ArraySource("layer.weight", array), mode=mode, **options)


def bits(mask: np.ndarray) -> Packed:
    return Packed.pack(mask.view(np.uint8), 1)


def error_of(array: np.ndarray, decoded: np.ndarray, weights: np.ndarray | float = 1.0) -> float:
    return float(np.sum(weights * np.square(array.astype(np.float64) - decoded.astype(np.float64))))


def sample(shape: tuple[int, ...], dtype: type, seed: int = 0) -> np.ndarray:
    """Channels of the first axis of very different size."""
    rng = np.random.default_rng(seed)
    spread = np.exp(rng.standard_normal((shape[0],) + (1,) * (len(shape) - 1)))
    return (rng.standard_normal(shape) * spread * 0.05).astype(dtype)


def best_partition(x: np.ndarray, weights: np.ndarray, k: int) -> float:
    """The least weighted squared error of all partitions of the sorted values into k runs."""
    order = np.argsort(x)
    x, weights = x[order], weights[order]
    least = np.inf
    for cuts in combinations(range(1, len(x)), k - 1):
        total = 0.0
        for run, mass in zip(np.split(x, cuts), np.split(weights, cuts), strict=True):
            total += float(np.sum(mass * np.square(run - np.average(run, weights=mass))))
        least = min(least, total)
    return least


def nearest_error(x: np.ndarray, weights: np.ndarray, entries: np.ndarray) -> float:
    return float(np.sum(weights * np.square(x[:, None] - entries[None]).min(axis=1)))


def by_quantiles(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A ``lut_function`` whose entries descend."""
    lut = np.rint(np.quantile(array, [1, 0.6, 0.3, 0])) if array.dtype == np.int32 else np.quantile(array, [1, 0.5, 0])
    return lut, np.abs(array.reshape(-1, 1) - lut[None]).argmin(axis=1)


def spread(importance: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    for axis, size in enumerate(shape):
        importance = np.repeat(importance, size // importance.shape[axis], axis=axis)
    return importance
