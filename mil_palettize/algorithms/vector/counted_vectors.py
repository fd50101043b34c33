"""The vectors of one look-up table of which some count, their elements more or less, and channels have scales."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from mil_palettize.algorithms.palette import Request
from mil_palettize.algorithms.scalar.counted_elements import Weight
from mil_palettize.algorithms.vector.vectors import VectorSet


@dataclass(frozen=True, eq=False)
class CountedVectors(VectorSet):
    """What a table has to hold: the elements divided by the scales of their channels; an error counts by the square of
    the scale and by the importance.

    ``elements``: float32 (n, dim), as in the weight. ``channels``: int32 (n, dim), the index of each along the scale
    axis, and ``scales``: float64 numbers of the weight's dtype, one for each channel; both None without scales.
    ``importance``: float64 (n, dim), None where all count the same. ``rounded``: whether quotients are rounded to what
    a table holds. ``weight_dtype``: of the weight.
    """

    name: str
    weight_dtype: np.dtype
    elements: np.ndarray
    channels: np.ndarray | None
    importance: np.ndarray | None
    pmap: Callable[..., Iterable[Any]]
    scales: np.ndarray | None = None
    rounded: bool = False

    @property
    def dtype(self) -> np.dtype:
        return self.weight_dtype

    @property
    def dim(self) -> int:
        return int(self.elements.shape[1])

    @property
    def count(self) -> int:
        return len(self.elements)

    def read(self, picks: np.ndarray) -> np.ndarray:
        points = self.elements[picks].astype(np.float64)
        if self.scales is not None and self.channels is not None:
            points /= self.scales[self.channels[picks]]
            if self.rounded:
                points = points.astype(self.dtype).astype(np.float64)
        return points + 0.0

    def weights(self, picks: np.ndarray) -> np.ndarray:
        if self.scales is None or self.channels is None:
            return np.ones(len(picks)) if self.importance is None else self.importance[picks]
        squares = np.square(self.scales / self.scales.max())[self.channels[picks]]
        return squares if self.importance is None else squares * self.importance[picks]

    def decoded(self, values: np.ndarray, picks: np.ndarray) -> np.ndarray:
        """What these values of a table, float64 (len(picks), dim), come to with the scales: float64."""
        if self.scales is None or self.channels is None:
            return values
        with np.errstate(over="ignore"):
            products = values * self.scales[self.channels[picks]]
            return np.asarray(products.astype(self.dtype).astype(np.float64))

    def per_channel(self, amounts: np.ndarray, picks: np.ndarray) -> np.ndarray:
        """Sums of amounts (len(picks), dim) over each channel, float64 (channels,)."""
        assert self.scales is not None
        assert self.channels is not None
        flat = self.channels[picks].reshape(-1)
        return np.bincount(flat, amounts.reshape(-1), minlength=len(self.scales))

    @cached_property
    def largest(self) -> float:
        """The largest magnitude that a table has to hold, 0 without vectors."""
        return max((float(np.abs(points).max()) for _, points, _ in self.windows(0, self.count)), default=0.0)

    def scaled(self, scales: np.ndarray | None) -> CountedVectors:
        return replace(self, scales=scales)


def counted_vectors(request: Request, weight: Weight, *, rounded: bool = False) -> list[CountedVectors]:
    """Those of every table, without scales yet; vectors that a mask leaves out are not among them."""
    channels = None
    if weight.scale_axis is not None:
        channels = weight.spread(np.arange(weight.channels, dtype=np.int32))
    inside = request.pmap if request.groups == 1 else map
    found = []
    for group in range(request.groups):
        parts = (weight.array, weight.mask, channels, weight.importance)
        rows, left, own, importance = (
            None if array is None else vectors_of(weight.part(array, group), request.axis, request.cluster_dim)
            for array in parts
        )
        assert rows is not None
        kept = None if left is None else left[:, 0]
        elements = rows.astype(np.float32, copy=False)
        if kept is not None:
            elements = elements[kept]
            own, importance = (None if part is None else part[kept] for part in (own, importance))
        name, dtype = request.source.name, request.source.dtype
        found.append(CountedVectors(name, dtype, elements, own, importance, inside, rounded=rounded))
    return found


def vectors_of(part: np.ndarray, axis: int, dim: int) -> np.ndarray:
    """Every ``dim`` consecutive elements along an axis: contiguous (n, dim)."""
    outer, inner = math.prod(part.shape[:axis]), math.prod(part.shape[axis + 1 :])
    split = part.reshape(outer, part.shape[axis] // dim, dim, inner)
    return np.ascontiguousarray(split.transpose(0, 1, 3, 2)).reshape(-1, dim)
