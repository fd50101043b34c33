"""The elements of a weight that count for each of its look-up tables, and how much."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mil_palettize.algorithms.palette import Request
from mil_palettize.algorithms.source import NonFiniteError
from mil_palettize.errors import AlgorithmError

_NO_CHANNELS = np.empty(0, np.int32)
_NO_WEIGHTS = np.empty(0)


@dataclass(frozen=True)
class Elements:
    """What one look-up table stands for, in C order.

    ``stored``: (n,), of the weight's dtype. ``channels``: int32 (n,), each element's index along the scale axis; empty
    without scales. ``weights``: float64 (n,), positive; empty where all are 1.
    """

    stored: np.ndarray
    channels: np.ndarray
    weights: np.ndarray

    @cached_property
    def values(self) -> np.ndarray:
        """float32 (n,), which holds float16, int8 and uint8 exactly."""
        return self.stored.astype(np.float32, copy=False)

    @property
    def patterns(self) -> np.ndarray:
        """The bits of a dtype of at most 16 of them, unsigned (n,)."""
        return self.stored.view(f"u{self.stored.dtype.itemsize}")


@dataclass(frozen=True)
class Weight:
    """A whole weight in memory, with what says which of its elements count, and how much.

    ``mask``: bool, of the array's shape; None where all count. ``importance``: positive float64 of that shape, the
    largest 1; None where all are the same. ``largest_importance``: by which it was divided. ``scale_axis``: not
    negative, None without scales. ``axis`` and ``groups``: of the tables.
    """

    array: np.ndarray
    mask: np.ndarray | None
    importance: np.ndarray | None
    largest_importance: float
    scale_axis: int | None
    axis: int
    groups: int

    @property
    def channels(self) -> int:
        """Scales, 1 without a scale axis."""
        return 1 if self.scale_axis is None else int(self.array.shape[self.scale_axis])

    @property
    def scale_shape(self) -> tuple[int, ...]:
        """Of the scales as they are stored."""
        return tuple(self.channels if axis == self.scale_axis else 1 for axis in range(self.array.ndim))

    def part(self, array: np.ndarray, group: int) -> np.ndarray:
        """The view of a group of an array of the weight's shape."""
        size = self.array.shape[self.axis] // self.groups
        return array[(slice(None),) * self.axis + (slice(group * size, (group + 1) * size),)]

    def chosen(self, array: np.ndarray, group: int) -> np.ndarray:
        """The elements of a group that count, 1-D."""
        part = self.part(array, group)
        return part.reshape(-1) if self.mask is None else part[self.part(self.mask, group)]

    def spread(self, scales: np.ndarray) -> np.ndarray:
        """A read-only view of one number per channel as an array of the weight's shape."""
        return np.broadcast_to(scales.reshape(self.scale_shape), self.array.shape)

    def elements(self, group: int) -> Elements:
        """Those of one table; none at all where the mask leaves none."""
        stored = self.chosen(self.array, group)
        channels, weights = _NO_CHANNELS, _NO_WEIGHTS
        if self.scale_axis is not None:
            channels = self.chosen(self.spread(np.arange(self.channels, dtype=np.int32)), group)
        if self.importance is not None:
            weights = self.chosen(self.importance, group)
        return Elements(stored, channels, weights)

    def put(self, indices: np.ndarray, group: int, chosen: np.ndarray) -> None:
        """Write the indices (1-D) of the elements that count into ``indices``, of the weight's shape."""
        part = self.part(indices, group)
        if self.mask is None:
            part[...] = chosen.reshape(part.shape)
        else:
            part[self.part(self.mask, group)] = chosen

    def first_scales(self) -> np.ndarray:
        """The largest magnitude of every channel, float64, at least the least normal number of the weight's dtype.

        A channel of zeros has that least one: with it any entry decodes to next to nothing, and none is spent on it.
        """
        assert self.scale_axis is not None
        others = tuple(axis for axis in range(self.array.ndim) if axis != self.scale_axis)
        magnitudes = np.abs(self.array)
        if self.mask is not None:
            magnitudes[~self.mask] = 0
        largest = magnitudes.max(axis=others, initial=0).astype(np.float64)
        return np.maximum(largest, float(np.finfo(self.array.dtype).tiny))


def read_weight(request: Request) -> Weight:
    """Read the weight of a request whole. Raises ``NonFiniteError``, and ``AlgorithmError`` for a wrong request."""
    source = request.source
    array = source.read()
    mask = None
    if request.mask is not None:
        if request.mask.nbits != 1 or request.mask.shape != request.indices_shape:
            what = "element" if request.cluster_dim == 1 else f"vector of {request.cluster_dim} along {request.axis}"
            raise AlgorithmError(
                f"weight '{source.name}' of shape {list(array.shape)} has a mask of {request.mask.nbits} bits and "
                f"shape {list(request.mask.shape)}; a mask has 1 bit for every {what}"
            )
        mask = np.repeat(request.mask.unpack().view(bool), request.cluster_dim, axis=request.axis)
    _check_finite(source.name, array, mask)
    importance, largest = None, 1.0
    if request.importance is not None:
        importance = _spread_importance(source.name, request.importance, array.shape)
        largest = float(importance.max())
        importance /= largest
        importance = np.broadcast_to(importance, array.shape)
    return Weight(array, mask, importance, largest, request.scale_axis, request.axis, request.groups)


def _check_finite(name: str, array: np.ndarray, mask: np.ndarray | None) -> None:
    if array.dtype.kind != "f":
        return
    bad = ~np.isfinite(array) if array.dtype != np.float16 else array.view(np.uint16) & 0x7C00 == 0x7C00
    if mask is not None:
        bad &= mask
    if bad.any():
        nan = int(np.count_nonzero(np.isnan(array[bad])))
        raise NonFiniteError(name, nan, int(np.count_nonzero(bad)) - nan)


def _spread_importance(name: str, importance: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """float64, every size that of the weight or 1."""
    told = f"weight '{name}' of shape {list(shape)}: importance"
    if importance.dtype.kind != "f":
        raise AlgorithmError(f"{told} is {importance.dtype}; use positive floats")
    fits = importance.ndim == len(shape)
    if not fits or any(n < 1 or size % n for n, size in zip(importance.shape, shape, strict=True)):
        raise AlgorithmError(f"{told} has shape {list(importance.shape)}; each of its sizes divides the weight's")
    if not (importance.min() > 0 and importance.max() < np.inf):  # false of NaN, which either gives if there is one
        bad = ~(np.isfinite(importance) & (importance > 0))
        raise AlgorithmError(f"{told} has an element {importance[bad][0]}; all are positive and finite")
    spread = importance.astype(np.float64)
    for axis, (count, size) in enumerate(zip(importance.shape, shape, strict=True)):
        if count not in (1, size):
            spread = np.repeat(spread, size // count, axis=axis)
    return spread
