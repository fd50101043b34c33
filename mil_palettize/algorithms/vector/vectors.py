"""The vectors of one look-up table, and how much each counts, read in windows so that only the weight is held whole.

Every ``dim`` consecutive elements along an axis are a vector, counted in C order of the remaining positions: the layout
of ``constexpr_lut_to_dense`` with a ``vector_axis``. Compiled loops run without the GIL, every sum in a fixed order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mil_palettize.algorithms.compiled.coreset import coreset
from mil_palettize.algorithms.compiled.counting import HALF_VALUES
from mil_palettize.algorithms.compiled.jit import compiled
from mil_palettize.algorithms.source import frozen

WINDOW = 1 << 15  # vectors that are looked at together
Window = tuple[int, np.ndarray, np.ndarray]  # number of the first vector, points (n, dim), weights (n,) or (n, dim)
_SPANS = 16  # parts for threads; the same number for any number of threads


@compiled
def _gather_half(blocks, group, picks, half_values, out):  # type: ignore[no-untyped-def]
    """Write the vectors number ``picks`` (ascending int64) of a group; ``blocks``: uint16 patterns
    (outer, groups, rows, dim, inner)."""
    rows, inner = blocks.shape[2], blocks.shape[4]
    i = r = o = 0
    before = -2
    for p in range(len(picks)):
        i += 1
        if picks[p] != before + 1 or i == inner:
            i = picks[p] % inner
            r = picks[p] // inner % rows
            o = picks[p] // inner // rows
        before = picks[p]
        for t in range(blocks.shape[3]):
            out[p, t] = half_values[blocks[o, group, r, t, i]] + 0.0


@compiled
def _gather_single(blocks, group, picks, out):  # type: ignore[no-untyped-def]
    """``_gather_half`` of float32 blocks."""
    rows, inner = blocks.shape[2], blocks.shape[4]
    i = r = o = 0
    before = -2
    for p in range(len(picks)):
        i += 1
        if picks[p] != before + 1 or i == inner:
            i = picks[p] % inner
            r = picks[p] // inner % rows
            o = picks[p] // inner // rows
        before = picks[p]
        for t in range(blocks.shape[3]):
            out[p, t] = np.float64(blocks[o, group, r, t, i]) + 0.0


@compiled
def _sum_of_squares(points):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(points.shape[0]):
        for t in range(points.shape[1]):
            total += points[i, t] * points[i, t]
    return total


@compiled
def _add_distinct(points, bits, found, count, slots):  # type: ignore[no-untyped-def]
    """Append new vectors to ``found``; returns how many there are, at most ``len(found)``.

    ``bits``: the points as uint64. ``slots``: a hash table, int32, a power of two well above ``len(found)``; -1 empty.
    """
    for i in range(points.shape[0]):
        code = np.uint64(0)
        for t in range(points.shape[1]):
            code = (code ^ bits[i, t]) * np.uint64(0x9E3779B97F4A7C15)
            code ^= code >> np.uint64(29)
        slot = np.int64(code & np.uint64(len(slots) - 1))
        while True:
            index = slots[slot]
            if index < 0:
                break
            same = True
            for t in range(points.shape[1]):
                same &= found[index, t] == points[i, t]
            if same:
                break
            slot = (slot + 1) & (len(slots) - 1)
        if index < 0:
            found[count] = points[i]
            slots[slot] = count
            count += 1
            if count == len(found):
                break
    return count


class VectorSet(ABC):
    """What algorithms see of the vectors of one table.

    ``name``: of the weight, for messages. ``dtype``: that entries are stored in. ``dim``: of a vector; ``count`` of
    them. ``pmap``: like ``map``, for spans of the vectors.
    """

    name: str
    pmap: Callable[..., Iterable[Any]]

    @property
    @abstractmethod
    def dtype(self) -> np.dtype: ...

    @property
    @abstractmethod
    def dim(self) -> int: ...

    @property
    @abstractmethod
    def count(self) -> int: ...

    @abstractmethod
    def read(self, picks: np.ndarray) -> np.ndarray:
        """Vectors by number (ascending int64): float64 (len(picks), dim), -0.0 as 0.0."""

    @abstractmethod
    def weights(self, picks: np.ndarray) -> np.ndarray:
        """How much they count, positive float64: (len(picks),), or (len(picks), dim) where elements differ."""

    def sample(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """All vectors, or a coreset of about ``size`` of them, and their weights. They are not all the same."""
        if self.count <= size:
            picks = np.arange(self.count)
            return self.read(picks), self.weights(picks)

        def windows() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for _, points, weights in self.windows(0, self.count):
                yield points, weights

        return coreset(windows, self.dim, size)

    def windows(self, first: int, last: int) -> Iterator[Window]:
        """Consecutive vectors from ``first`` to ``last`` - 1."""
        for start in range(first, last, WINDOW):
            picks = np.arange(start, min(start + WINDOW, last))
            yield start, self.read(picks), self.weights(picks)

    def over_spans(self, work: Callable[[int, int], Any]) -> list[Any]:
        """Results of ``work(first, last)`` for consecutive spans of all vectors, in order."""
        windows = -(-self.count // WINDOW)
        size = max(1, -(-windows // _SPANS)) * WINDOW
        starts = range(0, self.count, size)
        return list(self.pmap(lambda start: work(start, min(start + size, self.count)), starts))

    def distinct(self, limit: int) -> np.ndarray | None:
        """The distinct vectors in lexicographic order, float64 (count, dim); None if there are more than ``limit``."""
        found = np.empty((limit + 1, self.dim))
        slots = np.full(1 << (4 * limit).bit_length(), -1, np.int32)
        count = 0
        for start in range(0, self.count, WINDOW):
            points = self.read(np.arange(start, min(start + WINDOW, self.count)))
            count = _add_distinct(points, points.view(np.uint64), found, count, slots)
            if count > limit:
                return None
        return np.unique(found[:count], axis=0)


@dataclass(frozen=True)
class Vectors(VectorSet):
    """``blocks``: the weight, C-contiguous, as (outer, groups, rows, dim, inner); these are the vectors of ``group``,
    which all count the same."""

    name: str
    blocks: np.ndarray
    group: int
    pmap: Callable[..., Iterable[Any]]

    @property
    def dim(self) -> int:
        return int(self.blocks.shape[3])

    @property
    def count(self) -> int:
        return int(self.blocks.shape[0] * self.blocks.shape[2] * self.blocks.shape[4])

    @property
    def dtype(self) -> np.dtype:
        return self.blocks.dtype

    def read(self, picks: np.ndarray) -> np.ndarray:
        out = np.empty((len(picks), self.dim))
        if self.dtype == np.float16:
            _gather_half(frozen(self.blocks.view(np.uint16)), self.group, picks, HALF_VALUES, out)
        else:
            _gather_single(frozen(self.blocks), self.group, picks, out)
        return out

    def weights(self, picks: np.ndarray) -> np.ndarray:
        return np.ones(len(picks))

    def signals(self) -> list[float]:
        """Sums of squares, whose sum is not finite if a value is not."""

        def work(first: int, last: int) -> list[float]:
            return [_sum_of_squares(points) for _, points, _ in self.windows(first, last)]

        return [signal for span in self.over_spans(work) for signal in span]
